// SPDX-License-Identifier: Apache-2.0
// The Python objects around a Session, and how a step runs for them.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/base/opened_in.h"
#include "runtime/bindings/errors.h"
#include "runtime/bindings/gil.h"
#include "runtime/engine/session.h"

namespace adapmoe {

namespace nb = nanobind;

using Ids = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Logits = nb::ndarray<nb::numpy, float>;

// Neither freed nor forgotten.
void keep_for_ever(std::shared_ptr<Session> session);

// Shared by the Python session and its sequences, so that closing the session frees its memory
// whoever still refers to it.
struct Shared {
  std::shared_ptr<Session> session;
  const OpenedIn opened_in;

  Shared() = default;
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  ~Shared() { close(); }

  // A copy keeps the session alive for one call. Needs the GIL. Errors: ForkError.
  std::shared_ptr<Session> get() const {
    end_if_left_behind();
    raise_if_forked(opened_in, "LLM");
    if (session == nullptr) raise_if_error(closed("the session is closed"));
    return session;
  }

  // In a fork nothing is freed: that would wait for threads that the fork does not have.
  void close() {
    if (opened_in.here()) {
      session.reset();
    } else {
      keep_for_ever(std::move(session));
    }
  }
};

struct PySession {
  std::shared_ptr<Shared> shared;
};

struct PySequence {
  std::shared_ptr<Shared> shared;
  Sequence sequence;

  PySequence(std::shared_ptr<Shared> s, Sequence q) : shared(std::move(s)), sequence(q) {}
  PySequence(const PySequence&) = delete;
  PySequence& operator=(const PySequence&) = delete;
  // Nobody else uses it now. Must not wait for a step: the step may be waiting for the GIL.
  ~PySequence() {
    if (!shared->opened_in.here()) return;
    if (shared->session != nullptr) shared->session->close_sequence(sequence);
  }
};

// Runs `step(logits)` without the GIL; returns its logits as a NumPy array that owns them, and its
// value.
template <typename Body>
auto run_step(std::vector<size_t> shape, const Body& step) {
  size_t count = 1;
  for (const size_t n : shape) count *= n;
  std::unique_ptr<float[]> logits(new float[count]);
  auto done = [&] {
    const WithoutGil without;
    return step(std::span<float>(logits.get(), count));
  }();
  auto value = value_or_raise(std::move(done));
  const nb::capsule owner(logits.get(), [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return std::pair(Logits(logits.release(), shape.size(), shape.data(), owner), std::move(value));
}

}  // namespace adapmoe
