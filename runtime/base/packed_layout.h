// SPDX-License-Identifier: Apache-2.0
// Sizes of a packed matrix: blocks of 16 output rows, one row per SIMD lane (export/FORMAT.md,
// "Packed matrix"). Pure arithmetic, shared by the pack writer, the pack reader and the kernels.
#pragma once
#include <cstdint>

#include "runtime/base/types.h"  // DType

namespace adapmoe {

inline constexpr int64_t kBlockRows = 16;    // output rows per block
inline constexpr int64_t kPageBytes = 4096;  // O_DIRECT alignment of tiles and data buffers

struct PackedShape {
  DType dtype = DType::kF32;
  int64_t rows = 0;        // output rows, unpadded
  int64_t cols = 0;        // summed dimension, unpadded
  int64_t group_size = 0;  // 32, 64 or 128 for int4/int8; 16 for f16/f32

  int64_t rows_padded() const { return align_up(rows, kBlockRows); }
  int64_t cols_padded() const { return align_up(cols, group_size); }
  int64_t blocks() const { return rows_padded() / kBlockRows; }
  int64_t groups() const { return cols_padded() / group_size; }

  // Bytes of the scale section at the head of a block: fp16 [groups][16], padded to 64.
  int64_t scale_bytes() const {
    return is_quantized(dtype) ? align_up(groups() * kBlockRows * 2, 64) : 0;
  }
  int64_t block_bytes() const {
    switch (dtype) {
      case DType::kInt4: return scale_bytes() + cols_padded() * kBlockRows / 2;
      case DType::kInt8: return scale_bytes() + cols_padded() * kBlockRows;
      case DType::kF16: return cols_padded() * kBlockRows * 2;
      case DType::kF32: return cols_padded() * kBlockRows * 4;
    }
    return 0;
  }
  int64_t bytes() const { return blocks() * block_bytes(); }
};

// Where the three packed matrices of one tile lie (export/FORMAT.md, "Record = tiles").
struct TileLayout {
  PackedShape gate_proj;  // [tile_width, hidden_size]
  PackedShape up_proj;    // [tile_width, hidden_size]
  PackedShape down_proj;  // [hidden_size, tile_width]

  static TileLayout make(DType dtype, int64_t group_size, int64_t hidden_size, int64_t tile_width) {
    const PackedShape in{dtype, tile_width, hidden_size, group_size};
    const PackedShape out{dtype, hidden_size, tile_width, group_size};
    return {in, in, out};
  }
  int64_t up_offset() const { return gate_proj.bytes(); }
  int64_t down_offset() const { return gate_proj.bytes() + up_proj.bytes(); }
  int64_t tile_bytes() const { return align_up(down_offset() + down_proj.bytes(), kPageBytes); }
};

}  // namespace adapmoe
