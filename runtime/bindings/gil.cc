// SPDX-License-Identifier: Apache-2.0
#include "runtime/bindings/gil.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace nb = nanobind;

namespace adapmoe {
namespace {

// Longer than any layer; only a disk that hangs takes more.
constexpr auto kPatience = std::chrono::seconds(10);

struct State {
  std::atomic<int> computing{0};  // threads that live in a WithoutGil
  std::atomic<bool> exiting{false};
  std::thread::id exiting_thread;  // written before `exiting`
};

State& state() {
  static State the_state;
  return the_state;
}

[[noreturn]] void sleep_for_ever() {
  while (true) std::this_thread::sleep_for(std::chrono::hours(1));
}

// Calls a function that takes the GIL. Python 3.10 to 3.13 let it end by pthread_exit when the
// interpreter exits; 3.14 does what is done here.
template <typename Take>
[[gnu::noinline]] auto take_gil(const Take& take) {
  try {
    return take();
  } catch (...) {  // the unwinding of pthread_exit, which may be caught as long as it does not end
    sleep_for_ever();
  }
}

void interrupt_and_wait() {
  state().exiting_thread = std::this_thread::get_id();
  state().exiting.store(true);
  PyThreadState* const thread = PyEval_SaveThread();
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (state().computing.load() > 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  PyEval_RestoreThread(thread);
}

// A fork has none of the other threads, and is not exiting.
void forget_other_threads() {
  state().computing.store(0);
  state().exiting.store(false);
}

}  // namespace

WithoutGil::WithoutGil() {
  state().computing.fetch_add(1);
  state_ = PyEval_SaveThread();
}

WithoutGil::~WithoutGil() {
  take_gil([this] { PyEval_RestoreThread(state_); });
  state().computing.fetch_sub(1);
}

bool left_behind() {
  return state().exiting.load() && std::this_thread::get_id() != state().exiting_thread;
}

void end_if_left_behind() {
  if (!left_behind()) return;
  PyErr_SetNone(PyExc_SystemExit);
  throw nb::python_error();
}

bool signal_raised() {
  const PyGILState_STATE before = take_gil([] { return PyGILState_Ensure(); });
  const bool raised = PyErr_CheckSignals() != 0;
  PyGILState_Release(before);
  return raised;
}

void export_exit_hook(nb::module_& m) {
  pthread_atfork(nullptr, nullptr, &forget_other_threads);
  m.def("_interrupt_steps", &interrupt_and_wait, "The exit hook.");
  nb::module_::import_("atexit").attr("register")(m.attr("_interrupt_steps"));
}

void interrupt_steps_first_at_exit() {
  const nb::module_ atexit = nb::module_::import_("atexit");
  const nb::object hook = nb::module_::import_("adapmoe._core").attr("_interrupt_steps");
  atexit.attr("unregister")(hook);
  atexit.attr("register")(hook);  // the last to be registered runs first
}

}  // namespace adapmoe
