// SPDX-License-Identifier: Apache-2.0
// adapmoe-kernel-check: gate G6 on this machine, and digests to compare with another machine's.
#include <algorithm>
#include <cfenv>
#include <cstdio>
#include <cstring>

#include "runtime/backend/cpu/cpu_features.h"
#include "runtime/base/crc32c.h"
#include "runtime/base/fp_environment.h"
#include "runtime/tools/kernel_cases.h"

namespace adapmoe {
namespace {

constexpr char kUsage[] =
    "usage: adapmoe-kernel-check [--help]\n"
    "\n"
    "Runs every CPU kernel of every instruction set that this machine has on fixed pseudo-random\n"
    "inputs, extremes included, and compares the results with the scalar kernels' bit for bit.\n"
    "Prints one line per kernel: instruction set, kernel, CRC32C of its results. The digests are\n"
    "the same on every machine. Exit status: 0 all equal, 1 a difference, 2 wrong usage.\n";

// A caller's environment at its worst: rounding upward, subnormals flushed to zero.
void spoil_fp_environment() {
  std::fesetround(FE_UPWARD);
#if defined(__x86_64__)
  __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | 0x8040U);  // FTZ and DAZ
#elif defined(__aarch64__)
  uint64_t fpcr = 0;
  __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
  __asm__ volatile("msr fpcr, %0" : : "r"(fpcr | uint64_t{1} << 24));  // FZ
#endif
}

// Returns whether all kernels of `table` give the bits of the scalar ones.
bool check(const KernelTable& table) {
  bool equal = true;
  for (const KernelCase& kernel : kernel_cases()) {
    const std::vector<std::byte> expected = kernel.run(scalar_kernels());
    const std::vector<std::byte> found = kernel.run(table);
    std::printf("%s %s %08x", table.name, kernel.name, crc32c(found.data(), found.size()));
    const auto [at, other] = std::mismatch(found.begin(), found.end(), expected.begin());
    if (at != found.end()) {
      std::printf(" differs from scalar at byte %td of %zu", at - found.begin(), found.size());
      equal = false;
    }
    std::printf("\n");
  }
  return equal;
}

int run(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--help") == 0) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  if (argc > 1) {
    std::fprintf(stderr, "adapmoe-kernel-check: unexpected argument %s\n%s", argv[1], kUsage);
    return 2;
  }
  spoil_fp_environment();
  const FpEnvironment canonical;
  bool equal = true;
  for (const KernelTable* table : available_kernels()) equal = check(*table) && equal;
  return equal ? 0 : 1;
}

}  // namespace
}  // namespace adapmoe

int main(int argc, char** argv) { return adapmoe::run(argc, argv); }
