// SPDX-License-Identifier: Apache-2.0
// The list of what `adapmoe._testing` offers: pieces of the core as they are, for tests in Python.
// One file per topic, no logic.
#include <nanobind/nanobind.h>

namespace adapmoe {

void export_numerics(nanobind::module_& m);
void export_kernels(nanobind::module_& m);
void export_gate(nanobind::module_& m);
void export_memory(nanobind::module_& m);
void export_residency(nanobind::module_& m);
void export_prefetch(nanobind::module_& m);
void export_engines(nanobind::module_& m);

}  // namespace adapmoe

NB_MODULE(_testing, m) {
  m.doc() = "Pieces of the compiled core, for the tests.";
  adapmoe::export_numerics(m);
  adapmoe::export_kernels(m);
  adapmoe::export_gate(m);
  adapmoe::export_memory(m);
  adapmoe::export_residency(m);
  adapmoe::export_prefetch(m);
  adapmoe::export_engines(m);
}
