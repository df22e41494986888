// SPDX-License-Identifier: Apache-2.0
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "runtime/bindings/session_types.h"
#include "runtime/engine/backend_shape.h"
#include "runtime/engine/expert_bench.h"

namespace adapmoe {
namespace {

std::vector<std::string> expert_paths(const std::string& path, const std::string& backend) {
  const Pack pack = value_or_raise(Pack::open(path, /*direct_io=*/false));
  std::vector<std::string> names;
  for (const ExpertPath one : runnable_expert_paths(pack, backend)) {
    names.emplace_back(expert_path_name(one));
  }
  return names;
}

double time_expert_path(const std::string& path, const std::string& backend,
                        const std::string& experts) {
  return value_or_raise(without_gil([&]() -> Result<double> {
    const auto pack = Pack::open(path, /*direct_io=*/true);
    if (!pack.ok()) return pack.status();
    const auto chosen = choose_expert_path(experts, /*exact=*/false, pack.value().experts().dtype);
    if (!chosen.ok()) return chosen.status();
    return time_expert(pack.value(), backend, chosen.value());
  }));
}

}  // namespace

void export_expert_paths(nb::module_& m) {
  m.def("expert_paths", &expert_paths, nb::arg("path"), nb::arg("backend"),
        "Names of the ways to compute experts that `backend` has here, the exact one first.");
  m.def("time_expert", &time_expert_path, nb::arg("path"), nb::arg("backend"), nb::arg("experts"),
        "Seconds that one expert takes for one row. Raises BackendUnavailableError, ReadError.");
}

}  // namespace adapmoe
