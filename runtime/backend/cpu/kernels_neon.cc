// SPDX-License-Identifier: Apache-2.0
// Compiled with -march=armv8.2-a+dotprod; called only after cpu_features says that the machine has
// the extension.
#include "runtime/backend/cpu/kernels_generic.h"
#include "runtime/backend/cpu/lanes_neon.h"

namespace adapmoe {

const KernelTable& neon_kernels() {
  static constexpr KernelTable kTable = make_kernel_table<NeonLanes>("neon");
  return kTable;
}

}  // namespace adapmoe
