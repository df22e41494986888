// SPDX-License-Identifier: Apache-2.0
// Counts the reads and layers that a session has finished. Whoever watches for a hang asks whether
// it grows.
#pragma once
#include <atomic>
#include <cstdint>

namespace adapmoe {

using Progress = std::atomic<uint64_t>;

}  // namespace adapmoe
