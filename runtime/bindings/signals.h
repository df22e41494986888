// SPDX-License-Identifier: Apache-2.0
// Lets Ctrl-C stop a step that runs without the GIL.
#pragma once
#include <nanobind/nanobind.h>

#include <chrono>

#include "runtime/base/interrupt.h"

namespace adapmoe {

// Looks for pending Python signals every 50 ms; true when a handler raised, with the Python error
// set.
inline Interrupt python_signals() {
  auto next = std::chrono::steady_clock::now() + std::chrono::milliseconds(50);
  return [next]() mutable {
    const auto now = std::chrono::steady_clock::now();
    if (now < next) return false;
    next = now + std::chrono::milliseconds(50);
    const nanobind::gil_scoped_acquire acquire;
    return PyErr_CheckSignals() != 0;
  };
}

}  // namespace adapmoe
