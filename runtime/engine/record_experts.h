// SPDX-License-Identifier: Apache-2.0
// Experts that have no engine: computed by the CPU from their record in the pack, which is read
// again for each use, a tile at a time. Slow, and right.
#pragma once
#include <cstdint>
#include <memory>
#include <span>

#include "runtime/backend/backend.h"
#include "runtime/base/status.h"
#include "runtime/store/pack.h"

namespace adapmoe {

class RecordExperts {
 public:
  // `pack` outlives this; `cpu` takes its experts.
  RecordExperts(const Pack& pack, std::unique_ptr<Backend> cpu);

  // Of host memory: one tile, and the CPU's scratch.
  int64_t bytes() const;
  // Before run(): zeroed, page-aligned, bytes() long.
  void use_memory(std::span<std::byte> memory);

  // The outputs of expert `id` for rows of `x`, in rows of `out` that begin at `first_output`.
  // Errors: kReadError, kPackError for a tile that is damaged.
  Status run(ExpertId id, Rows x, std::span<const int32_t> rows, int64_t first_output, Rows out);

 private:
  const Pack& pack_;
  std::unique_ptr<Backend> cpu_;
  std::span<std::byte> tile_;
};

}  // namespace adapmoe
