// SPDX-License-Identifier: Apache-2.0
// Single values of a packed matrix, for the embedding table: one row per token.
#pragma once
#include <cstddef>
#include <cstdint>

#include "runtime/base/device_code.h"
#include "runtime/base/half.h"
#include "runtime/base/packed_layout.h"

namespace adapmoe {

// Where one row of a packed matrix lies: lane `lane` of the block of 16 rows at `block`.
struct PackedRow {
  DType dtype = DType::kF32;
  const std::byte* block = nullptr;
  int64_t scale_bytes = 0;
  int64_t group_size = 0;
  int64_t lane = 0;
};

// Its value in column `k`.
ADAPMOE_HOST_DEVICE inline float packed_value(const PackedRow& row, int64_t k) {
  const auto* halves = reinterpret_cast<const uint16_t*>(row.block);
  const auto* quants = reinterpret_cast<const uint8_t*>(row.block + row.scale_bytes);
  switch (row.dtype) {
    case DType::kInt4: {
      const uint8_t byte = quants[(k / 8 * 16 + row.lane) * 4 + k % 4];
      const int q = (k % 8 < 4 ? byte & 15 : byte >> 4) - 8;
      return static_cast<float>(q) * half_to_float(halves[k / row.group_size * 16 + row.lane]);
    }
    case DType::kInt8: {
      const auto q = static_cast<int8_t>(quants[(k / 4 * 16 + row.lane) * 4 + k % 4]);
      return static_cast<float>(q) * half_to_float(halves[k / row.group_size * 16 + row.lane]);
    }
    case DType::kF16: return half_to_float(halves[k * 16 + row.lane]);
    case DType::kF32: return reinterpret_cast<const float*>(row.block)[k * 16 + row.lane];
  }
  return 0.0F;
}

}  // namespace adapmoe
