// SPDX-License-Identifier: Apache-2.0
#include "runtime/backend/cpu/cpu_features.h"

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "runtime/base/strings.h"

namespace adapmoe {

std::vector<const KernelTable*> available_kernels() {
  std::vector<const KernelTable*> tables;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni")) {
    tables.push_back(&avx512_kernels());
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    tables.push_back(&avx2_kernels());
  }
#elif defined(__aarch64__)
  if ((getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0) tables.push_back(&neon_kernels());
#endif
  tables.push_back(&scalar_kernels());
  return tables;
}

Result<const KernelTable*> select_kernels(const std::string& name) {
  const std::vector<const KernelTable*> tables = available_kernels();
  if (name == "auto") return tables.front();
  std::string names = "auto";
  for (const KernelTable* table : tables) {
    if (name == table->name) return table;
    names += str_cat(", ", table->name);
  }
  return unavailable(
      str_cat("kernels=\"", name, "\" cannot run on this machine; use one of ", names));
}

}  // namespace adapmoe
