// SPDX-License-Identifier: Apache-2.0
#include "runtime/bindings/errors.h"

#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace adapmoe {
namespace {

const char* class_name(StatusCode code) {
  switch (code) {
    case StatusCode::kPackError: return "PackError";
    case StatusCode::kReadError: return "ReadError";
    case StatusCode::kBudgetError: return "BudgetError";
    case StatusCode::kContextOverflow: return "ContextOverflowError";
    case StatusCode::kUnavailable: return "BackendUnavailableError";
    case StatusCode::kCancelled: return "CancelledError";
    case StatusCode::kOk:
    case StatusCode::kInvalidArgument: break;
  }
  return nullptr;
}

}  // namespace

void raise_if_error(const Status& status) {
  if (status.ok()) return;
  // A Python signal handler (Ctrl-C) raised while we were computing: its exception is the reason.
  if (PyErr_Occurred() != nullptr) throw nb::python_error();
  const char* name = class_name(status.code());
  if (name == nullptr) throw nb::value_error(status.message().c_str());
  const nb::object type = nb::module_::import_("adapmoe.errors").attr(name);
  PyErr_SetString(type.ptr(), status.message().c_str());
  throw nb::python_error();
}

}  // namespace adapmoe
