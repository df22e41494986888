// SPDX-License-Identifier: Apache-2.0
// What a backend is told of a pack.
#pragma once
#include <cstdint>
#include <string_view>

#include "runtime/backend/backend.h"
#include "runtime/base/status.h"
#include "runtime/store/pack.h"

namespace adapmoe {

// `max_rows`: token rows per step. Without a context: for a backend that never attends.
BackendShape backend_shape(const Pack& pack, int64_t max_rows, bool kv_f16, ExpertPath path);

// `arithmetic`: "auto", "w4a8" or "w4a16"; "auto" is exact. Errors: kInvalidArgument for an unknown
// name, for a path that is not `exact` where that is wanted, and for one that `dtype` has no use
// of.
Result<ExpertPath> choose_expert_path(std::string_view arithmetic, bool exact, DType dtype);

}  // namespace adapmoe
