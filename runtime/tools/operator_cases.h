// SPDX-License-Identifier: Apache-2.0
// Every operator of a backend, in all the shapes for which a backend may have kernels of their own.
#pragma once
#include <string>
#include <vector>

#include "runtime/tools/operator_bench.h"

namespace adapmoe {

struct OperatorCase {
  std::string name;
  BackendShape shape;
  void (*run)(OperatorBench& bench);
};

std::vector<OperatorCase> move_cases();
std::vector<OperatorCase> routed_cases();
std::vector<OperatorCase> operator_cases();  // these and all others

}  // namespace adapmoe
