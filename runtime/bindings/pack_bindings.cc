// SPDX-License-Identifier: Apache-2.0
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "runtime/bindings/errors.h"
#include "runtime/store/pack.h"

namespace nb = nanobind;

namespace adapmoe {

void export_pack_reader(nb::module_& m) {
  m.def(
      "inspect_pack",
      [](const std::string& path) {
        value_or_raise(Pack::open(path, /*direct_io=*/false));
        return value_or_raise(read_manifest_text(path));
      },
      nb::arg("path"),
      "The validated manifest as JSON text, without opening a session. Raises PackError.");
}

}  // namespace adapmoe
