// SPDX-License-Identifier: Apache-2.0
// adapmoe-operator-check: a backend's operators against those of the CPU, bit for bit.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include "runtime/base/crc32c.h"
#include "runtime/base/fp_environment.h"
#include "runtime/tools/operator_cases.h"

namespace adapmoe {
namespace {

constexpr char kUsage[] =
    "usage: adapmoe-operator-check [BACKEND | --help]\n"
    "\n"
    "Runs every operator of BACKEND (default cuda) on fixed pseudo-random inputs and compares the\n"
    "results with those of the scalar CPU kernels bit for bit; W4A16, which no CPU has, as the "
    "GPU\n"
    "routes it with what the CPU routes. Prints one line per case: backend, case, CRC32C of the\n"
    "results, which but for W4A16 is the same on every machine. Exit status: 0 all equal, 1 a\n"
    "difference, or the backend cannot run, 2 wrong usage.\n";

Result<std::vector<std::byte>> run_case(const OperatorCase& one, const std::string& backend,
                                        bool plain, std::string* name) {
  auto made = OperatorBench::make(backend, one.shape, plain);
  if (!made.ok()) return made.status();
  OperatorBench& bench = made.value();
  *name = bench.backend().name();
  one.run(bench);
  ADAPMOE_RETURN_IF_ERROR(bench.status());
  return bench.take_result();
}

// Whether `one` gives the CPU's bits or, where the CPU has no such path, those of the operators
// that do not route.
Result<bool> check(const OperatorCase& one, const std::string& backend) {
  std::string name;
  const bool has_cpu = one.shape.expert_path == ExpertPath::kW4A8;
  const auto expected = run_case(one, has_cpu ? "cpu" : backend, /*plain=*/true, &name);
  if (!expected.ok()) return expected.status();
  const auto found = run_case(one, backend, /*plain=*/false, &name);
  if (!found.ok()) return found.status();
  const std::vector<std::byte>& bytes = found.value();
  std::printf("%s %s %08x", name.c_str(), one.name.c_str(), crc32c(bytes.data(), bytes.size()));
  const auto [at, other] =
      std::mismatch(bytes.begin(), bytes.end(), expected.value().begin(), expected.value().end());
  const bool equal = at == bytes.end() && other == expected.value().end();
  if (!equal) {
    std::printf(" differs from what is expected at byte %td of %zu", at - bytes.begin(),
                bytes.size());
  }
  std::printf("\n");
  return equal;
}

int run(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--help") == 0) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  if (argc > 2 || (argc == 2 && argv[1][0] == '-')) {
    std::fprintf(stderr, "adapmoe-operator-check: unexpected argument %s\n%s", argv[argc - 1],
                 kUsage);
    return 2;
  }
  const FpEnvironment canonical;
  bool equal = true;
  const std::string backend = argc == 2 ? argv[1] : "cuda";
  for (const OperatorCase& one : operator_cases()) {
    if (backend == "cpu" && one.shape.expert_path != ExpertPath::kW4A8) continue;  // has no other
    const auto same = check(one, backend);
    if (!same.ok()) {
      std::fprintf(stderr, "adapmoe-operator-check: %s: %s\n", one.name.c_str(),
                   same.status().message().c_str());
      return 1;
    }
    equal = same.value() && equal;
  }
  return equal ? 0 : 1;
}

}  // namespace
}  // namespace adapmoe

int main(int argc, char** argv) {
  try {
    return adapmoe::run(argc, argv);
  } catch (const std::exception& error) {  // out of memory
    std::fprintf(stderr, "adapmoe-operator-check: %s\n", error.what());
    return 1;
  }
}
