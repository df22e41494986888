// SPDX-License-Identifier: Apache-2.0
// CRC-32C (Castagnoli, reflected 0x82f63b78), the checksum of a pack.
#pragma once
#include <cstddef>
#include <cstdint>

namespace adapmoe {

// Check value: crc32c("123456789", 9) == 0xe3069283. Uses the CPU's instruction
// where it has one. `before` is the checksum of the bytes in front of `data`,
// for data that comes in pieces.
uint32_t crc32c(const void* data, size_t bytes, uint32_t before = 0);

// The same by tables alone: the reference that the instruction paths are tested
// against.
uint32_t crc32c_portable(const void* data, size_t bytes);

}  // namespace adapmoe
