// SPDX-License-Identifier: Apache-2.0
// The canonical arithmetic, written once over a 16-lane type L (lanes_*.h); each kernels_*.cc
// instantiates it for its own. Uses no standard containers: their inline code would be emitted for
// one ISA and linked for all.
#pragma once
#include <cstddef>
#include <cstdint>

#include "runtime/backend/cpu/kernel_table.h"
#include "runtime/backend/cpu/products_generic.h"
#include "runtime/base/canonical_math.h"

namespace adapmoe {

template <typename L>
struct Kernels {
  static void quantize(const float* x, int64_t n, int64_t group, int8_t* q, float* scale,
                       int32_t* sum) {
    for (int64_t g = 0; g * group < n; ++g) {
      const float* xs = x + g * group;
      int8_t* qs = q + g * group;
      L largest = L::set1(0.0F);
      L poison = largest;  // stays 0 unless there is NaN or infinity, which must not become 0
      for (int64_t k = 0; k < group; k += 16) {
        const L v = L::load(xs + k);
        largest = L::max(L::abs(v), largest);
        poison = L::add(poison, L::sub(v, v));
      }
      const float amax = largest.max_lane();
      // A group this small is zero: its scale would be subnormal and its inverse infinite.
      const bool tiny = !(amax > 1e-30F);
      const float lost = poison.sum();
      // One NaN for all: its bits would depend on the instructions that made it.
      scale[g] = lost == lost ? (tiny ? 0.0F : amax / 127.0F) : __builtin_nanf("");
      const L inverse = L::set1(tiny ? 0.0F : 127.0F / amax);
      int32_t total = 0;
      for (int64_t k = 0; k < group; k += 16) {
        L value = L::mul(L::load(xs + k), inverse);
        value = L::max(L::min(value, L::set1(127.0F)), L::set1(-127.0F));
        total += value.store_int8(qs + k);
      }
      sum[g] = total;
    }
  }

  static void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* y) {
    L squares = L::set1(0.0F);
    for (int64_t k = 0; k < n; k += 16) {
      const L v = L::load(x + k);
      squares = L::fma(v, v, squares);
    }
    const float mean = squares.sum() / static_cast<float>(n);
    const L inverse = L::set1(1.0F / __builtin_sqrtf(mean + eps));
    for (int64_t k = 0; k < n; k += 16) {
      L::mul(L::mul(L::load(x + k), inverse), L::load(weight + k)).store(y + k);
    }
  }

  static void swiglu(const float* gate, const float* up, int64_t n, float* out) {
    const L one = L::set1(1.0F);
    for (int64_t k = 0; k < n; k += 16) {
      const L g = L::load(gate + k);
      const L silu = L::div(g, L::add(one, exp_lanes(L::sub(L::set1(0.0F), g))));
      L::mul(silu, L::load(up + k)).store(out + k);
    }
  }

  static void to_half(const float* x, int64_t n, uint16_t* out) {
    for (int64_t k = 0; k < n; k += 16) L::load(x + k).store_half(out + k);
  }

  // Through L, not Lane1: a shared inline function must not be compiled for one ISA and linked for
  // all.
  static float exp1(float x) { return exp_lanes(L::set1(x)).max_lane(); }

  // Softmax attention in blocks of positions. Each block has its own maximum, sum and weighted
  // values, so that blocks could be computed apart; they are merged in ascending order.
  template <typename T>
  static void attend(const AttendArgs& args) {
    const int64_t dim = args.head_dim_padded;
    float* scores = args.scratch;                              // [heads][kAttentionBlock]
    float* block_out = scores + args.heads * kAttentionBlock;  // [heads][dim]
    float* state = block_out + args.heads * dim;               // [heads][2]: maximum, sum
    for (int64_t b = args.first / kAttentionBlock; b <= args.last / kAttentionBlock; ++b) {
      const int64_t begin = b * kAttentionBlock;
      const int64_t low = args.first > begin ? args.first : begin;
      const int64_t end = begin + kAttentionBlock;
      const int64_t high = args.last + 1 < end ? args.last + 1 : end;
      score_block<T>(args, begin, low, high, scores);
      const bool is_first = b == args.first / kAttentionBlock;
      for (int64_t h = 0; h < args.heads; ++h) {
        float* s = scores + h * kAttentionBlock;
        float largest = 0.0F;
        const float total = softmax_block(s, low - begin, high - begin, &largest);
        float* into = is_first ? args.out + h * dim : block_out + h * dim;
        weigh_values<T>(args, begin, low, high, s, into);
        if (is_first) {
          state[2 * h] = largest;
          state[2 * h + 1] = total;
        } else {
          merge(args.out + h * dim, into, dim, state + 2 * h, largest, total);
        }
      }
    }
    for (int64_t h = 0; h < args.heads; ++h) {
      const L total = L::set1(state[2 * h + 1]);
      float* out = args.out + h * dim;
      for (int64_t k = 0; k < dim; k += 16) L::div(L::load(out + k), total).store(out + k);
    }
  }

