// SPDX-License-Identifier: Apache-2.0
#include "runtime/tools/operator_cases.h"

#include <algorithm>
#include <numeric>

#include "runtime/base/half.h"
#include "runtime/base/strings.h"

namespace adapmoe {
namespace {

// One row, up to four, and more take kernels of their own; 64 rows of an expert are one pass.
constexpr int64_t kRowCounts[] = {1, 2, 4, 5, 18};
constexpr int64_t kLongPositions = 8300;  // more blocks than attention's thread blocks of one row

// Two matrices of one input, the second with more rows, and rows longer than a chunk of weights in
// shared memory for one of them.
template <DType kType>
void run_linear(OperatorBench& bench) {
  const int64_t hidden = bench.shape().config.hidden_size;
  for (const int64_t group : {32, 64, 128}) {
    const int64_t granule = is_quantized(kType) ? group : kBlockRows;
    const Matrix first = bench.matrix({kType, 16, hidden, granule});
    const Matrix second = bench.matrix({kType, 40, hidden, granule});
    for (const int64_t rows : kRowCounts) {
      const Rows x = bench.rows(rows, hidden);
      const LinearOp ops[] = {{&first, bench.rows(rows, 16)}, {&second, bench.rows(rows, 48)}};
      bench.backend().linear(x, ops);
      bench.keep(ops[0].y);
      bench.keep(ops[1].y);
    }
  }
}

// Rows longer than one chunk of weights in shared memory.
template <DType kType, int64_t kGroup>
void run_long_rows(OperatorBench& bench) {
  const int64_t columns = bench.shape().config.hidden_size;
  const Matrix w = bench.matrix({kType, 16, columns, kGroup});
  for (const int64_t rows : {1, 4, 6}) {
    const LinearOp op{&w, bench.rows(rows, 16)};
    const Rows x = bench.rows(rows, columns);
    bench.backend().linear(x, std::span(&op, 1));
    bench.keep(op.y);
  }
}

void run_rows(OperatorBench& bench) {
  const int64_t hidden = bench.shape().config.hidden_size;
  const Rows weight = bench.rows(1, hidden);
  for (const int64_t rows : kRowCounts) {
    const Rows x = bench.rows(rows, hidden);
    const Rows y = bench.rows(rows, hidden);
    bench.backend().rms_norm(weight.data, x, y);
    bench.keep(y);
    bench.backend().add(x, y);
    bench.keep(y);
  }
}

// Rows of two sequences, in several steps, at positions where blocks begin and end. The window
// leaves the first block out for some.
template <typename T>
void run_attention(OperatorBench& bench) {
  const ModelConfig& c = bench.shape().config;
  const int64_t values = bench.shape().max_context * c.num_key_value_heads * c.head_dim_padded();
  std::span<T> caches[4];  // k and v of two sequences
  for (std::span<T>& cache : caches) {
    cache = bench.take<T>(values);
    for (T& value : cache) {
      const float x = draw(bench.random(), Spread::kPlain);
      if constexpr (std::is_same_v<T, float>) {
        value = x;
      } else {
        value = float_to_half(x);
      }
    }
  }
  const Rows inv_freq = bench.rows(1, c.head_dim / 2);
  const auto bytes = [&](int i) { return std::as_writable_bytes(caches[i]).data(); };
  const bool is_long = bench.shape().max_context > kPositions;
  const std::vector<int64_t> starts =
      is_long ? std::vector{kLongPositions - 10} : std::vector<int64_t>{0, 126, 255, 290};
  for (const int64_t window : {0, 150}) {
    for (const int64_t first : starts) {
      std::vector<KVRow> kv;
      kv.reserve(7);
      for (int64_t i = 0; i < 5; ++i) kv.push_back({bytes(0), bytes(1), first + i});
      for (int64_t i = 0; i < 2; ++i) kv.push_back({bytes(2), bytes(3), first / 2 + i});
      const auto rows = static_cast<int64_t>(kv.size());
      const AttentionOp op{.q = bench.rows(rows, c.q_rows()),
                           .k = bench.rows(rows, c.kv_rows()),
                           .v = bench.rows(rows, c.kv_rows()),
                           .kv = kv,
                           .inv_freq = inv_freq.data,
                           .sliding_window = window,
                           .out = bench.rows(rows, c.q_rows())};
      bench.backend().attention(op);
      bench.keep(op.out);
    }
  }
  for (const std::span<T> cache : caches) bench.keep(cache);
}

// Two experts: one with some of the rows, one with all. First all tiles together, then one by one.
void run_experts(OperatorBench& bench) {
  const int64_t hidden = bench.shape().config.hidden_size;
  const int64_t tile_count = bench.shape().tiles;
  std::vector<const std::byte*> tiles[2];
  for (auto& expert : tiles) {
    for (int64_t t = 0; t < tile_count; ++t) expert.push_back(bench.tile().data());
  }
  for (const int64_t rows : {1, 3, 6, 70}) {
    std::vector<int32_t> all(static_cast<size_t>(rows));
    std::iota(all.begin(), all.end(), 0);
    const std::vector<int32_t> some(all.begin() + static_cast<ptrdiff_t>(rows / 2), all.end());
    const auto op = [&](int expert, int64_t first, int64_t count) {
      const std::span<const std::byte* const> data(tiles[expert]);
      return ExpertOp{data.subspan(static_cast<size_t>(first), static_cast<size_t>(count)), first,
                      expert == 0 ? some : all, expert == 0 ? rows : 0};
    };
    const Rows x = bench.rows(rows, hidden);
    bench.backend().begin_experts(x);
    const Rows whole = bench.rows(2 * rows, hidden);
    const ExpertOp both[] = {op(0, 0, tile_count), op(1, 0, tile_count)};
    bench.backend().gate_up_proj(both);
    bench.backend().down_proj(both, whole);
    bench.keep(whole);
    const Rows streamed = bench.rows(2 * rows, hidden);
    for (int64_t t = 0; t < tile_count; ++t) {
      const ExpertOp one = op(1, t, 1);
      bench.backend().gate_up_proj(std::span(&one, 1));
      bench.backend().down_proj(std::span(&one, 1), streamed);
    }
    bench.keep(streamed);
  }
}

void run_combine(OperatorBench& bench) {
  constexpr int64_t kRows = 7;
  const int64_t hidden = bench.shape().config.hidden_size;
  std::vector<int32_t> outputs;
  std::vector<float> weights;
  for (int32_t row = 0; row < kRows; ++row) {
    const bool one = row % 3 == 1;  // the gate has dropped the second expert
    outputs.insert(outputs.end(), {2 * row, one ? -1 : 2 * row + 1});
    weights.insert(weights.end(), {0.75F, one ? 0.0F : 0.25F});
  }
  const Rows into = bench.rows(kRows, hidden);
  const Rows outs = bench.rows(2 * kRows, hidden);
  bench.backend().combine({outputs, weights, outs, into});
  bench.keep(into);
}

BackendShape with_heads(BackendShape shape, int64_t heads, int64_t kv_heads) {
  shape.config.num_attention_heads = heads;
  shape.config.num_key_value_heads = kv_heads;
  return shape;
}

BackendShape with_context(BackendShape shape, int64_t positions) {
  shape.max_context = positions;
  return shape;
}

BackendShape with_hidden_size(BackendShape shape, int64_t hidden) {
  shape.config.hidden_size = hidden;
  return shape;
}

}  // namespace

std::vector<OperatorCase> operator_cases() {
  const BackendShape plain = operator_shape(DType::kInt4, 32, /*kv_f16=*/true, /*head_dim=*/24);
  const BackendShape long_rows = with_hidden_size(plain, 2304);
  std::vector<OperatorCase> cases = {
      {"linear_int4", plain, run_linear<DType::kInt4>},
      {"linear_int8", plain, run_linear<DType::kInt8>},
      {"linear_f16", plain, run_linear<DType::kF16>},
      {"linear_f32", plain, run_linear<DType::kF32>},
      {"long_rows_int4", long_rows, run_long_rows<DType::kInt4, 32>},
      {"long_rows_int4_128", long_rows, run_long_rows<DType::kInt4, 128>},
      {"long_rows_int8", long_rows, run_long_rows<DType::kInt8, 32>},
      {"long_rows_int8_128", long_rows, run_long_rows<DType::kInt8, 128>},
      {"long_rows_f16", long_rows, run_long_rows<DType::kF16, kBlockRows>},
      {"long_rows_f32", long_rows, run_long_rows<DType::kF32, kBlockRows>},
      {"norm_and_add", plain, run_rows},
      {"norm_and_add_4176", with_hidden_size(plain, 4176), run_rows},  // longer than a chunk
      {"attention_f16", plain, run_attention<uint16_t>},
      {"attention_f32", operator_shape(DType::kInt4, 32, false, 24), run_attention<float>},
      {"attention_f16_128", operator_shape(DType::kInt4, 32, true, 128), run_attention<uint16_t>},
      {"attention_f32_128", operator_shape(DType::kInt4, 32, false, 128), run_attention<float>},
      {"attention_3_heads_1", with_heads(plain, 3, 1), run_attention<uint16_t>},
      {"attention_8_heads_2", with_heads(plain, 8, 2), run_attention<uint16_t>},
      {"attention_8_heads_1_f32", with_heads(operator_shape(DType::kInt4, 32, false, 42), 8, 1),
       run_attention<float>},
      {"attention_1024", with_heads(operator_shape(DType::kInt4, 32, true, 1024), 2, 1),
       run_attention<uint16_t>},
      {"attention_8300", with_context(with_heads(plain, 2, 1), kLongPositions),
       run_attention<uint16_t>},
      {"combine", plain, run_combine},
  };
  for (const DType type : {DType::kInt4, DType::kInt8, DType::kF16, DType::kF32}) {
    for (const int64_t group : {32, 64, 128}) {
      if (!is_quantized(type) && group > 32) continue;
      const int64_t granule = is_quantized(type) ? group : kBlockRows;
      cases.push_back({str_cat("experts_", dtype_name(type), '_', granule),
                       operator_shape(type, granule, true, 24), run_experts});
    }
  }
  for (const auto& more : {move_cases(), routed_cases()}) {
    cases.insert(cases.end(), more.begin(), more.end());
  }
  return cases;
}

}  // namespace adapmoe
