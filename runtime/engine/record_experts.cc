// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/record_experts.h"

#include <utility>

#include "runtime/base/types.h"

namespace adapmoe {

RecordExperts::RecordExperts(const Pack& pack, std::unique_ptr<Backend> cpu)
    : pack_(pack), cpu_(std::move(cpu)) {}

int64_t RecordExperts::bytes() const {
  return pack_.experts().tile_bytes + align_up(cpu_->scratch_bytes(), kPageBytes);
}

void RecordExperts::use_memory(std::span<std::byte> memory) {
  const auto tile = static_cast<size_t>(pack_.experts().tile_bytes);
  tile_ = memory.first(tile);
  cpu_->set_scratch(memory.subspan(tile, static_cast<size_t>(cpu_->scratch_bytes())));
}

Status RecordExperts::run(ExpertId id, Rows x, std::span<const int32_t> rows, int64_t first_output,
                          Rows out) {
  cpu_->begin_experts(x);
  for (int64_t t = 0; t < pack_.experts().tiles; ++t) {
    ADAPMOE_RETURN_IF_ERROR(pack_.expert_file().read_at(pack_.tile_offset(id, t), tile_));
    ADAPMOE_RETURN_IF_ERROR(pack_.check_tile(id, t, tile_));
    const std::byte* tile = tile_.data();
    const ExpertOp op{std::span(&tile, 1), t, rows, first_output};
    cpu_->gate_up_proj(std::span(&op, 1));
    cpu_->down_proj(std::span(&op, 1), out);
  }
  return {};
}

}  // namespace adapmoe
