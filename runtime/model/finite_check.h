// SPDX-License-Identifier: Apache-2.0
// Finds out where a step first computes NaN or infinity. It waits for the device after every
// operator, so only a step whose logits were not finite is repeated with it.
#pragma once
#include <cstdint>
#include <span>

#include "runtime/backend/backend.h"
#include "runtime/base/status.h"
#include "runtime/model/attention.h"  // TokenRow
#include "runtime/model/workspace.h"

namespace adapmoe {

class FiniteCheck {
 public:
  // Both outlive it.
  FiniteCheck(const ModelConfig& config, Backend& backend, bool kv_f16)
      : config_(config), backend_(backend), kv_f16_(kv_f16) {}

  // After these parts of a step, in its order. Errors: kNonFinite saying what was not finite;
  // kUnavailable where the device failed.
  Status after_embedding(const Workspace& work, int64_t rows);
  Status after_attention(const Workspace& work, int32_t layer, std::span<const TokenRow> rows);
  Status after_experts(const Workspace& work, int32_t layer, int64_t rows);
  // The error where all of that was finite and the logits are not.
  static Status in_head();

 private:
  Result<bool> finite(Rows rows, int64_t width);
  Result<bool> cache_overflowed(int32_t layer, std::span<const TokenRow> rows);

  const ModelConfig& config_;
  Backend& backend_;
  bool kv_f16_;
};

}  // namespace adapmoe
