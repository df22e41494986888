// SPDX-License-Identifier: Apache-2.0
#include "runtime/store/pack_matrix.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "runtime/base/check.h"
#include "runtime/base/fp_environment.h"
#include "runtime/base/half.h"
#include "runtime/base/strings.h"
#include "runtime/base/usable_cpus.h"
#include "runtime/store/quantize_group.h"

namespace adapmoe {
namespace {

void store16(uint8_t* p, uint16_t value) { std::memcpy(p, &value, sizeof(value)); }

// Packs one block of 16 rows. Rows and columns beyond the matrix are zeros.
class BlockPacker {
 public:
  BlockPacker(MatrixView matrix, const PackedShape& shape)
      : matrix_(matrix),
        shape_(shape),
        limit_(is_quantized(shape.dtype)    ? largest_quantizable(shape.dtype)
               : shape.dtype == DType::kF16 ? kHalfMax
                                            : std::numeric_limits<float>::max()),
        block_(static_cast<size_t>(kBlockRows * shape.cols_padded())) {}

  // `out` holds shape.block_bytes() zero bytes.
  Status pack(int64_t block, uint8_t* out, PackingError& error) {
    for (int64_t lane = 0; lane < kBlockRows; ++lane) {
      ADAPMOE_RETURN_IF_ERROR(fill_row(block * kBlockRows + lane, lane));
    }
    if (is_quantized(shape_.dtype)) {
      static_assert(kBlockRows % kGroupLanes == 0);
      for (int64_t lane = 0; lane < kBlockRows; lane += kGroupLanes) {
        quantize_rows(lane, out, error);
      }
      return {};
    }
    for (int64_t lane = 0; lane < kBlockRows; ++lane) {
      shape_.dtype == DType::kF16 ? write_f16(lane, out, error) : write_f32(lane, out, error);
    }
    return {};
  }

 private:
  float* row(int64_t lane) { return block_.data() + lane * shape_.cols_padded(); }

  // Fills row(lane), whose tail beyond `cols` is always zero.
  Status fill_row(int64_t source_row, int64_t lane) {
    float* weights = row(lane);
    if (source_row >= shape_.rows) {
      std::fill_n(weights, shape_.cols, 0.0f);
      return {};
    }
    load_row(matrix_, source_row, shape_.cols, weights);
    bool in_range = true;
    for (int64_t c = 0; c < shape_.cols; ++c) in_range &= std::fabs(weights[c]) <= limit_;
    return in_range ? Status{} : bad_weight(weights, source_row);
  }

  Status bad_weight(const float* weights, int64_t source_row) const {
    int64_t col = 0;
    while (std::fabs(weights[col]) <= limit_) ++col;
    const std::string place =
        str_cat("weight at row ", source_row, ", column ", col, " is ", weights[col]);
    if (!std::isfinite(weights[col])) {
      return invalid_argument(str_cat(place, ": weights must be finite"));
    }
    return invalid_argument(str_cat(place, ": ", dtype_name(shape_.dtype), " holds at most ",
                                    limit_, "; export this matrix as f32"));
  }

  // The rows of kGroupLanes lanes, group by group.
  void quantize_rows(int64_t first_lane, uint8_t* out, PackingError& error) {
    const int64_t n = shape_.group_size;
    for (int64_t group = 0; group < shape_.groups(); ++group) {
      float weights[kMaxGroupSize * kGroupLanes];
      int8_t quants[kMaxGroupSize * kGroupLanes];
      for (int64_t lane = 0; lane < kGroupLanes; ++lane) {
        const float* source = row(first_lane + lane) + group * n;
        for (int64_t i = 0; i < n; ++i) weights[i * kGroupLanes + lane] = source[i];
      }
      GroupScales scales;
      quantize_groups(weights, static_cast<int>(n), shape_.dtype, quants, scales);
      for (int64_t lane = 0; lane < kGroupLanes; ++lane) {
        int8_t lane_quants[kMaxGroupSize];
        for (int64_t i = 0; i < n; ++i) lane_quants[i] = quants[i * kGroupLanes + lane];
        store16(out + (group * kBlockRows + first_lane + lane) * 2, scales.half_bits[lane]);
        uint8_t* words = out + shape_.scale_bytes() + (first_lane + lane) * 4;
        if (shape_.dtype == DType::kInt4) {
          write_int4(lane_quants, group * n / 8, words);
        } else {
          write_int8(lane_quants, group * n / 4, words);
        }
        const float* source = row(first_lane + lane) + group * n;
        for (int64_t i = 0; i < n; ++i) {
          error.add(source[i], static_cast<double>(lane_quants[i]) * scales.values[lane]);
        }
      }
    }
  }

