// SPDX-License-Identifier: Apache-2.0
#include "runtime/backend/cpu/kernels_generic.h"
#include "runtime/backend/cpu/lanes_scalar.h"

namespace adapmoe {

const KernelTable& scalar_kernels() {
  static constexpr KernelTable kTable = make_kernel_table<ScalarLanes>("scalar");
  return kTable;
}

}  // namespace adapmoe
