// SPDX-License-Identifier: Apache-2.0
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <utility>

#include "runtime/bindings/core_types.h"
#include "runtime/bindings/session_settings.h"
#include "runtime/bindings/session_types.h"
#include "runtime/bindings/signals.h"

namespace adapmoe {

void export_measurements(nb::class_<PySession>& session, nb::class_<PySequence>& sequence);

namespace {

std::pair<Logits, StepStats> prefill(PySequence& self, const Ids& ids, bool all_logits) {
  const std::shared_ptr<Session> session = self.shared->get();
  const auto vocab = static_cast<size_t>(session->model().vocab_size);
  std::vector<size_t> shape =
      all_logits ? std::vector<size_t>{ids.size(), vocab} : std::vector<size_t>{vocab};
  return run_step(std::move(shape), [&](std::span<float> logits) {
    return session->prefill(self.sequence, {ids.data(), ids.size()}, all_logits, logits,
                            python_signals());
  });
}

std::pair<Logits, StepStats> decode(const std::shared_ptr<Session>& session,
                                    const std::vector<Sequence*>& sequences,
                                    const std::vector<int32_t>& ids, std::vector<size_t> shape) {
  return run_step(std::move(shape), [&](std::span<float> logits) {
    return session->decode(sequences, ids, logits, python_signals());
  });
}

std::pair<Logits, StepStats> decode_one(PySequence& self, int32_t token_id) {
  const std::shared_ptr<Session> session = self.shared->get();
  return decode(session, {&self.sequence}, {token_id},
                {static_cast<size_t>(session->model().vocab_size)});
}

std::pair<Logits, StepStats> decode_batch(
    const PySession& self, const std::vector<std::pair<PySequence*, int32_t>>& items) {
  const std::shared_ptr<Session> session = self.shared->get();
  std::vector<Sequence*> sequences;
  std::vector<int32_t> ids;
  for (const auto& [sequence, id] : items) {
    if (sequence->shared != self.shared) {
      throw nb::value_error("a sequence of another session stands in the batch");
    }
    sequences.push_back(&sequence->sequence);
    ids.push_back(id);
  }
  return decode(session, sequences, ids,
                {items.size(), static_cast<size_t>(session->model().vocab_size)});
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

PySequence* fork(PySequence& self) {
  const std::shared_ptr<Session> session = self.shared->get();
  auto copy = without_gil([&] { return session->fork(self.sequence); });
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
           "Append ids int32 [n]; float32 logits of the last position "
           "[vocab_size], or of all "
           "[n, vocab_size], and StepStats.")
      .def("decode", &decode_one, nb::arg("token_id"),
           "Append one token; float32 logits [vocab_size] and StepStats.")
      .def("truncate", &truncate, nb::arg("length"), "Keep the first `length` tokens.")
      .def(
          "reset", [](PySequence& s) { truncate(s, 0); }, "Forget all tokens.")
      .def("fork", &fork, nb::rv_policy::take_ownership,
           "A new sequence with the same tokens; the KV cache is copied.")
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
      .def("decode_batch", &decode_batch, nb::arg("items"),
           "Append one token to each of several sequences; logits [n, "
           "vocab_size] and StepStats.")
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
