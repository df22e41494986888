// SPDX-License-Identifier: Apache-2.0
// What the GPU kernels compute, as plain values: every pointer is one that the device can follow.
// Each launch function queues its kernel on the stream and returns; but for W4A16 the result is
// that of the CPU kernels, bit for bit (runtime/README.md states the arithmetic).
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "runtime/backend/act_rows.h"
#include "runtime/backend/weight_reads.h"
#include "runtime/base/types.h"

namespace adapmoe::cuda {

// A packed matrix (export/FORMAT.md) that lies at `offset` of each of `count` pieces: a dense
// matrix is one piece, a projection of an expert has one in every tile.
struct PackedPieces {
  DType dtype = DType::kF32;
  const std::byte* const* data = nullptr;  // [count], or null: one piece, at `only`
  const std::byte* only = nullptr;
  int64_t count = 1;
  int64_t offset = 0;
  int64_t blocks = 0;  // of 16 output rows, in each piece
  int64_t block_bytes = 0;
  int64_t scale_bytes = 0;
  int64_t cols = 0;  // padded
  int64_t group_size = 0;
};

// out[i] = row ids[i] of the matrix `w`, one piece.
struct EmbedArgs {
  PackedPieces w;
  const int32_t* ids = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;  // unpadded
  float* out = nullptr;
  int64_t out_stride = 0;
};

// Copies whole 16-byte words, from and to their multiples.
struct CopyArgs {
  const uint4* from = nullptr;
  uint4* to = nullptr;
  int64_t words = 0;
};

// y[i] = W act[index[i]] for `rows` rows. Rows of act begin on a multiple of 16 bytes.
struct ProductArgs {
  PackedPieces w;
  // false: pieces are output rows one after another, all of the same act columns. true: pieces are
  // columns one after another, summed in ascending order.
  bool chained = false;
  bool accumulate = false;  // continue the sums in y
  ActRows act;
  const int32_t* index = nullptr;  // null: i itself
  int64_t rows = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
  WeightReads reads = WeightReads::kByRows;
};

// All rows begin on a multiple of 16 bytes, those of q of 4.
struct QuantizeArgs {
  const float* x = nullptr;
  int64_t stride = 0;
  int64_t rows = 0;
  int64_t groups = 0;  // per row
  int64_t group = 0;   // values: 16, 32, 64 or 128
  int8_t* q = nullptr;
  float* scale = nullptr;
  int32_t* sum = nullptr;
  int64_t q_stride = 0;
  int64_t group_stride = 0;
};

// The rows of one layer turned around on the device: for each expert used, its rows, as
// model/routing_plan.h does it on the CPU. At most kMostRouted (row, expert) pairs.
struct RoutedPlan {
  int32_t* used = nullptr;          // [1] how many experts
  int32_t* experts = nullptr;       // [used] ascending
  int32_t* first_output = nullptr;  // [used + 1] output row of the expert's first token row
  int32_t* rows = nullptr;          // [first_output[used]] token row of each output row
  int32_t* outputs = nullptr;       // [rows][top_k] output rows, ascending expert, then -1
};

inline constexpr int64_t kMostRouted = 64;    // (row, expert) pairs
inline constexpr int64_t kMostScores = 4096;  // (row, expert of the layer) pairs

// The gate of one layer, in memory: it may change between two runs of one recorded launch.
struct GateRule {
  bool drops = false;  // drop_insensitive() of gate/gate.h
  float sensitivity = 0.0F;
  float threshold = 0.0F;
};

// gate/gate.h: scores, the top_k best, renormalised and scaled, the rule; then the plan.
struct RouteArgs {
  const float* logits = nullptr;  // [rows][stride]
  int64_t stride = 0;
  int64_t rows = 0;     // rows * experts <= kMostScores, rows * top_k <= kMostRouted
  int64_t experts = 0;  // of the layer
  int64_t top_k = 0;
  bool sigmoid = false;  // instead of softmax
  bool renormalize = true;
  float scale = 1.0F;
  const GateRule* rule = nullptr;
  int32_t* chosen = nullptr;       // [rows][top_k] ascending; ~expert of those left out
  float* weights = nullptr;        // [rows][top_k]
  float* dropped_share = nullptr;  // [rows]
  RoutedPlan plan;
};

// The products of every expert that the plan uses, each with its own rows. In `product`: w.data
// points to the tiles of the layer's expert 0, act and y are those of all rows, index is unused,
// and `rows` is the most that one expert may have.
struct RoutedProductArgs {
  ProductArgs product;
  RoutedPlan plan;
  int64_t most = 0;  // experts that may be used
};

// silu(gate) * up, as floats into `x` or, where that is null, quantized. Rows as above.
struct SwigluArgs {
  const float* gate = nullptr;  // [rows][stride]
  const float* up = nullptr;
  int64_t stride = 0;
  float* x = nullptr;  // [rows][x_stride]
  int64_t x_stride = 0;
  QuantizeArgs out;  // its rows, groups and group hold in either case
};

// Rows begin on a multiple of 16 bytes; y is none of x.
struct RmsNormArgs {
  const float* x = nullptr;
  int64_t x_stride = 0;
  const float* weight = nullptr;
  int64_t rows = 0;
  int64_t n = 0;       // values per row
  int64_t padded = 0;  // n, rounded up to 16
  float eps = 0.0F;
  float* y = nullptr;
  int64_t y_stride = 0;
};

struct AddArgs {
  const float* x = nullptr;
  int64_t x_stride = 0;
  float* into = nullptr;
  int64_t into_stride = 0;
  int64_t rows = 0;
  int64_t n = 0;
};

// See CombineOp.
struct CombineArgs {
  const int32_t* outputs = nullptr;  // [rows][top_k]
  const float* weights = nullptr;    // [rows][top_k]
  int64_t top_k = 0;
  const float* expert_out = nullptr;
  int64_t out_stride = 0;
  AddArgs hidden;  // x is unused
};

struct KVPlace {
  std::byte* k = nullptr;
  std::byte* v = nullptr;
  int64_t position = 0;
};

// What each block of positions gives, before they are merged: the largest score, the sum of the
// weights and the weighted values.
struct AttentionParts {
  float* largest = nullptr;  // [rows][heads][blocks]
  float* total = nullptr;    // the same
  float* values = nullptr;   // [rows][heads][blocks][head_dim_padded]
};

// Rows of the KV cache begin on a multiple of 32 bytes.
struct AttentionArgs {
  const float* q = nullptr;  // [rows][heads * head_dim], before RoPE, like k and v
  const float* k = nullptr;
  const float* v = nullptr;
  int64_t q_stride = 0;
  int64_t k_stride = 0;
  int64_t v_stride = 0;
  const KVPlace* kv = nullptr;      // [rows]
  const float* inv_freq = nullptr;  // [head_dim / 2]
  bool kv_f16 = true;
  int64_t rows = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t head_dim_padded = 0;  // at most kMaxHeadDim
  int64_t sliding_window = 0;
  float scale = 0.0F;  // 1 / sqrt(head_dim)
  int64_t blocks = 0;  // of positions: the most that a row may attend to
  AttentionParts parts;
  float* out = nullptr;  // [rows][out_stride]
  int64_t out_stride = 0;
};

inline constexpr int64_t kMaxHeadDim = 1024;  // the manifest's

// Whether this build's kernels fit the current device.
cudaError_t check_kernels();

cudaError_t launch_embed(const EmbedArgs& args, cudaStream_t stream);
cudaError_t launch_copy(const CopyArgs& args, cudaStream_t stream);
// One of the six below. Int4 or int8 weights with activations as floats are W4A16, which is not
// exact.
cudaError_t launch_product(const ProductArgs& args, cudaStream_t stream);
cudaError_t launch_routed_product(const RoutedProductArgs& args, cudaStream_t stream);
cudaError_t launch_quantized_product(const ProductArgs& args, cudaStream_t stream);
cudaError_t launch_routed_quantized_product(const RoutedProductArgs& args, cudaStream_t stream);
cudaError_t launch_float_product(const ProductArgs& args, cudaStream_t stream);
cudaError_t launch_routed_float_product(const RoutedProductArgs& args, cudaStream_t stream);
cudaError_t launch_w4a16_product(const ProductArgs& args, cudaStream_t stream);
cudaError_t launch_routed_w4a16_product(const RoutedProductArgs& args, cudaStream_t stream);
cudaError_t launch_route(const RouteArgs& args, cudaStream_t stream);
cudaError_t launch_quantize(const QuantizeArgs& args, cudaStream_t stream);
cudaError_t launch_swiglu(const SwigluArgs& args, cudaStream_t stream);
cudaError_t launch_rms_norm(const RmsNormArgs& args, cudaStream_t stream);
cudaError_t launch_add(const AddArgs& args, cudaStream_t stream);
cudaError_t launch_combine(const CombineArgs& args, cudaStream_t stream);
// Writes the rows' keys and values, and their rotated queries into `out`; `blocks` and `parts` are
// unused.
cudaError_t launch_rope(const AttentionArgs& args, cudaStream_t stream);
// After launch_rope() for every row that these attend to. Turns the queries in `out` into results.
cudaError_t launch_attention(const AttentionArgs& args, cudaStream_t stream);

}  // namespace adapmoe::cuda
