// SPDX-License-Identifier: Apache-2.0
// A Status as a Python exception that names its code: `StatusError("kReadError: ...")`.
#pragma once
#include <stdexcept>
#include <string>
#include <utility>

#include "runtime/base/status.h"

namespace adapmoe {

class StatusError : public std::runtime_error {
 public:
  explicit StatusError(const Status& status)
      : std::runtime_error(code_name(status.code()) + (": " + status.message())) {}

 private:
  static std::string code_name(StatusCode code) {
    static constexpr const char* kNames[] = {"kOk",          "kInvalidArgument", "kPackError",
                                             "kReadError",   "kBudgetError",     "kContextOverflow",
                                             "kEngineError", "kUnavailable",     "kCancelled"};
    return kNames[static_cast<size_t>(code)];
  }
};

template <typename T>
T value_or_throw(Result<T> result) {
  if (!result.ok()) throw StatusError(result.status());
  return std::move(result).value();
}

}  // namespace adapmoe
