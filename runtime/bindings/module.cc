// SPDX-License-Identifier: Apache-2.0
// The list of what `adapmoe._core` offers; one file per topic.
#include <nanobind/nanobind.h>

#include "runtime/bindings/gil.h"

namespace adapmoe {

void export_build(nanobind::module_& m);
void export_stats(nanobind::module_& m);
void export_session(nanobind::module_& m);
void export_expert_paths(nanobind::module_& m);
void export_replay(nanobind::module_& m);
void export_pack_reader(nanobind::module_& m);
void export_read_probe(nanobind::module_& m);
void export_pack_writer(nanobind::module_& m);
void export_memory_limits(nanobind::module_& m);

}  // namespace adapmoe

NB_MODULE(_core, m) {
  // What a thread, a traceback or a fork refers to at exit is never freed; no user could mend that.
  nanobind::set_leak_warnings(false);
  m.doc() = "The compiled core of adapmoe.";
  m.attr("__version__") = ADAPMOE_VERSION;
  adapmoe::export_build(m);
  adapmoe::export_stats(m);
  adapmoe::export_session(m);
  adapmoe::export_expert_paths(m);
  adapmoe::export_replay(m);
  adapmoe::export_pack_reader(m);
  adapmoe::export_read_probe(m);
  adapmoe::export_pack_writer(m);
  adapmoe::export_memory_limits(m);
  adapmoe::export_exit_hook(m);
}
