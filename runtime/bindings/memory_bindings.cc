// SPDX-License-Identifier: Apache-2.0
// How much memory there is, for doctor and for what starts other processes.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "runtime/memory/available_memory.h"

namespace nb = nanobind;

namespace adapmoe {

void export_memory_limits(nb::module_& m) {
  m.def("available_memory", &available_memory, nb::arg("root") = "");
  m.def(
      "memory_limits",
      [](const std::string& root) {
        std::vector<std::tuple<std::string, int64_t, int64_t>> found;
        for (const MemoryLimit& limit : memory_limits(root)) {
          found.emplace_back(limit.file, limit.bytes, limit.room);
        }
        return found;
      },
      nb::arg("root") = "");
}

}  // namespace adapmoe
