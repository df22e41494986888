// SPDX-License-Identifier: Apache-2.0
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "runtime/bindings/core_types.h"
#include "runtime/bindings/session_settings.h"
#include "runtime/bindings/session_types.h"
#include "runtime/bindings/signals.h"

namespace adapmoe {

void export_measurements(nb::class_<PySession>& session, nb::class_<PySequence>& sequence);

namespace {

using PyItem = std::tuple<PySequence*, Ids, std::string>;

LogitsOf logits_of(const std::string& name) {
  if (name == "none") return LogitsOf::kNone;
  if (name == "last") return LogitsOf::kLast;
  if (name == "all") return LogitsOf::kAll;
  throw nb::value_error(("logits must be none, last or all, not " + name).c_str());
}

std::pair<Logits, std::vector<StepStats>> step(const PySession& self,
                                               const std::vector<PyItem>& items) {
  const std::shared_ptr<Session> session = self.shared->get();
  std::vector<StepItem> of_core;
  int64_t rows = 0;
  for (const auto& [sequence, ids, logits] : items) {
    if (sequence->shared != self.shared) {
      throw nb::value_error("a sequence of another session stands in the step");
    }
    of_core.push_back({&sequence->sequence, {ids.data(), ids.size()}, logits_of(logits)});
    rows += of_core.back().logit_rows();
  }
  return run_step(
      {static_cast<size_t>(rows), static_cast<size_t>(session->model().vocab_size)},
      [&](std::span<float> logits) { return session->step(of_core, logits, python_signals()); });
}

std::pair<Logits, StepStats> step_one(PySequence& self, std::span<const int32_t> ids,
                                      LogitsOf logits_of, std::vector<size_t> shape) {
  const std::shared_ptr<Session> session = self.shared->get();
  shape.push_back(static_cast<size_t>(session->model().vocab_size));
  const StepItem item{&self.sequence, ids, logits_of};
  auto [logits, stats] = run_step(std::move(shape), [&](std::span<float> out) {
    return session->step(std::span(&item, 1), out, python_signals());
  });
  return {std::move(logits), stats[0]};
}

std::pair<Logits, StepStats> prefill(PySequence& self, const Ids& ids, bool all_logits) {
  const std::span<const int32_t> span(ids.data(), ids.size());
  return all_logits ? step_one(self, span, LogitsOf::kAll, {ids.size()})
                    : step_one(self, span, LogitsOf::kLast, {});
}

std::pair<Logits, StepStats> decode(PySequence& self, int32_t token_id) {
  return step_one(self, std::span(&token_id, 1), LogitsOf::kLast, {});
}

int64_t length(const PySequence& self) {
  raise_if_forked(self.shared->opened_in, "LLM");
  return self.sequence.length;
}

void close_sequence(PySequence& self) {
  if (!self.shared->opened_in.here()) return;
  const std::shared_ptr<Session> session = self.shared->session;
  if (session == nullptr) return;
  const WithoutGil without;
  session->between_steps([&] { session->close_sequence(self.sequence); });
}

void truncate(PySequence& self, int64_t length) {
  const std::shared_ptr<Session> session = self.shared->get();
  const Status status = without_gil([&] { return session->truncate(self.sequence, length); });
  raise_if_error(status);
}

PySequence* fork(PySequence& self, std::optional<int64_t> length) {
  const std::shared_ptr<Session> session = self.shared->get();
  auto copy = without_gil([&] { return session->fork(self.sequence, length); });
  return new PySequence(self.shared, value_or_raise(std::move(copy)));
}

MemorySplit set_memory(const PySession& self, int64_t memory_bytes) {
  const std::shared_ptr<Session> session = self.shared->get();
  auto split = without_gil([&] { return session->set_memory(memory_bytes); });
  return value_or_raise(std::move(split));
}

void open(PySession* self, const std::string& path, const nb::kwargs& settings) {
  SessionConfig config = session_config(settings);
  interrupt_steps_first_at_exit();
  auto session =
      without_gil([&] { return Session::open(path, std::move(config), python_signals()); });
  auto shared = std::make_shared<Shared>();
  shared->session = value_or_raise(std::move(session));
  new (self) PySession{std::move(shared)};
}

}  // namespace

void keep_for_ever(std::shared_ptr<Session> session) {
  static auto* const kept = new std::vector<std::shared_ptr<Session>>();
  kept->push_back(std::move(session));
}

void export_session(nb::module_& m) {
  auto sequence = nb::class_<PySequence>(m, "Sequence", "One token stream with its KV cache.");
  sequence.def_prop_ro("length", &length)
      .def_prop_ro("closed",
                   [](const PySequence& s) {
                     return s.sequence.kv_index < 0 || s.shared->session == nullptr;
                   })
      .def("prefill", &prefill, nb::arg("ids"), nb::arg("all_logits") = false,
           "Append ids int32 [n]; logits of the last position [vocab_size], or of all "
           "[n, vocab_size], and StepStats.")
      .def("decode", &decode, nb::arg("token_id"),
           "Append one token; float32 logits [vocab_size] and StepStats.")
      .def("truncate", &truncate, nb::arg("length"), "Keep the first `length` tokens.")
      .def(
          "reset", [](PySequence& s) { truncate(s, 0); }, "Forget all tokens.")
      .def("fork", &fork, nb::arg("length") = nb::none(), nb::rv_policy::take_ownership,
           "A new sequence with the same tokens, or the first `length`; the KV cache is copied.")
      .def("close", &close_sequence, "Give the KV cache back.");

  auto session =
      nb::class_<PySession>(m, "Session", "An open pack. One step at a time; calls queue up.");
  export_measurements(session, sequence);
  session
      .def("__init__", &open, nb::arg("path"), nb::arg("settings"),
           "Settings are passed by name; session_settings() has them all with their defaults.")
      .def(
          "new_sequence",
          [](const PySession& s) {
            return new PySequence(s.shared, value_or_raise(s.shared->get()->new_sequence()));
          },
          nb::rv_policy::take_ownership)
      .def("step", &step, nb::arg("items"),
           "Append to several sequences; items are (sequence, ids int32 [n], none | last | all). "
           "Returns the logits wanted, float32 [rows, vocab_size], items in order, and StepStats "
           "per item.")
      .def("set_memory", &set_memory, nb::arg("memory_bytes"),
           "Change the ceiling between steps. Returns the new MemorySplit.")
      .def_prop_ro("memory_split",
                   [](const PySession& s) { return s.shared->get()->memory_split(); })
      .def_prop_ro("totals", [](const PySession& s) { return s.shared->get()->totals(); })
      .def_prop_ro("vocab_size",
                   [](const PySession& s) { return s.shared->get()->model().vocab_size; })
      .def_prop_ro("max_context",
                   [](const PySession& s) { return s.shared->get()->config().max_context; })
      .def_prop_ro("max_sequences",
                   [](const PySession& s) { return s.shared->get()->config().max_sequences; })
      .def_prop_ro("backend", [](const PySession& s) { return s.shared->get()->backend(); })
      .def_prop_ro("reader", [](const PySession& s) { return s.shared->get()->reader(); })
      .def_prop_ro("registration",
                   [](const PySession& s) {
                     const Registration r = s.shared->get()->registration();
                     return core_type("Registration")(r.file, r.frames, r.problem);
                   })
      .def_prop_ro("notes", [](const PySession& s) { return s.shared->get()->notes(); })
      .def(
          "close", [](const PySession& s) { s.shared->close(); },
          "Free the memory; sequences of this session are closed with it.");

  m.def("session_settings", &session_settings, "{name: default} of all settings of a Session.");
}

}  // namespace adapmoe
