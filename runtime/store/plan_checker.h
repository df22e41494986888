// SPDX-License-Identifier: Apache-2.0
// Lets a plan through only if it is what was recorded. Hashing a plan takes far longer than reading
// it, so a session may hash each plan once, and then look for damage by its CRC32C. Thread-safe.
#pragma once
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <unordered_map>

#include "runtime/base/crc32c.h"
#include "runtime/base/strings.h"
#include "runtime/store/engine_store.h"

namespace adapmoe {

class PlanChecker {
 public:
  // `store` outlives this. `always`: hash a plan each time it is read.
  PlanChecker(const EngineStore& store, bool always) : store_(store), always_(always) {}

  // Errors: kEngineError.
  Status check(size_t expert, std::span<const std::byte> plan) {
    if (always_) return store_.check(expert, plan);
    const uint32_t found = crc32c(plan.data(), plan.size());
    if (const auto known = crc_of(expert)) {
      if (found == *known) return {};
      return store_.refused(expert, str_cat("CRC32C is ", std::hex, found, ", and was ", *known,
                                            " when the plan was right: it is damaged"));
    }
    ADAPMOE_RETURN_IF_ERROR(store_.check(expert, plan));
    const std::lock_guard lock(mutex_);
    crc_[expert] = found;
    return {};
  }

 private:
  std::optional<uint32_t> crc_of(size_t expert) {
    const std::lock_guard lock(mutex_);
    const auto found = crc_.find(expert);
    return found == crc_.end() ? std::nullopt : std::optional(found->second);
  }

  const EngineStore& store_;
  const bool always_;
  std::mutex mutex_;
  std::unordered_map<size_t, uint32_t> crc_;  // of plans whose hash was right
};

}  // namespace adapmoe
