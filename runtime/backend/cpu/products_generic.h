// SPDX-License-Identifier: Apache-2.0
// Packed blocks times activation rows, over a 16-lane type L like all of kernels_generic.h. As many
// rows and blocks as the registers of L hold go in one pass, so that an activation that was
// broadcast serves every block, and a weight that was unpacked every row.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "runtime/backend/cpu/kernel_table.h"

namespace adapmoe {

template <typename L>
struct Products {
  // Quant: uint8_t holds two int4, int8_t one int8.
  template <typename Quant>
  static void block_quantized(const BlockArgs& args) {
    const int64_t groups = args.cols / args.group_size;
    const int64_t bytes = args.scale_bytes + groups * group_bytes<Quant>(args);
    run(args, [&]<int R, int B>(int64_t first, int64_t block) {
      quantized<R, B, Quant>(args, args.block + block * bytes, first, block);
    });
  }

  // W: uint16_t (fp16) or float.
  template <typename W>
  static void block_float(const BlockArgs& args) {
    const int64_t bytes = args.cols * 16 * static_cast<int64_t>(sizeof(W));
    run(args, [&]<int R, int B>(int64_t first, int64_t block) {
      floats<R, B, W>(args, args.block + block * bytes, first, block);
    });
  }

 private:
  // Block by block, so that a block stays in the nearest cache for all rows.
  template <typename Pass>
  static void run(const BlockArgs& args, const Pass& pass) {
    constexpr int kRows = L::kMaxRows;
    constexpr int kBlocks = L::kMaxBlocks;
    int64_t block = 0;
    // Fewer rows are limited by memory, which one block at a time reads in order.
    while (args.rows >= kRows && block + kBlocks <= args.blocks) {
      int64_t row = 0;
      for (; row + kRows <= args.rows; row += kRows) {
        pass.template operator()<kRows, kBlocks>(row, block);
      }
      for (int b = 0; b < kBlocks; ++b) rest<kRows / 2>(args.rows, row, block++, pass);
    }
    for (; block < args.blocks; ++block) rest<kRows>(args.rows, 0, block, pass);
  }

  // Rows from `row` on, R of them in one pass, what is left in smaller passes.
  template <int R, typename Pass>
  static void rest(int64_t rows, int64_t row, int64_t block, const Pass& pass) {
    for (; row + R <= rows; row += R) pass.template operator()<R, 1>(row, block);
    if constexpr (R > 1) rest<R / 2>(rows, row, block, pass);
  }

  template <typename Quant>
  static int64_t group_bytes(const BlockArgs& args) {
    return args.group_size * (std::is_same_v<Quant, uint8_t> ? 8 : 16);
  }

  static int64_t activation(const BlockArgs& args, int64_t row) {
    return args.index != nullptr ? args.index[row] : row;
  }

  template <int R, int B>
  static void start(const BlockArgs& args, int64_t first, int64_t block, L (&acc)[R][B]) {
    for (int r = 0; r < R; ++r) {
      const float* y = args.y + (first + r) * args.y_stride + 16 * block;
      for (int b = 0; b < B; ++b) {
        acc[r][b] = args.accumulate ? L::load(y + int64_t{16} * b) : L::set1(0.0F);
      }
    }
  }
  template <int R, int B>
  static void finish(const BlockArgs& args, int64_t first, int64_t block, const L (&acc)[R][B]) {
    for (int r = 0; r < R; ++r) {
      float* y = args.y + (first + r) * args.y_stride + 16 * block;
      for (int b = 0; b < B; ++b) acc[r][b].store(y + int64_t{16} * b);
    }
  }

  // acc = fma(float(sum of the group), scale_w * scale_x, acc), groups ascending.
  template <int R, int B, typename Quant>
  static void quantized(const BlockArgs& args, const std::byte* data, int64_t first,
                        int64_t block) {
    const int64_t groups = args.cols / args.group_size;
    const int64_t step = group_bytes<Quant>(args);
    const int64_t bytes = args.scale_bytes + groups * step;
    const int8_t* x[R];
    const float* x_scale[R];
    const int32_t* x_sum[R];
    for (int r = 0; r < R; ++r) {
      const int64_t row = activation(args, first + r);
      x[r] = args.act.q + row * args.act.q_stride;
      x_scale[r] = args.act.scale + row * args.act.group_stride;
      x_sum[r] = args.act.sum + row * args.act.group_stride;
    }
    L acc[R][B];
    start(args, first, block, acc);
    // The first pass fetches the next blocks as it goes: hardware does not look that far ahead.
    const int64_t ahead = first == 0 ? B * bytes : 0;
    for (int64_t g = 0; g < groups; ++g) {
      const Quant* w[B];
      for (int b = 0; b < B; ++b) {
        w[b] = reinterpret_cast<const Quant*>(data + b * bytes + args.scale_bytes + g * step);
      }
      int32_t sum[R];
      for (int r = 0; r < R; ++r) sum[r] = x_sum[r][g];
      typename L::Ints sums[R][B];
      if constexpr (std::is_same_v<Quant, uint8_t>) {
        L::dot_int4(w, ahead, args.group_size, x, sum, sums);
      } else {
        L::dot_int8(w, ahead, args.group_size, x, sum, sums);
      }
      L scales[B];
      for (int b = 0; b < B; ++b) {
        const std::byte* at = data + b * bytes + 32 * g;
        __builtin_prefetch(at + ahead, 0, 2);
        scales[b] = L::load(reinterpret_cast<const uint16_t*>(at));
      }
      for (int r = 0; r < R; ++r) {
        const L scale = L::set1(x_scale[r][g]);
        for (int b = 0; b < B; ++b) {
          acc[r][b] = L::fma(L::to_float(sums[r][b]), L::mul(scales[b], scale), acc[r][b]);
        }
        x[r] += args.group_size;
      }
    }
    finish(args, first, block, acc);
  }

  // acc = fma(w, x, acc), one per column, ascending.
  template <int R, int B, typename W>
  static void floats(const BlockArgs& args, const std::byte* data, int64_t first, int64_t block) {
    const auto* w = reinterpret_cast<const W*>(data);
    const float* x[R];
    for (int r = 0; r < R; ++r) x[r] = args.act.x + activation(args, first + r) * args.act.x_stride;
    L acc[R][B];
    start(args, first, block, acc);
    for (int64_t k = 0; k < args.cols; ++k) {
      L weights[B];
      for (int b = 0; b < B; ++b) weights[b] = L::load(w + 16 * (b * args.cols + k));
      for (int r = 0; r < R; ++r) {
        const L value = L::set1(x[r][k]);
        for (int b = 0; b < B; ++b) acc[r][b] = L::fma(weights[b], value, acc[r][b]);
      }
    }
    finish(args, first, block, acc);
  }
};

}  // namespace adapmoe
