// SPDX-License-Identifier: Apache-2.0
// What decides how far to look ahead.
#include <nanobind/nanobind.h>

#include "runtime/prefetch/depth_judge.h"

namespace nb = nanobind;

namespace adapmoe {

void export_prefetch(nb::module_& m) {
  nb::class_<DepthJudge>(m, "DepthJudge")
      .def(nb::init<int32_t>(), nb::arg("most"))
      .def_prop_ro("depth", &DepthJudge::depth)
      .def("observe", &DepthJudge::observe, nb::arg("seconds"), nb::arg("rows") = 1);
}

}  // namespace adapmoe
