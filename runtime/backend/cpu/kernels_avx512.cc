// SPDX-License-Identifier: Apache-2.0
// Compiled for AVX-512 with VNNI; called only after cpu_features says that the machine has it.
#include "runtime/backend/cpu/kernels_generic.h"
#include "runtime/backend/cpu/lanes_avx512.h"

namespace adapmoe {

const KernelTable& avx512_kernels() {
  static constexpr KernelTable kTable = make_kernel_table<Avx512Lanes>("avx512");
  return kTable;
}

}  // namespace adapmoe
