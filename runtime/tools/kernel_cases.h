// SPDX-License-Identifier: Apache-2.0
// Every kernel of a table on inputs that are the same on every machine.
#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "runtime/backend/cpu/kernel_table.h"

namespace adapmoe {

struct KernelCase {
  const char* name;  // of the table's entry
  // All that the kernel of `table` writes, padding around it included.
  std::vector<std::byte> (*run)(const KernelTable& table);
};

// One per entry of KernelTable, in its order.
std::span<const KernelCase> kernel_cases();

}  // namespace adapmoe
