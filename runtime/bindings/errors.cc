// SPDX-License-Identifier: Apache-2.0
#include "runtime/bindings/errors.h"

#include <nanobind/nanobind.h>

#include "runtime/base/strings.h"
#include "runtime/bindings/gil.h"

namespace nb = nanobind;

namespace adapmoe {
namespace {

const char* class_name(StatusCode code) {
  switch (code) {
    case StatusCode::kPackError: return "PackError";
    case StatusCode::kReadError: return "ReadError";
    case StatusCode::kBudgetError: return "BudgetError";
    case StatusCode::kContextOverflow: return "ContextOverflowError";
    case StatusCode::kEngineError: return "EngineError";
    case StatusCode::kUnavailable: return "BackendUnavailableError";
    case StatusCode::kClosed: return "ClosedError";
    case StatusCode::kNonFinite: return "NonFiniteError";
    case StatusCode::kCancelled: return "CancelledError";
    case StatusCode::kOk:
    case StatusCode::kInvalidArgument: break;
  }
  return nullptr;
}

[[noreturn]] void raise_typed(const char* name, const std::string& m) {
  const nb::object type = nb::module_::import_("adapmoe.errors").attr(name);
  // A name in a damaged file need not be UTF-8; the message is given all the
  // same.
  const nb::object text = nb::steal(
      PyUnicode_DecodeUTF8(m.data(), static_cast<Py_ssize_t>(m.size()), "backslashreplace"));
  PyErr_SetObject(type.ptr(), text.ptr());
  throw nb::python_error();
}

}  // namespace

void raise_if_error(const Status& status) {
  if (status.ok()) return;
  // A Python signal handler (Ctrl-C) raised while we were computing: its
  // exception is the reason.
  if (PyErr_Occurred() != nullptr) throw nb::python_error();
  if (status.code() == StatusCode::kCancelled) end_if_left_behind();
  const char* name = class_name(status.code());
  if (name == nullptr) throw nb::value_error(status.message().c_str());
  raise_typed(name, status.message());
}

void raise_if_forked(const OpenedIn& opened_in, const char* what) {
  if (opened_in.here()) return;
  raise_typed("ForkError",
              str_cat("this ", what, " was opened in process ", opened_in.process(),
                      ", and a fork of that process cannot use it: open the pack in the child "
                      "process, or start child processes with the spawn method"));
}

}  // namespace adapmoe
