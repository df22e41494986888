// SPDX-License-Identifier: Apache-2.0
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "runtime/bindings/core_types.h"
#include "runtime/bindings/session_types.h"
#include "runtime/engine/expert_bench.h"

namespace adapmoe {
namespace {

nb::object expert_paths(const std::string& path, const std::string& backend) {
  const RunnablePaths found =
      value_or_raise(without_gil([&] { return runnable_expert_paths(path, backend); }));
  return core_type("ExpertPaths")(found.names, found.without_engines);
}

double time_expert_path(const std::string& path, const std::string& backend,
                        const std::string& arithmetic) {
  return value_or_raise(without_gil([&] { return time_expert(path, backend, arithmetic); }));
}

}  // namespace

void export_expert_paths(nb::module_& m) {
  m.def(
      "expert_paths", &expert_paths, nb::arg("path"), nb::arg("backend"),
      "Names of the ways to compute experts that `backend` has here, the exact one first, and why\n"
      "the engines of the pack are not among them, where it has some.");
  m.def("time_expert", &time_expert_path, nb::arg("path"), nb::arg("backend"),
        nb::arg("arithmetic"),
        "Seconds that one expert takes for one row. Raises BackendUnavailableError, ReadError.");
}

}  // namespace adapmoe