 private:
  template <typename T>
  static void score_block(const AttendArgs& args, int64_t begin, int64_t low, int64_t high,
                          float* scores) {
    constexpr int64_t kAhead = 32;  // positions; rows of one head lie too far apart for hardware
    const T* key = reinterpret_cast<const T*>(args.k) + low * args.kv_stride;
    const T* value = reinterpret_cast<const T*>(args.v) + low * args.kv_stride;
    for (int64_t j = low - begin; j < high - begin;
         ++j, key += args.kv_stride, value += args.kv_stride) {
      fetch(key + kAhead * args.kv_stride, args.head_dim_padded);
      fetch(value, args.head_dim_padded);  // for weigh_values
      int64_t h = 0;
      for (; h + 4 <= args.heads; h += 4) score_heads<4>(args, key, h, scores + j);
      for (; h < args.heads; ++h) score_heads<1>(args, key, h, scores + j);
    }
  }

  template <typename T>
  static void fetch(const T* row, int64_t count) {
    for (int64_t i = 0; i < count; i += int64_t{64} / int64_t{sizeof(T)})
      __builtin_prefetch(row + i);
  }

  // H query heads share one pass over a key.
  template <int H, typename T>
  static void score_heads(const AttendArgs& args, const T* key, int64_t first, float* scores) {
    L acc[H];
    for (int i = 0; i < H; ++i) acc[i] = L::set1(0.0F);
    for (int64_t d = 0; d < args.head_dim_padded; d += 16) {
      const L k = L::load(key + d);
      for (int i = 0; i < H; ++i) {
        const float* q = args.q + (first + i) * args.head_dim_padded;
        acc[i] = L::fma(L::load(q + d), k, acc[i]);
      }
    }
    for (int i = 0; i < H; ++i) scores[(first + i) * kAttentionBlock] = acc[i].sum() * args.scale;
  }

  // s becomes exp(s - max) inside [low, high) and 0 outside; returns the sum, lane = position
  // modulo 16.
  static float softmax_block(float* s, int64_t low, int64_t high, float* largest) {
    float m = s[low];
    for (int64_t j = low + 1; j < high; ++j) m = m > s[j] ? m : s[j];
    for (int64_t j = 0; j < low; ++j) s[j] = m;
    for (int64_t j = high; j < kAttentionBlock; ++j) s[j] = m;
    for (int64_t j = 0; j < kAttentionBlock; j += 16) {
      const L below = L::sub(L::load(s + j), L::set1(m));
      const L poison = L::sub(below, below);  // 0 or NaN, which exp would lose
      L::add(exp_lanes(below), poison).store(s + j);
    }
    for (int64_t j = 0; j < low; ++j) s[j] = 0.0F;
    for (int64_t j = high; j < kAttentionBlock; ++j) s[j] = 0.0F;
    L acc = L::set1(0.0F);
    for (int64_t j = 0; j < kAttentionBlock; j += 16) acc = L::add(acc, L::load(s + j));
    *largest = m;
    return acc.sum();
  }

  template <typename T>
  static void weigh_values(const AttendArgs& args, int64_t begin, int64_t low, int64_t high,
                           const float* weights, float* out) {
    const T* v = reinterpret_cast<const T*>(args.v) + low * args.kv_stride;
    const float* w = weights + low - begin;
    int64_t d = 0;
    for (; d + 64 <= args.head_dim_padded; d += 64) {
      weigh_columns<4>(v + d, args.kv_stride, w, high - low, out + d);
    }
    for (; d < args.head_dim_padded; d += 16) {
      weigh_columns<1>(v + d, args.kv_stride, w, high - low, out + d);
    }
  }

  // 16 * D columns at once: one chain alone would wait for its own additions.
  template <int D, typename T>
  static void weigh_columns(const T* v, int64_t stride, const float* weights, int64_t count,
                            float* out) {
    L acc[D];
    for (int i = 0; i < D; ++i) acc[i] = L::set1(0.0F);
    for (int64_t j = 0; j < count; ++j, v += stride) {
      const L weight = L::set1(weights[j]);
      for (int i = 0; i < D; ++i) acc[i] = L::fma(weight, L::load(v + int64_t{16} * i), acc[i]);
    }
    for (int i = 0; i < D; ++i) acc[i].store(out + int64_t{16} * i);
  }

  static void merge(float* out, const float* block_out, int64_t dim, float* state, float largest,
                    float total) {
    const float m = state[0] > largest ? state[0] : largest;
    const float old_part = exp1(state[0] - m);
    const float new_part = exp1(largest - m);
    state[0] = m;
    state[1] = __builtin_fmaf(state[1], old_part, total * new_part);
    for (int64_t k = 0; k < dim; k += 16) {
      const L fresh = L::mul(L::load(block_out + k), L::set1(new_part));
      L::fma(L::load(out + k), L::set1(old_part), fresh).store(out + k);
    }
  }
};

// The table of one instruction set.
template <typename L>
constexpr KernelTable make_kernel_table(const char* name) {
  using K = Kernels<L>;
  using P = Products<L>;
  return {name,
          K::quantize,
          P::template block_quantized<uint8_t>,
          P::template block_quantized<int8_t>,
          P::template block_float<uint16_t>,
          P::template block_float<float>,
          K::rms_norm,
          K::swiglu,
          K::template attend<uint16_t>,
          K::template attend<float>,
          K::to_half};
}

}  // namespace adapmoe
