// SPDX-License-Identifier: Apache-2.0
// SHA-256 (FIPS 180-4), for files whose hash says what may be trusted.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace adapmoe {

using Sha256 = std::array<uint8_t, 32>;

// By the processor's instructions for it, where there are any.
Sha256 sha256(std::span<const std::byte> data);
// The same without them, to compare.
Sha256 sha256_portable(std::span<const std::byte> data);

// 64 lowercase hexadecimal digits.
std::string to_hex(const Sha256& hash);

}  // namespace adapmoe
