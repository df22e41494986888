// SPDX-License-Identifier: Apache-2.0
#include "runtime/store/packing_error.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "runtime/base/check.h"
#include "runtime/base/half.h"

namespace adapmoe {
namespace {

float load_half(const uint8_t* p) {
  uint16_t half = 0;
  std::memcpy(&half, p, sizeof(half));
  return half_to_float(half);
}

// The integer at column `col` of a lane whose words begin at `words`.
int quant_at(const uint8_t* words, DType dtype, int64_t col) {
  if (dtype == DType::kInt8) {
    return static_cast<int8_t>(words[col / 4 * kBlockRows * 4 + col % 4]);
  }
  const uint8_t byte = words[col / 8 * kBlockRows * 4 + col % 4];
  return (col % 8 < 4 ? byte & 15 : byte >> 4) - 8;
}

// The first columns of one row: `block` is the block that holds it, `lane` its place there.
void unpack_row(const uint8_t* block, int64_t lane, const PackedShape& shape,
                std::span<float> row) {
  const auto cols = static_cast<int64_t>(row.size());
  float* out = row.data();
  if (shape.dtype == DType::kF32) {
    for (int64_t c = 0; c < cols; ++c) {
      std::memcpy(out + c, block + (c * kBlockRows + lane) * 4, 4);
    }
    return;
  }
  if (shape.dtype == DType::kF16) {
    for (int64_t c = 0; c < cols; ++c) out[c] = load_half(block + (c * kBlockRows + lane) * 2);
    return;
  }
  const uint8_t* words = block + shape.scale_bytes() + lane * 4;
  for (int64_t first = 0; first < cols; first += shape.group_size) {
    const int64_t group = first / shape.group_size;
    const float scale = load_half(block + (group * kBlockRows + lane) * 2);
    const int64_t end = std::min(first + shape.group_size, cols);
    for (int64_t c = first; c < end; ++c) {
      out[c] = static_cast<float>(quant_at(words, shape.dtype, c)) * scale;
    }
  }
}

}  // namespace

PackingError packing_error(std::span<const uint8_t> data, const PackedShape& packed,
                           MatrixView weights, int64_t rows, int64_t cols) {
  ADAPMOE_CHECK(static_cast<int64_t>(data.size()) == packed.bytes());
  ADAPMOE_CHECK(rows <= packed.rows && cols <= packed.cols);
  std::vector<float> stored(static_cast<size_t>(cols));
  std::vector<float> wanted(static_cast<size_t>(cols));
  PackingError sum;
  for (int64_t row = 0; row < rows; ++row) {
    const uint8_t* block = data.data() + row / kBlockRows * packed.block_bytes();
    unpack_row(block, row % kBlockRows, packed, stored);
    load_row(weights, row, cols, wanted.data());
    for (size_t c = 0; c < wanted.size(); ++c) sum.add(wanted[c], stored[c]);
  }
  return sum;
}

}  // namespace adapmoe
