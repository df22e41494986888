// SPDX-License-Identifier: Apache-2.0
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <utility>

#include "runtime/base/strings.h"
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

void open(PySession* self, const std::string& path, int64_t memory_bytes, double expert_fraction,
          int threads, int64_t max_context, int64_t max_sequences, const std::string& kv_dtype,
          int64_t prefill_chunk, const std::string& backend, const std::string& kernels,
          const std::string& policy, const std::string& reader, int readers, int64_t request_bytes,
          bool register_buffers, bool direct_io, const std::string& verify,
          const std::string& gating, float gating_threshold, std::vector<float> sensitivity,
          const std::string& evict, std::vector<int64_t> layer_floors, int prefetch_depth,
          bool prefetch_trials, std::vector<float> first_layer_gate, bool first_layer_embedding,
          bool timeline, const std::string& experts, bool exact) {
  SessionConfig c;
  c.memory_bytes = memory_bytes;
  c.expert_fraction = expert_fraction;
  c.threads = threads;
  c.max_context = max_context;
  c.max_sequences = max_sequences;
  c.kv_f16 = choose("kv_dtype", kv_dtype, {"f16", "f32"}) == 0;
  c.prefill_chunk = prefill_chunk;
  c.backend = backend;
  c.kernels = kernels;
  c.experts = experts;
  c.exact = exact;
  c.policy = policy;
  c.reader = reader;
  c.readers = readers;
  c.request_bytes = request_bytes;
  c.register_buffers = register_buffers;
  c.direct_io = direct_io;
  c.verify = static_cast<VerifyTiles>(choose("verify", verify, {"always", "first", "never"}));
  c.gating = gating_config(gating, gating_threshold, std::move(sensitivity));
  c.evict_tiles = choose("evict", evict, {"tile", "expert"}) == 0;
  c.layer_floors = std::move(layer_floors);
  c.prefetch_depth = prefetch_depth;
  c.prefetch_trials = prefetch_trials;
  c.timeline = timeline;
  c.first_layer_gate = std::move(first_layer_gate);
  c.first_layer_embedding = first_layer_embedding;
  auto session = without_gil([&] { return Session::open(path, std::move(c), python_signals()); });
  auto shared = std::make_shared<Shared>();
  shared->session = value_or_raise(std::move(session));
  new (self) PySession{std::move(shared)};
}

}  // namespace

void keep_for_ever(std::shared_ptr<Session> session) {
  static auto* const kept = new std::vector<std::shared_ptr<Session>>();
  kept->push_back(std::move(session));
}

// One of `names` as its index. Errors: ValueError listing them.
size_t choose(const char* what, const std::string& value,
              std::initializer_list<const char*> names) {
  size_t index = 0;
  std::string known;
  for (const char* name : names) {
    if (value == name) return index;
    known += (index++ == 0 ? "" : ", ") + std::string(name);
  }
  raise_if_error(invalid_argument(str_cat(what, "=\"", value, "\": expected one of ", known)));
  return index;
}

GatingConfig gating_config(const std::string& mode, float threshold,
                           std::vector<float> sensitivity) {
  return {static_cast<GatingMode>(choose("gating", mode, {"off", "sensitivity", "residency"})),
          threshold, std::move(sensitivity)};
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
      .def("__init__", &open, nb::arg("path"), nb::kw_only(), nb::arg("memory_bytes") = 0,
           nb::arg("expert_fraction") = 0.0, nb::arg("threads") = 0, nb::arg("max_context") = 0,
           nb::arg("max_sequences") = 1, nb::arg("kv_dtype") = "f16",
           nb::arg("prefill_chunk") = 128, nb::arg("backend") = "auto", nb::arg("kernels") = "auto",
           nb::arg("policy") = "next-use", nb::arg("reader") = "auto", nb::arg("readers") = 4,
           nb::arg("request_bytes") = int64_t{0}, nb::arg("register_buffers") = false,
           nb::arg("direct_io") = true, nb::arg("verify") = "always", nb::arg("gating") = "off",
           nb::arg("gating_threshold") = 0.0F, nb::arg("sensitivity") = std::vector<float>(),
           nb::arg("evict") = "tile", nb::arg("layer_floors") = std::vector<int64_t>(),
           nb::arg("prefetch_depth") = 1, nb::arg("prefetch_trials") = true,
           nb::arg("first_layer_gate") = std::vector<float>(),
           nb::arg("first_layer_embedding") = true, nb::arg("timeline") = false,
           nb::arg("experts") = "auto", nb::arg("exact") = true)
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
                     return nb::make_tuple(r.file, r.frames, r.problem);
                   })
      .def_prop_ro("notes", [](const PySession& s) { return s.shared->get()->notes(); })
      .def(
          "close", [](const PySession& s) { s.shared->close(); },
          "Free the memory; sequences of this session are closed with it.");
}

}  // namespace adapmoe
