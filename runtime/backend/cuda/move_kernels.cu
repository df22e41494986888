// SPDX-License-Identifier: Apache-2.0
// What only moves values: rows of the embedding table, and plain copies.
#include "runtime/backend/cuda/kernels.h"
#include "runtime/backend/cuda/launch.h"
#include "runtime/backend/embedding.h"

namespace adapmoe::cuda {
namespace {

__global__ void embed(EmbedArgs a) {
  const int64_t i = item();
  if (i >= a.rows * a.cols) return;
  const int64_t row = i / a.cols;
  const int64_t k = i % a.cols;
  const int64_t id = a.ids[row];
  const PackedRow source{a.w.dtype, a.w.only + id / kBlockRows * a.w.block_bytes, a.w.scale_bytes,
                         a.w.group_size, id % kBlockRows};
  a.out[row * a.out_stride + k] = packed_value(source, k);
}

__global__ void copy(CopyArgs a) {
  const int64_t i = item();
  if (i < a.words) a.to[i] = a.from[i];
}

}  // namespace

cudaError_t launch_embed(const EmbedArgs& args, cudaStream_t stream) {
  return launch_items(embed, args.rows * args.cols, stream, args);
}

cudaError_t launch_copy(const CopyArgs& args, cudaStream_t stream) {
  return launch_items(copy, args.words, stream, args);
}

}  // namespace adapmoe::cuda