  // Byte j of a word: column 8c + j in the low nibble, 8c + 4 + j in the high one, offset by 8.
  void write_int4(const int8_t* quants, int64_t first_word, uint8_t* words) const {
    for (int64_t c = 0; c < shape_.group_size / 8; ++c) {
      for (int64_t j = 0; j < 4; ++j) {
        const int low = quants[8 * c + j] + 8;
        const int high = quants[8 * c + 4 + j] + 8;
        words[(first_word + c) * kBlockRows * 4 + j] = static_cast<uint8_t>(low | (high << 4));
      }
    }
  }

  void write_int8(const int8_t* quants, int64_t first_word, uint8_t* words) const {
    for (int64_t c = 0; c < shape_.group_size / 4; ++c) {
      std::memcpy(words + (first_word + c) * kBlockRows * 4, quants + 4 * c, 4);
    }
  }

  void write_f16(int64_t lane, uint8_t* out, PackingError& error) {
    const float* weights = row(lane);
    for (int64_t c = 0; c < shape_.cols_padded(); ++c) {
      const uint16_t half = float_to_half(weights[c]);
      store16(out + (c * kBlockRows + lane) * 2, half);
      error.add(weights[c], half_to_float(half));
    }
  }

  void write_f32(int64_t lane, uint8_t* out, PackingError& error) {
    const float* weights = row(lane);
    for (int64_t c = 0; c < shape_.cols_padded(); ++c) {
      std::memcpy(out + (c * kBlockRows + lane) * 4, weights + c, 4);
      error.add(weights[c], weights[c]);
    }
  }

  MatrixView matrix_;
  PackedShape shape_;
  float limit_;               // largest magnitude that the dtype can hold
  std::vector<float> block_;  // [16][cols_padded]
};

// The failure of the lowest block, whichever thread met it.
class FirstFailure {
 public:
  void offer(int64_t block, Status status) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!status_ || block < block_) {
      block_ = block;
      status_ = std::move(status);
    }
    any_.store(true, std::memory_order_relaxed);
  }
  bool any() const { return any_.load(std::memory_order_relaxed); }
  // REQUIRES: all threads have joined.
  const std::optional<Status>& status() const { return status_; }

 private:
  std::mutex mutex_;
  std::atomic<bool> any_{false};
  int64_t block_ = 0;
  std::optional<Status> status_;
};

void run_on_threads(int count, const std::function<void()>& work) {
  std::vector<std::thread> others;
  others.reserve(static_cast<size_t>(count - 1));
  try {
    for (int i = 1; i < count; ++i) others.emplace_back(work);
  } catch (const std::system_error&) {
    // No more threads to be had: those that exist do all of the work, with the same result.
  }
  work();
  for (std::thread& thread : others) thread.join();
}

}  // namespace

Status check_packed_shape(const PackedShape& shape) {
  if (shape.rows <= 0 || shape.cols <= 0) {
    return invalid_argument(
        str_cat("a matrix needs rows and columns, got [", shape.rows, ", ", shape.cols, "]"));
  }
  const int64_t g = shape.group_size;
  const bool fits = is_quantized(shape.dtype) ? g == 32 || g == 64 || g == 128 : g == 16;
  if (!fits) {
    return invalid_argument(str_cat("group_size ", g, " does not fit ", dtype_name(shape.dtype),
                                    ": int4 and int8 take 32, 64 or 128; f16 and f32 take 16"));
  }
  return {};
}

Result<PackingError> pack_matrix(MatrixView matrix, const PackedShape& shape, int threads,
                                 std::span<uint8_t> out) {
  ADAPMOE_CHECK(check_packed_shape(shape).ok());
  ADAPMOE_CHECK(static_cast<int64_t>(out.size()) == shape.bytes());
  const int64_t blocks = shape.blocks();
  std::vector<PackingError> errors(static_cast<size_t>(blocks));
  std::atomic<int64_t> next_block{0};
  FirstFailure failure;
  const auto work = [&] {
    const FpEnvironment environment;
    BlockPacker packer(matrix, shape);
    // Blocks are claimed in order and finished once claimed, so the lowest bad block is always
    // found.
    while (!failure.any()) {
      const int64_t block = next_block++;
      if (block >= blocks) break;
      uint8_t* bytes = out.data() + block * shape.block_bytes();
      std::fill_n(bytes, shape.block_bytes(), uint8_t{0});
      Status status = packer.pack(block, bytes, errors[static_cast<size_t>(block)]);
      if (!status.ok()) failure.offer(block, std::move(status));
    }
  };
  const int64_t wanted = threads > 0 ? threads : usable_cpus();
  run_on_threads(static_cast<int>(std::min(wanted, blocks)), work);
  if (failure.status()) return *failure.status();

  PackingError sum;
  for (const PackingError& error : errors) {
    sum.squared_error += error.squared_error;
    sum.squared_weights += error.squared_weights;
  }
  return sum;
}

}  // namespace adapmoe
