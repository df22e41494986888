// SPDX-License-Identifier: Apache-2.0
// Some experts of a pack on a backend, without a session around them: to look at what they compute
// and how long they take.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/backend/expert_engines.h"
#include "runtime/base/status.h"
#include "runtime/memory/arena.h"
#include "runtime/store/pack.h"

namespace adapmoe {

class ExpertBench {
 public:
  // Reads the experts `ids`, in memory of its own. For up to `max_rows` rows. Errors: the
  // backend's, kReadError, kBudgetError.
  static Result<ExpertBench> make(const Pack& pack, std::span<const ExpertId> ids, int64_t max_rows,
                                  const std::string& backend, ExpertPath path);
  // The same by the engines of the pack at `pack_dir`, on the GPU. Errors: kEngineError too.
  static Result<ExpertBench> make_of_engines(const Pack& pack, const std::string& pack_dir,
                                             std::span<const ExpertId> ids, int64_t max_rows);

  std::string_view backend() const { return backend_->name(); }
  const Rows& input() const { return input_; }    // [max_rows, hidden_size], zero at first
  const Rows& output() const { return output_; }  // the same

  // Lets the backend see what was written to input. Errors: the backend's.
  Status send_input();
  // output = expert `index` of `ids` on the first `rows` rows of input. Errors: the backend's.
  Status run(size_t index, int64_t rows);

 private:
  ExpertBench(Arena arena, std::unique_ptr<Backend> backend)
      : arena_(std::move(arena)), backend_(std::move(backend)) {}
  // Without experts yet; `expert_bytes` are left in the arena for them.
  static Result<ExpertBench> make_empty(const Pack& pack, std::unique_ptr<Backend> backend,
                                        int64_t max_rows, int64_t expert_bytes);
  Status read_tiles(const Pack& pack, ExpertId id);
  Status send(std::span<const std::byte> bytes);

  Arena arena_;
  std::unique_ptr<Backend> backend_;  // uses the arena until its end
  Rows input_, output_;
  std::vector<int32_t> row_index_;
  std::vector<std::vector<const std::byte*>> tiles_;
};

// Seconds that one expert takes for one row: the median of some rounds over as many experts as one
// token has. `experts`: "w4a8", "w4a16" or "tensorrt". Errors: as ExpertBench::make().
Result<double> time_expert(const std::string& pack_dir, const std::string& backend,
                           const std::string& experts);

// What can compute experts here.
struct RunnablePaths {
  std::vector<std::string> names;  // as time_expert() takes them, the exact one first
  std::string without_engines;     // why the engines that the pack has cannot be used; else empty
};
// Errors: those of opening the pack.
Result<RunnablePaths> runnable_expert_paths(const std::string& pack_dir,
                                            const std::string& backend);

}  // namespace adapmoe
