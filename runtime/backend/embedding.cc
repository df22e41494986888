// SPDX-License-Identifier: Apache-2.0
#include "runtime/backend/embedding.h"

#include "runtime/base/half.h"

namespace adapmoe {
namespace {

// Row `row` of a packed matrix as floats: lane row % 16 of its block.
void dequantize_row(const Matrix& m, int64_t row, float* out) {
  const PackedShape& s = m.shape;
  const std::byte* block = m.data + row / kBlockRows * s.block_bytes();
  const int64_t lane = row % kBlockRows;
  const auto* scales = reinterpret_cast<const uint16_t*>(block);
  const auto* quants = reinterpret_cast<const uint8_t*>(block + s.scale_bytes());
  for (int64_t k = 0; k < s.cols; ++k) {
    switch (s.dtype) {
      case DType::kInt4: {
        const uint8_t byte = quants[(k / 8 * 16 + lane) * 4 + k % 4];
        const int q = (k % 8 < 4 ? byte & 15 : byte >> 4) - 8;
        out[k] = static_cast<float>(q) * half_to_float(scales[k / s.group_size * 16 + lane]);
        break;
      }
      case DType::kInt8: {
        const auto q = static_cast<int8_t>(quants[(k / 4 * 16 + lane) * 4 + k % 4]);
        out[k] = static_cast<float>(q) * half_to_float(scales[k / s.group_size * 16 + lane]);
        break;
      }
      case DType::kF16: out[k] = half_to_float(scales[k * 16 + lane]); break;
      case DType::kF32: out[k] = reinterpret_cast<const float*>(block)[k * 16 + lane]; break;
    }
  }
}

}  // namespace

void embed_rows(const Matrix& table, std::span<const int32_t> ids, Rows out) {
  for (size_t i = 0; i < ids.size(); ++i) {
    dequantize_row(table, ids[i], out.row(static_cast<int64_t>(i)));
  }
}

}  // namespace adapmoe
