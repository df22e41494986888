// SPDX-License-Identifier: Apache-2.0
// The one place where a Status becomes a Python exception (classes in python/adapmoe/errors.py).
#pragma once
#include <utility>

#include "runtime/base/opened_in.h"
#include "runtime/base/status.h"

namespace adapmoe {

// Does nothing when ok. Needs the GIL.
void raise_if_error(const Status& status);

// ForkError in a fork of the process that opened `what`.
void raise_if_forked(const OpenedIn& opened_in, const char* what);

// The value, or the exception.
template <typename T>
T value_or_raise(Result<T> result) {
  raise_if_error(result.status());
  return std::move(result).value();
}

}  // namespace adapmoe
