// SPDX-License-Identifier: Apache-2.0
// Lets Ctrl-C stop a step that runs without the GIL.
#pragma once
#include <chrono>

#include "runtime/base/interrupt.h"
#include "runtime/bindings/gil.h"

namespace adapmoe {

// Looks for pending Python signals every 50 ms; true when a handler raised, with the Python error
// set, and when the interpreter exits.
inline Interrupt python_signals() {
  auto next = std::chrono::steady_clock::now() + std::chrono::milliseconds(50);
  return [next]() mutable {
    if (left_behind()) return true;
    const auto now = std::chrono::steady_clock::now();
    if (now < next) return false;
    next = now + std::chrono::milliseconds(50);
    return signal_raised();
  };
}

}  // namespace adapmoe
