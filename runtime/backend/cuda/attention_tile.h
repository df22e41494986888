// SPDX-License-Identifier: Apache-2.0
// For attention_kernels.cu: what the threads share that attend to one block of positions, and how
// keys, values and queries get there.
#pragma once
#include "runtime/backend/attention_block.h"
#include "runtime/backend/cuda/kernels.h"
#include "runtime/backend/cuda/kv_values.h"
#include "runtime/backend/cuda/launch.h"
#include "runtime/backend/cuda/tree_sum.h"

namespace adapmoe::cuda {

inline constexpr int kPositions = kAttentionBlock;
inline constexpr int kWords = 8;  // of 16 bytes: as much of a position as is loaded at once
inline constexpr int kTileRow = kWords + 1;  // no two of eight rows begin in one bank
inline constexpr int kRowsAtOnce = static_cast<int>(kThreads) / kWords;
inline constexpr int kLoads = kPositions / kRowsAtOnce;  // per thread
static_assert(kAttentionBlock == kThreads, "one thread per position of a block");

// Values in 4 bytes, and of a position that are loaded at once.
template <typename T>
inline constexpr int kPerWord = static_cast<int>(4 / sizeof(T));
template <typename T>
inline constexpr int kDims = kWords * 4 * kPerWord<T>;

// For kHeads query heads of one KV head.
template <int kHeads>
struct AttentionShared {
  uint4 tile[kPositions][kTileRow];  // keys, then values
  alignas(16) float q[kHeads][kDims<uint16_t>];
  alignas(16) float scores[kHeads][kPositions];
  alignas(16) float lanes[kHeads][kLanes];
};

// Rows [low, high) of one block and KV head.
template <typename T>
struct Positions {
  const T* at;
  int64_t stride;
  int low, high;
  int dims;
};

// Values [first, first + kDims) of every row, a piece per thread: a warp reads whole lines, and all
// loads are under way before the barrier that follows.
template <typename T>
__device__ inline void load_tile(const Positions<T>& rows, int first, uint4 (&pieces)[kLoads]) {
  constexpr int kPerPiece = 4 * kPerWord<T>;
  const int d = first + static_cast<int>(threadIdx.x) % kWords * kPerPiece;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int p = static_cast<int>(threadIdx.x) / kWords + i * kRowsAtOnce;
    const bool inside = d < rows.dims && p >= rows.low && p < rows.high;
    pieces[i] = {};
    if (inside) pieces[i] = *reinterpret_cast<const uint4*>(rows.at + p * rows.stride + d);
  }
}

template <int kHeads>
__device__ inline void put_tile(const uint4 (&pieces)[kLoads], AttentionShared<kHeads>& s) {
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    s.tile[static_cast<int>(threadIdx.x) / kWords + i * kRowsAtOnce][threadIdx.x % kWords] =
        pieces[i];
  }
}

template <typename T, int kHeads>
inline constexpr int kQueries =
    (kHeads * kDims<T> + static_cast<int>(kThreads) - 1) / static_cast<int>(kThreads);

// The rotated queries' values [first, first + kDims), some per thread.
template <typename T, int kHeads>
__device__ inline void load_queries(const float* q, const AttentionArgs& a, int first,
                                    float (&values)[kQueries<T, kHeads>]) {
#pragma unroll
  for (int n = 0; n < kQueries<T, kHeads>; ++n) {
    const int i = static_cast<int>(threadIdx.x) + n * static_cast<int>(kThreads);
    const int d = first + i % kDims<T>;
    const bool inside = i < kHeads * kDims<T> && d < a.head_dim;
    values[n] = inside ? q[i / kDims<T> * a.head_dim + d] : 0.0F;
  }
}

template <typename T, int kHeads>
__device__ inline void put_queries(const float (&values)[kQueries<T, kHeads>],
                                   AttentionShared<kHeads>& s) {
#pragma unroll
  for (int n = 0; n < kQueries<T, kHeads>; ++n) {
    const int i = static_cast<int>(threadIdx.x) + n * static_cast<int>(kThreads);
    if (i < kHeads * kDims<T>) s.q[i / kDims<T>][i % kDims<T>] = values[n];
  }
}

// 16 values of the thread's position, which begin with value `first` of the tile.
template <typename T, int kHeads>
__device__ inline void get_values(const AttentionShared<kHeads>& s, int first,
                                  float (&values)[kLanes]) {
  constexpr int kPieces = kLanes / (4 * kPerWord<T>);
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const uint4 piece = s.tile[threadIdx.x][first / kLanes * kPieces + i];
    const uint32_t words[] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      float found[kPerWord<T>];
      unpack(words[w], found);
#pragma unroll
      for (int v = 0; v < kPerWord<T>; ++v) values[(4 * i + w) * kPerWord<T> + v] = found[v];
    }
  }
}

}  // namespace adapmoe::cuda
