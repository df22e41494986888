// SPDX-License-Identifier: Apache-2.0
// Writes a float matrix as a packed matrix (export/FORMAT.md, "Packed matrix"). Used by the
// exporter only.
#pragma once
#include <cstdint>
#include <span>

#include "runtime/base/packed_layout.h"  // PackedShape
#include "runtime/base/status.h"
#include "runtime/store/matrix_view.h"
#include "runtime/store/packing_error.h"  // PackingError

namespace adapmoe {

// kInvalidArgument unless rows and cols are positive and group_size fits the dtype.
Status check_packed_shape(const PackedShape& shape);

// Fills `out` (exactly `shape.bytes()`). The bytes do not depend on `threads` (0: usable_cpus()) or
// on the instruction set. kInvalidArgument names the first weight, in row order within the first
// bad block of 16 rows, that is not finite or too large for the dtype; `out` is then unspecified.
// REQUIRES: check_packed_shape(shape) is ok; out.size() == shape.bytes().
Result<PackingError> pack_matrix(MatrixView matrix, const PackedShape& shape, int threads,
                                 std::span<uint8_t> out);

}  // namespace adapmoe
