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
    switch (code) {
      case StatusCode::kOk: return "kOk";
      case StatusCode::kInvalidArgument: return "kInvalidArgument";
      case StatusCode::kPackError: return "kPackError";
      case StatusCode::kReadError: return "kReadError";
      case StatusCode::kBudgetError: return "kBudgetError";
      case StatusCode::kContextOverflow: return "kContextOverflow";
      case StatusCode::kEngineError: return "kEngineError";
      case StatusCode::kUnavailable: return "kUnavailable";
      case StatusCode::kClosed: return "kClosed";
      case StatusCode::kNonFinite: return "kNonFinite";
      case StatusCode::kCancelled: return "kCancelled";
    }
    return "unknown";
  }
};

template <typename T>
T value_or_throw(Result<T> result) {
  if (!result.ok()) throw StatusError(result.status());
  return std::move(result).value();
}

}  // namespace adapmoe
