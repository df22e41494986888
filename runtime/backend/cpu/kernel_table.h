// SPDX-License-Identifier: Apache-2.0
// The CPU kernels of one instruction set. All tables give the same bits (gate G6);
// runtime/README.md states the arithmetic.
#pragma once
#include <cstddef>
#include <cstdint>

#include "runtime/backend/act_rows.h"
#include "runtime/backend/attention_block.h"

namespace adapmoe {

// Consecutive blocks of 16 output rows of a packed matrix times some activation rows.
struct BlockArgs {
  const std::byte* block = nullptr;  // the first, of a packed matrix (export/FORMAT.md)
  int64_t blocks = 1;
  int64_t cols = 0;  // padded
  int64_t group_size = 0;
  int64_t scale_bytes = 0;  // of the block's scale section
  ActRows act;
  const int32_t* index = nullptr;  // activation row of output row i; null: i itself
  int64_t rows = 0;
  float* y = nullptr;  // [rows][y_stride], 16 * blocks values written per row
  int64_t y_stride = 0;
  bool accumulate = false;  // continue the chain in y instead of starting at zero
};

// One query position and one KV head: `heads` query heads that share it.
struct AttendArgs {
  const float* q = nullptr;      // [heads][head_dim_padded], rotated
  const std::byte* k = nullptr;  // position 0 of this KV head; f16 or f32
  const std::byte* v = nullptr;
  int64_t kv_stride = 0;  // values between positions
  int64_t heads = 0;
  int64_t head_dim_padded = 0;
  int64_t first = 0;  // first position attended to
  int64_t last = 0;   // last one, inclusive
  float scale = 0.0F;
  float* scratch = nullptr;  // heads * (kAttentionBlock + 2 * head_dim_padded) floats
  float* out = nullptr;      // [heads][head_dim_padded]
};

struct KernelTable {
  const char* name;

  // int8 per group: q = round(x * 127 / amax), scale = amax / 127, sum of q. n is a multiple of
  // group, group of 16.
  void (*quantize)(const float* x, int64_t n, int64_t group, int8_t* q, float* scale, int32_t* sum);
  void (*block_int4)(const BlockArgs& args);
  void (*block_int8)(const BlockArgs& args);
  void (*block_f16)(const BlockArgs& args);
  void (*block_f32)(const BlockArgs& args);
  // y = x / sqrt(mean(x^2) + eps) * weight over n values; buffers are zero-padded to 16.
  void (*rms_norm)(const float* x, const float* weight, int64_t n, float eps, float* y);
  // out = silu(gate) * up; n is a multiple of 16; out may be gate.
  void (*swiglu)(const float* gate, const float* up, int64_t n, float* out);
  void (*attend_f16)(const AttendArgs& args);
  void (*attend_f32)(const AttendArgs& args);
  void (*to_half)(const float* x, int64_t n, uint16_t* out);  // n is a multiple of 16
};

const KernelTable& scalar_kernels();
#if defined(__x86_64__)
const KernelTable& avx2_kernels();    // REQUIRES: AVX2, FMA and F16C
const KernelTable& avx512_kernels();  // REQUIRES: AVX-512 F, BW, DQ, VL and VNNI
#elif defined(__aarch64__)
const KernelTable& neon_kernels();  // REQUIRES: the dot-product extension
#endif

}  // namespace adapmoe
