// SPDX-License-Identifier: Apache-2.0
// A backend with memory of its own, as a session gives it, and inputs drawn into it that are the
// same on every machine.
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/backend/backend.h"
#include "runtime/memory/arena.h"
#include "runtime/tools/kernel_inputs.h"

namespace adapmoe {

inline constexpr int64_t kPositions = 300;  // of the KV cache

// Of a small model: 2 of 4 experts, of 3 tiles; up to 70 rows.
BackendShape operator_shape(DType experts, int64_t group, bool kv_f16, int64_t head_dim);

class OperatorBench {
 public:
  static constexpr int64_t kBytes = int64_t{32} << 20;  // for what a case draws

  // `plain`: for the result to compare with, see routes(). Errors: the backend's own.
  static Result<OperatorBench> make(const std::string& backend, const BackendShape& shape,
                                    bool plain);

  // After everything that its next operator reads has been drawn: uploads that, where the device
  // has memory of its own.
  Backend& backend();
  const BackendShape& shape() const { return shape_; }
  Random& random() { return random_; }
  // Whether the case is to let the backend route, and not to give its operators what the CPU's gate
  // decides.
  bool routes() const { return !plain_ && backend_->max_resident_rows() > 0; }

  // Zeros, for the case to write before the next call of backend().
  template <typename T>
  std::span<T> take(int64_t count) {
    const std::span<std::byte> bytes = arena_.carve(count * static_cast<int64_t>(sizeof(T)));
    drawn_ = {drawn_.empty() ? bytes.data() : drawn_.data(), bytes.data() + bytes.size()};
    return {reinterpret_cast<T*>(bytes.data()), static_cast<size_t>(count)};
  }
  // Values around 1; the padding is zero.
  Rows rows(int64_t count, int64_t width);
  // Any weights, with scales below 2^-5.
  Matrix matrix(const PackedShape& shape);
  std::span<std::byte> tile();  // of an expert

  // Waits until the host can read what operators wrote to `bytes`.
  void fetch(std::span<std::byte> bytes);
  // Adds to the result what the host has.
  template <typename T>
  void add(std::span<T> values) {
    const auto bytes = std::as_bytes(values);
    result_.insert(result_.end(), bytes.begin(), bytes.end());
  }
  template <typename T>
  void keep(std::span<T> values) {
    fetch(std::as_writable_bytes(values));
    add(values);
  }
  void keep(Rows rows);
  std::vector<std::byte> take_result() { return std::move(result_); }

  // The first error is that of the case.
  void check(const Status& status);
  const Status& status() const { return status_; }

 private:
  OperatorBench(const BackendShape& shape, Arena arena, std::unique_ptr<Backend> backend,
                bool plain)
      : shape_(shape), plain_(plain), arena_(std::move(arena)), backend_(std::move(backend)) {}
  void fill(const PackedShape& shape, std::span<std::byte> data);

  BackendShape shape_;
  bool plain_;
  Arena arena_;
  std::unique_ptr<Backend> backend_;  // uses the arena until its end
  std::span<std::byte> drawn_;        // not uploaded yet
  Random random_{1};
  Status status_;
  std::vector<std::byte> result_;
};

}  // namespace adapmoe
