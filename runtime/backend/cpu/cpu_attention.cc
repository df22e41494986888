// SPDX-License-Identifier: Apache-2.0
// RoPE, the KV cache and grouped-query attention on the CPU.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/backend/cpu/cpu_backend.h"
#include "runtime/base/canonical_math.h"

namespace adapmoe {
namespace {

// Rotates pairs (i, i + head_dim/2), the Hugging Face convention.
void rotate_head(const float* x, const float* cosine, const float* sine, int64_t head_dim,
                 float* out) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    out[i] = x[i] * cosine[i] - x[i + half] * sine[i];
    out[i + half] = x[i + half] * cosine[i] + x[i] * sine[i];
  }
}

}  // namespace

void CpuBackend::store_kv_row(const AttentionOp& op, int64_t row) {
  const ModelConfig& c = shape_.config;
  const int64_t half = c.head_dim / 2;
  const int64_t padded = c.head_dim_padded();
  const KVRow& kv = op.kv[static_cast<size_t>(row)];
  float* cosine = scratch_.angles + row * c.head_dim;
  float* sine = cosine + half;
  for (int64_t i = 0; i < half; ++i) {
    canonical_sincos(static_cast<float>(kv.position) * op.inv_freq[i], sine + i, cosine + i);
  }
  float head[1024];  // the manifest's largest head_dim
  for (int64_t h = 0; h < c.num_key_value_heads; ++h) {
    const int64_t at = (kv.position * c.num_key_value_heads + h) * padded;
    std::fill(head, head + padded, 0.0F);
    rotate_head(op.k.row(row) + h * c.head_dim, cosine, sine, c.head_dim, head);
    for (std::byte* cache : {kv.k, kv.v}) {
      if (cache == kv.v) {
        std::memcpy(head, op.v.row(row) + h * c.head_dim, static_cast<size_t>(c.head_dim) * 4);
      }
      if (shape_.kv_f16) {
        kernels_.to_half(head, padded, reinterpret_cast<uint16_t*>(cache) + at);
      } else {
        std::memcpy(reinterpret_cast<float*>(cache) + at, head, static_cast<size_t>(padded) * 4);
      }
    }
  }
}

void CpuBackend::attend_head(const AttentionOp& op, int64_t row, int64_t kv_head, float* scratch) {
  const ModelConfig& c = shape_.config;
  const int64_t padded = c.head_dim_padded();
  const int64_t heads = c.num_attention_heads / c.num_key_value_heads;
  const KVRow& kv = op.kv[static_cast<size_t>(row)];
  const float* cosine = scratch_.angles + row * c.head_dim;
  float* q = scratch;
  float* out = q + heads * padded;
  for (int64_t h = 0; h < heads; ++h) {
    float* rotated = q + h * padded;
    std::fill(rotated + c.head_dim, rotated + padded, 0.0F);
    rotate_head(op.q.row(row) + (kv_head * heads + h) * c.head_dim, cosine, cosine + c.head_dim / 2,
                c.head_dim, rotated);
  }
  const int64_t offset = kv_head * padded * (shape_.kv_f16 ? 2 : 4);
  const int64_t first =
      op.sliding_window == 0 ? 0 : std::max<int64_t>(0, kv.position - op.sliding_window + 1);
  const AttendArgs args{.q = q,
                        .k = kv.k + offset,
                        .v = kv.v + offset,
                        .kv_stride = c.num_key_value_heads * padded,
                        .heads = heads,
                        .head_dim_padded = padded,
                        .first = first,
                        .last = kv.position,
                        .scale = 1.0F / std::sqrt(static_cast<float>(c.head_dim)),
                        .scratch = out + heads * padded,
                        .out = out};
  (shape_.kv_f16 ? kernels_.attend_f16 : kernels_.attend_f32)(args);
  for (int64_t h = 0; h < heads; ++h) {
    std::memcpy(op.out.row(row) + (kv_head * heads + h) * c.head_dim, out + h * padded,
                static_cast<size_t>(c.head_dim) * 4);
  }
}

void CpuBackend::attention(const AttentionOp& op) {
  // Every row's keys and values first: later rows of a chunk attend to earlier ones.
  pool_.run(op.q.rows, kRowsAtOnce, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) store_kv_row(op, row);
  });
  const int64_t kv_heads = shape_.config.num_key_value_heads;
  pool_.run(op.q.rows * kv_heads, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      attend_head(op, i / kv_heads, i % kv_heads, thread_scratch(thread));
    }
  });
}

}  // namespace adapmoe
