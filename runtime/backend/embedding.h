// SPDX-License-Identifier: Apache-2.0
// Rows of the embedding table, which every backend reads on the CPU: one row per token.
#pragma once
#include <cstdint>
#include <span>

#include "runtime/backend/backend.h"

namespace adapmoe {

// out.row(i) = row ids[i] of `table` as floats.
void embed_rows(const Matrix& table, std::span<const int32_t> ids, Rows out);

}  // namespace adapmoe
