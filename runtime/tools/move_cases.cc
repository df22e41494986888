// SPDX-License-Identifier: Apache-2.0
// What only moves values: rows of an embedding table, and copies.
#include "runtime/base/strings.h"
#include "runtime/tools/operator_cases.h"

namespace adapmoe {
namespace {

// Rows of several blocks of the table, some twice, the first and the last.
template <DType kType>
void run_embed(OperatorBench& bench) {
  const ModelConfig& c = bench.shape().config;
  for (const int64_t group : {32, 64, 128}) {
    const int64_t granule = is_quantized(kType) ? group : kBlockRows;
    const Matrix table = bench.matrix({kType, c.vocab_size, c.hidden_size, granule});
    for (const int64_t rows : {1, 7, 70}) {
      std::vector<int32_t> ids;
      ids.reserve(static_cast<size_t>(rows));
      for (int64_t i = 0; i < rows; ++i) {
        ids.push_back(static_cast<int32_t>((i + 1) * 7 % c.vocab_size));
      }
      ids.back() = static_cast<int32_t>(c.vocab_size - 1);
      const Rows out = bench.rows(rows, c.hidden_size);
      bench.backend().embed(table, ids, out);
      bench.keep(out);
    }
  }
}

// From one word to more than one block of threads copies; what lies behind stays.
void run_copy(OperatorBench& bench) {
  for (const int64_t words : {1, 127, 128, 129, 5000}) {
    const Rows from = bench.rows(1, 4 * words);
    const Rows to = bench.rows(1, 4 * words + 64);
    bench.backend().copy(from.data, to.data, 16 * words);
    bench.keep(to);
  }
}

}  // namespace

std::vector<OperatorCase> move_cases() {
  const BackendShape shape = operator_shape(DType::kInt4, 32, /*kv_f16=*/true, /*head_dim=*/24);
  return {
      {"embed_int4", shape, run_embed<DType::kInt4>},
      {"embed_int8", shape, run_embed<DType::kInt8>},
      {"embed_f16", shape, run_embed<DType::kF16>},
      {"embed_f32", shape, run_embed<DType::kF32>},
      {"copy", shape, run_copy},
  };
}

}  // namespace adapmoe
