// SPDX-License-Identifier: Apache-2.0
// How long one burst of reads takes: what the probe of the queue depth is made of.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "runtime/base/status.h"
#include "runtime/io/async_reader.h"

namespace adapmoe {

// Fills `into` from `offset` by demand reads of `tile_bytes` each, all submitted at once. Returns
// the seconds from there to the last arrival. REQUIRES: a fresh reader; offset, tile_bytes and the
// size of `into` are multiples of 4 KiB. Errors: kReadError, of the first read that failed.
Result<double> time_burst(AsyncReader& reader, int64_t offset, int64_t tile_bytes,
                          std::span<std::byte> into);

}  // namespace adapmoe
