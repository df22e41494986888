// SPDX-License-Identifier: Apache-2.0
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <utility>
#include <vector>

#include "runtime/bindings/session_types.h"
#include "runtime/engine/expert_bench.h"

namespace adapmoe {
namespace {

std::pair<std::vector<std::string>, std::string> expert_paths(const std::string& path,
                                                              const std::string& backend) {
  RunnablePaths found =
      value_or_raise(without_gil([&] { return runnable_expert_paths(path, backend); }));
  return {std::move(found.names), std::move(found.without_engines)};
}

double time_expert_path(const std::string& path, const std::string& backend,
                        const std::string& experts) {
  return value_or_raise(without_gil([&] { return time_expert(path, backend, experts); }));
}

}  // namespace

void export_expert_paths(nb::module_& m) {
  m.def(
      "expert_paths", &expert_paths, nb::arg("path"), nb::arg("backend"),
      "Names of the ways to compute experts that `backend` has here, the exact one first, and why\n"
      "the engines of the pack are not among them, where it has some.");
  m.def("time_expert", &time_expert_path, nb::arg("path"), nb::arg("backend"), nb::arg("experts"),
        "Seconds that one expert takes for one row. Raises BackendUnavailableError, ReadError.");
}

}  // namespace adapmoe
