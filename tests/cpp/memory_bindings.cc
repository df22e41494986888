// SPDX-License-Identifier: Apache-2.0
// How a budget is split.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <map>
#include <string>

#include "runtime/base/usable_cpus.h"
#include "runtime/memory/memory_budget.h"
#include "tests/cpp/status_error.h"

namespace nb = nanobind;

namespace adapmoe {
namespace {

using Numbers = std::map<std::string, int64_t>;

MemoryNeeds needs_of(const Numbers& n) {
  return {.dense_bytes = n.at("dense_bytes"),
          .kv_bytes = n.at("kv_bytes"),
          .scratch_bytes = n.at("scratch_bytes"),
          .tile_bytes = n.at("tile_bytes"),
          .tiles_per_expert = n.at("tiles_per_expert"),
          .top_k = n.at("top_k"),
          .num_layers = n.at("num_layers"),
          .num_experts = n.at("num_experts")};
}

Numbers split(const Numbers& needs, int64_t memory_bytes) {
  const MemorySplit s = value_or_throw(split_memory(needs_of(needs), memory_bytes));
  return {{"memory_bytes", s.memory_bytes},
          {"dense_bytes", s.dense_bytes},
          {"kv_bytes", s.kv_bytes},
          {"scratch_bytes", s.scratch_bytes},
          {"expert_bytes", s.expert_bytes},
          {"tile_bytes", s.tile_bytes},
          {"frames", s.frames},
          {"frames_total", s.frames_total},
          {"floor_bytes", s.floor_bytes},
          {"cycle_bytes", s.cycle_bytes},
          {"everything_fits", s.everything_fits() ? 1 : 0},
          {"below_one_cycle", s.below_one_cycle() ? 1 : 0}};
}

}  // namespace

void export_memory(nb::module_& m) {
  m.def("cpu_quota", &cpu_quota);
  m.def("cpus_within", &cpus_within, nb::arg("cores"), nb::arg("quota").none());
  m.def("split_memory", &split);
  m.def("memory_for_fraction", [](const Numbers& needs, double fraction) {
    return memory_for_fraction(needs_of(needs), fraction);
  });
}

}  // namespace adapmoe
