// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/burst.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "runtime/base/check.h"

namespace adapmoe {

Result<double> time_burst(AsyncReader& reader, int64_t offset, int64_t tile_bytes,
                          std::span<std::byte> into) {
  ADAPMOE_CHECK(tile_bytes > 0);
  const auto tile = static_cast<size_t>(tile_bytes);
  std::mutex mutex;
  std::condition_variable arrived;
  size_t missing = (into.size() + tile - 1) / tile;
  Status status;
  reader.set_completion(
      [&](uint64_t /*tag*/, const Status& read, std::span<const std::byte> /*read*/) {
        const std::lock_guard lock(mutex);
        if (status.ok()) status = read;
        if (--missing == 0) arrived.notify_one();  // under the lock: the waiter may then leave
      });
  const auto begin = std::chrono::steady_clock::now();
  for (size_t at = 0; at < into.size(); at += tile) {
    reader.submit({.offset = offset + static_cast<int64_t>(at),
                   .into = into.subspan(at, std::min(tile, into.size() - at)),
                   .tag = at});
  }
  std::unique_lock lock(mutex);
  arrived.wait(lock, [&] { return missing == 0; });
  const auto end = std::chrono::steady_clock::now();
  if (!status.ok()) return status;
  return std::chrono::duration<double>(end - begin).count();
}

}  // namespace adapmoe
