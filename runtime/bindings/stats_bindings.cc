// SPDX-License-Identifier: Apache-2.0
#include <nanobind/nanobind.h>
#include <nanobind/operators.h>

#include "runtime/engine/session.h"

namespace nb = nanobind;

namespace adapmoe {

void export_stats(nb::module_& m) {
  nb::class_<MemorySplit>(m, "MemorySplit", "What the ceiling is spent on, in bytes.")
      .def_ro("memory_bytes", &MemorySplit::memory_bytes)
      .def_ro("dense_bytes", &MemorySplit::dense_bytes)
      .def_ro("kv_bytes", &MemorySplit::kv_bytes)
      .def_ro("scratch_bytes", &MemorySplit::scratch_bytes)
      .def_ro("expert_bytes", &MemorySplit::expert_bytes)
      .def_ro("tile_bytes", &MemorySplit::tile_bytes)
      .def_ro("frames", &MemorySplit::frames)
      .def_ro("frames_total", &MemorySplit::frames_total)
      .def_ro("floor_bytes", &MemorySplit::floor_bytes)
      .def_ro("cycle_bytes", &MemorySplit::cycle_bytes)
      .def_ro("host_bytes", &MemorySplit::host_bytes);

  nb::class_<StepStats>(m, "StepStats", "What one step, or several together, did.")
      .def(nb::init<>())
      .def_ro("tokens", &StepStats::tokens)
      .def_ro("experts_used", &StepStats::experts_used)
      .def_ro("experts_activated", &StepStats::experts_activated)
      .def_ro("expert_hits", &StepStats::expert_hits)
      .def_ro("gated", &StepStats::gated)
      .def_ro("dropped_share_sq", &StepStats::dropped_share_sq)
      .def_ro("prefetched", &StepStats::prefetched)
      .def_ro("prefetch_used", &StepStats::prefetch_used)
      .def_ro("prefetch_wasted", &StepStats::prefetch_wasted)
      .def_ro("bytes_read", &StepStats::bytes_read)
      .def_ro("stall_s", &StepStats::stall_s)
      .def_ro("first_layer_stall_s", &StepStats::first_layer_stall_s)
      .def_ro("compute_s", &StepStats::compute_s)
      .def_ro("wall_s", &StepStats::wall_s);
}

}  // namespace adapmoe
