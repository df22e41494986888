// SPDX-License-Identifier: Apache-2.0
// What `adapmoe doctor` asks the core about itself.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "runtime/backend/backend.h"
#include "runtime/backend/cpu/cpu_features.h"
#include "runtime/backend/expert_engines.h"
#include "runtime/base/usable_cpus.h"
#include "runtime/bindings/errors.h"
#include "runtime/bindings/gil.h"
#include "runtime/io/async_reader.h"

namespace nb = nanobind;

namespace adapmoe {
namespace {

nb::dict build_info() {
  nb::list kernels;
  for (const KernelTable* table : available_kernels()) kernels.append(table->name);
  nb::list majors;
  for (const int major : tensorrt_majors()) majors.append(major);
  nb::dict info;
  info["compiler"] = __VERSION__;
  info["cuda"] = built_with_cuda();
  info["io_uring"] = built_with_io_uring();
  info["tensorrt"] = nb::tuple(majors);
  info["kernels"] = kernels;
  return info;
}

std::string io_uring_problem(const std::string& path) {
  const File file = value_or_raise(File::open(path, /*direct=*/true));
  const WithoutGil without;
  const auto reader = make_uring_reader(file, ReaderOptions{.depth = 1});
  return reader.ok() ? "" : reader.status().message();
}

}  // namespace

void export_build(nb::module_& m) {
  m.def("build_info", &build_info,
        "What this module was built with, and the kernels that this machine can run, best first.");
  m.def(
      "usable_cpus", &usable_cpus,
      "Cores that this process may use: its affinity, and the time that its cgroups allow; >= 1.");
  m.def("io_uring_problem", &io_uring_problem, nb::arg("path"),
        "Why `path` cannot be read through io_uring here; empty where it can.");
}

}  // namespace adapmoe
