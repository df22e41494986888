// SPDX-License-Identifier: Apache-2.0
// Computing without the GIL, and what becomes of threads that do so while the interpreter exits.
//
// Python stops other threads at its exit where they next ask for the GIL, some versions by
// unwinding their stacks, which C++ frames turn into std::terminate. So steps of other threads are
// interrupted before that, and end there as if by sys.exit(); what cannot be interrupted in time
// never returns.
#pragma once
#include <nanobind/nanobind.h>

namespace adapmoe {

// Lives while this thread computes without the GIL. Use it in place of nb::gil_scoped_release.
class WithoutGil {
 public:
  WithoutGil();
  ~WithoutGil();
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

// Calls `body` without the GIL.
template <typename Body>
auto without_gil(const Body& body) {
  const WithoutGil without;
  return body();
}

// True once the interpreter exits, in every thread but the one in which it does.
bool left_behind();

// Raises SystemExit where left_behind(): threads end by it without a word. Needs the GIL.
void end_if_left_behind();

// Without the GIL: whether the handler of a pending signal (Ctrl-C) raised. Python's error is then
// set.
bool signal_raised();

// Makes the hook that ends the steps of other threads when the interpreter exits, once, with the
// module.
void export_exit_hook(nanobind::module_& m);

// Lets that hook run before the exit hooks registered so far: they may wait for threads that
// compute. Needs the GIL.
void interrupt_steps_first_at_exit();

}  // namespace adapmoe
