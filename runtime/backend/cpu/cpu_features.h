// SPDX-License-Identifier: Apache-2.0
// Which kernels this machine can run.
#pragma once
#include <string>
#include <vector>

#include "runtime/backend/cpu/kernel_table.h"
#include "runtime/base/status.h"

namespace adapmoe {

// Tables that this machine can run, best first; the scalar one is always last.
std::vector<const KernelTable*> available_kernels();

// The table called `name`, or the best one for "auto".
// Errors: kUnavailable naming what could be asked for instead.
Result<const KernelTable*> select_kernels(const std::string& name);

}  // namespace adapmoe
