// SPDX-License-Identifier: Apache-2.0
// Compiled with -mavx2 -mfma -mf16c; called only after cpu_features says that the machine has them.
#include "runtime/backend/cpu/kernels_generic.h"
#include "runtime/backend/cpu/lanes_avx2.h"

namespace adapmoe {

const KernelTable& avx2_kernels() {
  static constexpr KernelTable kTable = make_kernel_table<Avx2Lanes>("avx2");
  return kTable;
}

}  // namespace adapmoe
