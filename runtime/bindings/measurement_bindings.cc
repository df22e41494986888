// SPDX-License-Identifier: Apache-2.0
// What calibration, replay and benchmarks need: recorded activations and routing, and settings that
// change between steps.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "runtime/bindings/core_types.h"
#include "runtime/bindings/session_settings.h"
#include "runtime/bindings/session_types.h"
#include "runtime/bindings/signals.h"
#include "runtime/residency/layer_allocation.h"
#include "runtime/residency/replay.h"

namespace adapmoe {
namespace {

// [convert(item) for item in items]
template <typename T, typename Items, typename Convert>
std::vector<T> list_of(Items&& items, const Convert& convert) {
  std::vector<T> result;
  result.reserve(items.size());
  for (auto& item : items) result.push_back(convert(item));
  return result;
}

// One visit, (pass, layer, experts): a RoutingVisit, or any such tuple.
using Visit = std::tuple<int64_t, int32_t, std::vector<int32_t>>;

nb::object to_array(std::vector<float> values, std::vector<size_t> shape) {
  auto* owned = new std::vector<float>(std::move(values));
  const nb::capsule owner(owned,
                          [](void* p) noexcept { delete static_cast<std::vector<float>*>(p); });
  return nb::cast(Logits(owned->data(), shape.size(), shape.data(), owner));
}

nb::dict capture(PySequence& self, const Ids& ids) {
  const std::shared_ptr<Session> session = self.shared->get();
  const ModelConfig& c = session->model();
  const size_t n = ids.size();
  const auto layers = static_cast<size_t>(c.num_hidden_layers);
  const auto hidden = static_cast<size_t>(c.hidden_size);
  Capture recorded;
  auto [logits, stats] = run_step({n, static_cast<size_t>(c.vocab_size)}, [&](auto out) {
    return session->capture(self.sequence, {ids.data(), n}, out, &recorded, python_signals());
  });
  nb::dict result;
  result["logits"] = nb::cast(logits);
  result["stats"] = nb::cast(stats);
  result["hidden"] = to_array(std::move(recorded.hidden), {layers, n, hidden});
  result["moe_input"] = to_array(std::move(recorded.moe_input), {layers, n, hidden});
  result["router_logits"] = to_array(std::move(recorded.router_logits),
                                     {layers, n, static_cast<size_t>(c.num_local_experts)});
  result["final_hidden"] = to_array(std::move(recorded.final_hidden), {n, hidden});
  return result;
}

void set_gating(const PySession& self, const std::string& mode, float threshold,
                std::vector<float> sensitivity) {
  const std::shared_ptr<Session> session = self.shared->get();
  GatingConfig config{gating_mode(mode), threshold, std::move(sensitivity)};
  const Status status = without_gil([&] { return session->set_gating(std::move(config)); });
  raise_if_error(status);
}

void set_layer_floors(const PySession& self, std::vector<int64_t> floors) {
  const std::shared_ptr<Session> session = self.shared->get();
  const Status status = without_gil([&] { return session->set_layer_floors(std::move(floors)); });
  raise_if_error(status);
}

void record_trace(const PySession& self, bool on) {
  const std::shared_ptr<Session> session = self.shared->get();
  const WithoutGil without;
  session->record_trace(on);
}

nb::list trace(const PySession& self) {
  const std::shared_ptr<Session> session = self.shared->get();
  const nb::object type = core_type("RoutingVisit");
  nb::list visits;
  for (const TraceVisit& v : without_gil([&] { return session->trace(); })) {
    visits.append(type(v.pass, v.layer, v.experts));
  }
  return visits;
}

// An expert: (layer, expert).
using States = nb::ndarray<nb::numpy, uint8_t, nb::ndim<2>>;

States expert_states(const PySession& self) {
  const std::shared_ptr<Session> session = self.shared->get();
  auto states =
      std::make_unique<std::vector<uint8_t>>(without_gil([&] { return session->expert_states(); }));
  const std::array<size_t, 2> shape = {static_cast<size_t>(session->model().num_hidden_layers),
                                       static_cast<size_t>(session->model().num_local_experts)};
  uint8_t* const data = states->data();
  const nb::capsule owner(states.release(),
                          [](void* p) noexcept { delete static_cast<std::vector<uint8_t>*>(p); });
  return States(data, shape.size(), shape.data(), owner);
}

using IdPair = std::pair<int32_t, int32_t>;

std::vector<IdPair> resident_set(const PySession& self) {
  const std::shared_ptr<Session> session = self.shared->get();
  return list_of<IdPair>(without_gil([&] { return session->resident_set(); }),
                         [](const ExpertId& id) { return IdPair(id.layer, id.expert); });
}

int64_t warm(const PySession& self, const std::vector<IdPair>& experts) {
  const std::shared_ptr<Session> session = self.shared->get();
  const auto ids =
      list_of<ExpertId>(experts, [](const IdPair& id) { return ExpertId{id.first, id.second}; });
  return without_gil([&] { return session->warm(ids); });
}

nb::list timeline(const PySession& self) {
  static constexpr const char* kLanes[] = {"compute", "stall", "demand", "prefetch"};
  const nb::object type = core_type("Span");
  nb::list spans;
  for (const Span& s : self.shared->get()->timeline()) {
    spans.append(
        type(kLanes[static_cast<size_t>(s.lane)], s.name, s.thread, s.layer, s.begin_ns, s.end_ns));
  }
  return spans;
}

nb::list prediction_scores(const PySession& self) {
  const std::shared_ptr<Session> session = self.shared->get();
  const nb::object type = core_type("PredictionScore");
  nb::list scores;
  for (const PredictionScore& s : without_gil([&] { return session->prediction_scores(); })) {
    scores.append(type(s.right, s.needed));
  }
  return scores;
}

// Policy "belady" is the optimum.
nb::object replay_trace(const std::vector<Visit>& visits, int64_t num_layers, int64_t num_experts,
                        int64_t capacity, const std::string& policy,
                        const std::vector<int64_t>& floors, int64_t count_from) {
  std::vector<TraceVisit> checked;
  for (const auto& [pass, layer, experts] : visits) {
    const bool inside = std::all_of(experts.begin(), experts.end(),
                                    [&](int32_t e) { return e >= 0 && e < num_experts; });
    if (layer < 0 || layer >= num_layers || !inside) {
      throw nb::value_error("a visit of the trace lies outside num_layers and num_experts");
    }
    checked.push_back({pass, layer, experts});
  }
  if (capacity < 1) throw nb::value_error("capacity: expected room for 1 expert or more");
  if (count_from != 0 && policy != "belady") {
    throw nb::value_error("count_from: only for \"belady\"");
  }
  if (!floors.empty() && static_cast<int64_t>(floors.size()) != num_layers) {
    throw nb::value_error("floors: expected one per layer");
  }
  ReplayResult result;
  if (policy == "belady") {
    result = replay_belady(checked, num_layers, num_experts, capacity, count_from);
  } else {
    const auto made = value_or_raise(make_eviction_policy(policy, num_layers));
    result = replay(checked, num_layers, num_experts, capacity, *made, floors);
  }
  return core_type("ReplayCounts")(result.visits, result.hits);
}

std::vector<int64_t> allocate(const std::vector<double>& prefetch_accuracy,
                              const std::vector<double>& single_ratio, int64_t experts,
                              int64_t total) {
  if (prefetch_accuracy.size() != single_ratio.size()) {
    throw nb::value_error("prefetch_accuracy and single_ratio: expected one of each per layer");
  }
  std::vector<LayerProfile> layers;
  layers.reserve(single_ratio.size());
  for (size_t i = 0; i < single_ratio.size(); ++i) {
    layers.push_back({prefetch_accuracy[i], single_ratio[i]});
  }
  return allocate_layers(layers, experts, total);
}

}  // namespace

void export_measurements(nb::class_<PySession>& session, nb::class_<PySequence>& sequence) {
  sequence.def("capture", &capture, nb::arg("ids"),
               "prefill() that also records activations: a dict of float32 arrays.");
  session
      .def("set_gating", &set_gating, nb::arg("mode"), nb::arg("threshold") = 0.0F,
           nb::arg("sensitivity") = std::vector<float>(), "Change the gate between steps.")
      .def("set_layer_floors", &set_layer_floors, nb::arg("floors"),
           "Experts each layer should keep (soft), one per layer; []: none.")
      .def("record_trace", &record_trace, nb::arg("on"),
           "Record routing from now on, or stop and forget it.")
      .def("trace", &trace, "The routing recorded, a list of RoutingVisit.")
      .def("resident_set", &resident_set, "The resident experts as (layer, expert).")
      .def("expert_states", &expert_states,
           "What every expert is doing now, uint8 [layers, experts], a sum of 1 resident, 2 being "
           "read, 4 used by the latest pass over its layer, 8 left out by the gate in it. Waits "
           "for no step.")
      .def_prop_ro("pins_memory", [](const PySession& s) { return s.shared->get()->pins_memory(); })
      .def_prop_ro("progress", [](const PySession& s) { return s.shared->get()->progress(); })
      .def("warm", &warm, nb::arg("experts"),
           "Read these (layer, expert) in the background as far as frames are free; how many.")
      .def("timeline", &timeline,
           "What a session opened with timeline has recorded, a list of Span.")
      .def("prediction_scores", &prediction_scores, "A PredictionScore per layer.");
}

void export_replay(nb::module_& m) {
  m.def("replay_trace", &replay_trace, nb::arg("visits"), nb::arg("num_layers"),
        nb::arg("num_experts"), nb::arg("capacity"), nb::arg("policy"),
        nb::arg("floors") = std::vector<int64_t>(), nb::arg("count_from") = 0,
        "Run recorded routing through an eviction policy; ReplayCounts. \"belady\": the optimum, "
        "counted from the pass `count_from` on.");
  m.def("allocate_layers", &allocate, nb::arg("prefetch_accuracy"), nb::arg("single_ratio"),
        nb::arg("experts"), nb::arg("total"),
        "AdapMoE's dynamic programme: experts per layer, [] when total is below one per layer.");
  m.def("uniform_layers", &uniform_layers, nb::arg("num_layers"), nb::arg("experts"),
        nb::arg("total"), "The same number of experts for every layer.");
}

}  // namespace adapmoe
