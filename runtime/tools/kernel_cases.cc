// SPDX-License-Identifier: Apache-2.0
#include "runtime/tools/kernel_cases.h"

#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <type_traits>

#include "runtime/base/half.h"
#include "runtime/base/packed_layout.h"
#include "runtime/tools/kernel_inputs.h"

namespace adapmoe {
namespace {

// Some rows share one pass over a block and some do not, in any table.
constexpr int64_t kRowCounts[] = {1, 3, 4, 7, 18};
constexpr int64_t kBlocks = 3;           // the same of blocks
constexpr float kUnwritten = -12345.5F;  // fills what a kernel must leave alone

class Output {
 public:
  template <typename T>
  void add(const std::vector<T>& values) {
    const auto bytes = std::as_bytes(std::span(values));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

std::vector<std::byte> run_quantize(const KernelTable& table) {
  Output out;
  Random random(1);
  for (const int64_t group : {16, 32, 64, 128}) {
    for (const Spread spread : kFiniteSpreads) {
      for (const bool finite : {true, false}) {
        const int64_t n = 3 * group;
        std::vector<float> x = draw(random, spread, n);
        for (size_t i = 0; !finite && i < std::size(kNotFinite); ++i) {
          x[static_cast<size_t>(random.between(0, n - 1))] = std::bit_cast<float>(kNotFinite[i]);
        }
        std::vector<int8_t> q(static_cast<size_t>(n));
        std::vector<float> scale(3);
        std::vector<int32_t> sum(3);
        table.quantize(x.data(), n, group, q.data(), scale.data(), sum.data());
        out.add(q);
        out.add(scale);
        out.add(sum);
      }
    }
  }
  return out.take();
}

// The output rows of some blocks: 16 values for each, and others around them that stay unwritten.
struct BlockRows {
  static constexpr int64_t kStride = kBlocks * kBlockRows + 4;
  std::vector<float> y;

  BlockRows(Random& random, int64_t rows) : y(static_cast<size_t>(rows * kStride), kUnwritten) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t lane = 0; lane < kBlocks * kBlockRows; ++lane) {
        y[static_cast<size_t>(i * kStride + lane)] = draw(random, Spread::kPlain);
      }
    }
  }
};

// Runs `kernel` for several numbers of rows and blocks, with and without an index, from zero and
// from y. `args` has everything else; act holds `activations` rows.
void run_rows(void (*kernel)(const BlockArgs&), BlockArgs args, int64_t activations, Random& random,
              Output& out) {
  for (const int64_t rows : kRowCounts) {
    for (const bool accumulate : {false, true}) {
      std::vector<int32_t> index(static_cast<size_t>(rows));
      for (int32_t& at : index) at = static_cast<int32_t>(random.between(0, activations - 1));
      BlockRows result(random, rows);
      args.index = accumulate ? index.data() : nullptr;
      args.rows = rows;
      args.y = result.y.data();
      args.y_stride = BlockRows::kStride;
      args.accumulate = accumulate;
      args.blocks = rows == 1 || accumulate ? kBlocks : 1;
      kernel(args);
      out.add(result.y);
    }
  }
}

enum class Quants : uint8_t { kAny, kLeast, kMost };

// A block of 16 rows whose scales are any positive half, the subnormal ones included.
void fill_block(Random& random, const PackedShape& shape, Quants quants,
                std::span<std::byte> block) {
  const bool int4 = shape.dtype == DType::kInt4;
  auto* scales = reinterpret_cast<uint16_t*>(block.data());
  for (int64_t i = 0; i < shape.groups() * kBlockRows; ++i) {
    scales[i] = static_cast<uint16_t>(random.between(1, 0x7bff));
  }
  for (auto i = static_cast<size_t>(shape.scale_bytes()); i < block.size(); ++i) {
    int64_t value = int4 ? random.between(0, 255) : random.between(-127, 127);
    if (quants == Quants::kLeast) value = int4 ? 0 : -127;
    if (quants == Quants::kMost) value = int4 ? 255 : 127;
    block[i] = static_cast<std::byte>(value & 255);
  }
}

template <DType kType>
std::vector<std::byte> run_quantized(const KernelTable& table) {
  constexpr int64_t kActivations = 18;
  Output out;
  Random random(2);
  for (const int64_t group : {32, 64, 128}) {
    for (const Quants quants : {Quants::kAny, Quants::kLeast, Quants::kMost}) {
      const int64_t groups = random.between(1, 3);
      const PackedShape shape{kType, kBlockRows, groups * group, group};
      const auto block_bytes = static_cast<size_t>(shape.block_bytes());
      std::vector<std::byte> blocks(kBlocks * block_bytes);
      for (size_t b = 0; b < kBlocks; ++b) {
        fill_block(random, shape, quants, std::span(blocks).subspan(b * block_bytes, block_bytes));
      }
      std::vector<int8_t> q(static_cast<size_t>(kActivations * shape.cols));
      std::vector<float> scale(static_cast<size_t>(kActivations * groups));
      std::vector<int32_t> sum(scale.size());
      for (size_t i = 0; i < scale.size(); ++i) {
        scale[i] = std::fabs(draw(random, Spread::kWide));
        const bool extreme = quants != Quants::kAny && i % 2 == 0;
        for (int64_t k = 0; k < group; ++k) {
          const auto value = static_cast<int8_t>(extreme ? 127 : random.between(-127, 127));
          q[i * static_cast<size_t>(group) + static_cast<size_t>(k)] = value;
          sum[i] += value;
        }
      }
      BlockArgs args;
      args.block = blocks.data();
      args.cols = shape.cols;
      args.group_size = group;
      args.scale_bytes = shape.scale_bytes();
      args.act = {.q = q.data(),
                  .scale = scale.data(),
                  .sum = sum.data(),
                  .q_stride = shape.cols,
                  .group_stride = groups};
      run_rows(kType == DType::kInt4 ? table.block_int4 : table.block_int8, args, kActivations,
               random, out);
    }
  }
  return out.take();
}

// T is float, or uint16_t for fp16.
template <typename T>
std::vector<T> draw_as(Random& random, Spread spread, int64_t count) {
  std::vector<T> values(static_cast<size_t>(count));
  for (T& value : values) {
    if constexpr (std::is_same_v<T, float>) {
      value = draw(random, spread);
    } else if (spread == Spread::kWide) {
      value = static_cast<uint16_t>(random.between(0, 0x7bff) | random.between(0, 1) << 15);
    } else {
      value = float_to_half(draw(random, spread));
    }
  }
  return values;
}

template <typename T>
std::vector<std::byte> run_float(const KernelTable& table) {
  constexpr int64_t kActivations = 18;
  Output out;
  Random random(3);
  for (const Spread spread : {Spread::kPlain, Spread::kWide, Spread::kSubnormal, Spread::kZero}) {
    const int64_t cols = 16 * random.between(1, 5);
    const std::vector<T> blocks = draw_as<T>(random, spread, kBlocks * cols * kBlockRows);
    const std::vector<float> x = draw(random, spread, kActivations * cols);
    BlockArgs args;
    args.block = reinterpret_cast<const std::byte*>(blocks.data());
    args.cols = cols;
    args.group_size = kBlockRows;
    args.act.x = x.data();
    args.act.x_stride = cols;
    run_rows(std::is_same_v<T, float> ? table.block_f32 : table.block_f16, args, kActivations,
             random, out);
  }
  return out.take();
}

std::vector<std::byte> run_rms_norm(const KernelTable& table) {
  Output out;
  Random random(4);
  for (const Spread spread : {Spread::kPlain, Spread::kWide, Spread::kSubnormal, Spread::kZero}) {
    for (const int64_t n : {1, 16, 83, 512}) {
      const auto padded = static_cast<size_t>(align_up(n, 16));
      std::vector<float> x = draw(random, spread, n);
      std::vector<float> weight = draw(random, Spread::kPlain, n);
      x.resize(padded);
      weight.resize(padded);
      std::vector<float> y(padded, kUnwritten);
      table.rms_norm(x.data(), weight.data(), n, 1e-5F, y.data());
      out.add(y);
    }
  }
  return out.take();
}

std::vector<std::byte> run_swiglu(const KernelTable& table) {
  // Where exp is clamped, begins to be subnormal, or has nothing to do.
  constexpr float kEdges[] = {0.0F,   -0.0F,   FLT_MAX, -FLT_MAX, FLT_MIN, -FLT_MIN,
                              1e-45F, -1e-45F, 86.99F,  -86.99F,  87.0F,   -87.0F,
                              88.0F,  -88.0F,  88.5F,   -104.0F};
  Output out;
  Random random(5);
  for (const Spread spread : kFiniteSpreads) {
    std::vector<float> gate = draw(random, spread, 160);
    std::copy(std::begin(kEdges), std::end(kEdges), gate.begin() + 16);
    const std::vector<float> up = draw(random, spread, 160);
    table.swiglu(gate.data(), up.data(), 160, gate.data());  // in place, as it is used
    out.add(gate);
  }
  return out.take();
}

template <typename T>
std::vector<std::byte> run_attend(const KernelTable& table) {
  constexpr int64_t kPositions = 300;
  constexpr int64_t kHeads = 3;
  constexpr std::array<std::array<int64_t, 2>, 6> kRanges = {
      {{0, 0}, {0, 127}, {0, 128}, {5, 299}, {127, 255}, {130, 140}}};
  Output out;
  Random random(6);
  for (const int64_t dim : {16, 128}) {
    const std::vector<T> k = draw_as<T>(random, Spread::kPlain, kPositions * 2 * dim);
    const std::vector<T> v = draw_as<T>(random, Spread::kPlain, kPositions * 2 * dim);
    const std::vector<float> q = draw(random, Spread::kPlain, kHeads * dim);
    std::vector<float> scratch(static_cast<size_t>(kHeads * (kAttentionBlock + 2 * dim)));
    for (const auto& [first, last] : kRanges) {
      // The larger scale drives most weights to where exp is clamped.
      for (const float scale : {1.0F / std::sqrt(static_cast<float>(dim)), 30.0F}) {
        std::vector<float> result(static_cast<size_t>(kHeads * dim), kUnwritten);
        const AttendArgs args{.q = q.data(),
                              .k = reinterpret_cast<const std::byte*>(k.data()),
                              .v = reinterpret_cast<const std::byte*>(v.data()),
                              .kv_stride = 2 * dim,
                              .heads = kHeads,
                              .head_dim_padded = dim,
                              .first = first,
                              .last = last,
                              .scale = scale,
                              .scratch = scratch.data(),
                              .out = result.data()};
        (std::is_same_v<T, float> ? table.attend_f32 : table.attend_f16)(args);
        out.add(result);
      }
    }
  }
  return out.take();
}

std::vector<std::byte> run_to_half(const KernelTable& table) {
  Output out;
  Random random(7);
  std::vector<float> x;
  for (const uint32_t bits : kNotFinite) x.push_back(std::bit_cast<float>(bits));
  for (const float edge : {65504.0F, 65519.99F, 65520.0F, 65536.0F}) x.push_back(edge);
  for (int64_t half = 0; half < 0x7c00; half += 31) {  // each, and the tie above it
    const uint32_t bits = std::bit_cast<uint32_t>(half_to_float(static_cast<uint16_t>(half)));
    x.push_back(std::bit_cast<float>(bits));
    x.push_back(-std::bit_cast<float>(bits + 0x1000U));
  }
  for (int i = 0; i < 512; ++i) x.push_back(random.between_powers(-28, 17));
  x.resize(static_cast<size_t>(align_up(static_cast<int64_t>(x.size()), 16)));
  std::vector<uint16_t> halves(x.size());
  table.to_half(x.data(), static_cast<int64_t>(x.size()), halves.data());
  out.add(halves);
  return out.take();
}

constexpr KernelCase kCases[] = {
    {"quantize", run_quantize},
    {"block_int4", run_quantized<DType::kInt4>},
    {"block_int8", run_quantized<DType::kInt8>},
    {"block_f16", run_float<uint16_t>},
    {"block_f32", run_float<float>},
    {"rms_norm", run_rms_norm},
    {"swiglu", run_swiglu},
    {"attend_f16", run_attend<uint16_t>},
    {"attend_f32", run_attend<float>},
    {"to_half", run_to_half},
};
static_assert(sizeof(KernelTable) == sizeof(const char*) + std::size(kCases) * sizeof(void (*)()),
              "a new kernel needs a case here");

}  // namespace

std::span<const KernelCase> kernel_cases() { return kCases; }

}  // namespace adapmoe
