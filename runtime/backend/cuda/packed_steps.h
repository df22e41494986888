// SPDX-License-Identifier: Apache-2.0
// For .cu files: in which steps a thread block computes its part of a packed matrix, while what the
// next steps need is on its way to shared memory. So reads stay in flight at barriers too.
#pragma once
#include <cuda_pipeline.h>

#include "runtime/backend/cuda/packed_place.h"

namespace adapmoe::cuda {

inline constexpr int kBuffers = 3;  // what a step computes, and two steps ahead

// Some groups of all 16 output rows of one piece, times some activation rows.
struct Step {
  int piece = 0;
  int first = 0;    // group of the piece
  int row = 0;      // activation row
  int weights = 0;  // the buffer that they are in
  int act = 0;      // the same of the activations
};

// Groups ascend for every row. `again`: all of them for kRows rows, then for the next rows, so that
// weights are read again; otherwise a chunk of them for all rows, then the next chunk.
template <int kRows>
struct Steps {
  int begin, end;  // pieces
  int groups;      // of a piece
  int chunk;       // groups of a step, at most
  int rows;
  bool again;

  __device__ Step first() const { return {.piece = begin}; }
  __device__ bool more(const Step& s) const { return s.piece < end; }
  __device__ int count(const Step& s) const {
    return groups - s.first < chunk ? groups - s.first : chunk;
  }
  __device__ bool begins(const Step& s) const { return s.piece == begin && s.first == 0; }
  __device__ bool ends(const Step& s) const {
    return s.piece + 1 == end && s.first + chunk >= groups;
  }
  __device__ bool brings_weights(const Step& s) const { return again || s.row == 0; }

  __device__ void advance(Step& s) const {
    s.act = after(s.act);
    const bool more_rows = s.row + kRows < rows;
    if (!again && more_rows) {
      s.row += kRows;
      return;
    }
    s.weights = after(s.weights);
    if (!again) s.row = 0;
    s.first += chunk;
    if (s.first < groups) return;
    s.first = 0;
    if (++s.piece == end && again && more_rows) {
      s.piece = begin;
      s.row += kRows;
    }
  }

 private:
  static __device__ int after(int buffer) { return buffer + 1 == kBuffers ? 0 : buffer + 1; }
};

// Where a step's data begin. Read one step before they are needed: both pointers to tiles and
// indices of rows may lie in the host's memory.
struct Source {
  const std::byte* data = nullptr;  // of the piece
  int row = 0;                      // of act
};

__device__ inline Source find(const ProductArgs& p, int piece, int row) {
  const int i = row < p.rows ? row : static_cast<int>(p.rows) - 1;  // again, and not stored
  Source s{p.w.only, i};
  if (p.w.data != nullptr) s.data = p.w.data[piece];
  if (p.index != nullptr) s.row = p.index[i];
  return s;
}

// Queues a copy of `count` values to shared memory, by `threads` threads of which this is `thread`,
// kBytes at a time: 4, or 16 where both ends are multiples of 16.
template <int kBytes, int kUnroll = 1, typename T>
__device__ void copy(T* to, const T* from, int count, int thread, int threads) {
  constexpr int kValues = kBytes / static_cast<int>(sizeof(T));
#pragma unroll(kUnroll)
  for (int i = thread * kValues; i < count; i += threads * kValues) {
    __pipeline_memcpy_async(to + i, from + i, kBytes);
  }
}

}  // namespace adapmoe::cuda
