// SPDX-License-Identifier: Apache-2.0
// What packing a matrix changed.
#pragma once
#include <cstdint>
#include <span>

#include "runtime/base/packed_layout.h"  // PackedShape
#include "runtime/store/matrix_view.h"

namespace adapmoe {

// Sums over weights, in double.
struct PackingError {
  double squared_error = 0.0;    // sum of (stored value - weight)^2
  double squared_weights = 0.0;  // sum of weight^2

  void add(float weight, double stored) {
    const double error = stored - static_cast<double>(weight);
    squared_error += error * error;
    squared_weights += static_cast<double>(weight) * static_cast<double>(weight);
  }
};

// Compares the first `rows` rows and `cols` columns of a packed matrix with `weights`. Any bytes
// are accepted: a scale that is not finite gives an error that is not. REQUIRES: data.size() ==
// packed.bytes(); rows <= packed.rows; cols <= packed.cols.
PackingError packing_error(std::span<const uint8_t> data, const PackedShape& packed,
                           MatrixView weights, int64_t rows, int64_t cols);

}  // namespace adapmoe
