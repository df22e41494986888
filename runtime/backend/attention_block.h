// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

namespace adapmoe {

// Positions per block of attention; blocks start at multiples of it, whoever computes them.
inline constexpr int64_t kAttentionBlock = 128;

}  // namespace adapmoe
