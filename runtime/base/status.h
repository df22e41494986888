// SPDX-License-Identifier: Apache-2.0
// Expected failures travel as values. Only the bindings turn them into exceptions.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <variant>

#include "runtime/base/check.h"

namespace adapmoe {

enum class StatusCode : uint8_t {
  kOk,
  kInvalidArgument,  // the caller's value is wrong            -> ValueError
  kPackError,        // the pack is not what the format says   -> PackError
  kReadError,        // the disk failed or the file shrank     -> ReadError
  kBudgetError,      // memory below the floor or unavailable  -> BudgetError
  kContextOverflow,  // more tokens than max_context           -> ContextOverflowError
  kEngineError,      // a TensorRT engine is missing or wrong  -> EngineError
  kUnavailable,      // backend, ISA or feature not here       -> BackendUnavailableError
  kClosed,           // the session or sequence is closed      -> ClosedError
  kNonFinite,        // NaN or infinity was computed           -> NonFiniteError
  kCancelled,  // interrupted by the caller              -> KeyboardInterrupt or CancelledError
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status invalid_argument(std::string m) {
  return {StatusCode::kInvalidArgument, std::move(m)};
}
inline Status pack_error(std::string m) { return {StatusCode::kPackError, std::move(m)}; }
inline Status read_error(std::string m) { return {StatusCode::kReadError, std::move(m)}; }
inline Status budget_error(std::string m) { return {StatusCode::kBudgetError, std::move(m)}; }
inline Status context_overflow(std::string m) {
  return {StatusCode::kContextOverflow, std::move(m)};
}
inline Status engine_error(std::string m) { return {StatusCode::kEngineError, std::move(m)}; }
inline Status unavailable(std::string m) { return {StatusCode::kUnavailable, std::move(m)}; }
inline Status closed(std::string m) { return {StatusCode::kClosed, std::move(m)}; }
inline Status non_finite(std::string m) { return {StatusCode::kNonFinite, std::move(m)}; }
inline Status cancelled(std::string m) { return {StatusCode::kCancelled, std::move(m)}; }

// A value or the reason why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}        // NOLINT(google-explicit-constructor)
  Result(Status status) : state_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    ADAPMOE_CHECK(!std::get<Status>(state_).ok());
  }

  bool ok() const { return std::holds_alternative<T>(state_); }
  Status status() const { return ok() ? Status() : std::get<Status>(state_); }
  // REQUIRES: ok().
  T& value() & {
    ADAPMOE_CHECK(ok());
    return std::get<T>(state_);
  }
  const T& value() const& {
    ADAPMOE_CHECK(ok());
    return std::get<T>(state_);
  }
  T&& value() && {
    ADAPMOE_CHECK(ok());
    return std::get<T>(std::move(state_));
  }

 private:
  std::variant<T, Status> state_;
};

}  // namespace adapmoe

// Returns from the enclosing function when `expr` (a Status) is not ok.
#define ADAPMOE_RETURN_IF_ERROR(expr)                        \
  do {                                                       \
    if (::adapmoe::Status status_ = (expr); !status_.ok()) { \
      return status_;                                        \
    }                                                        \
  } while (false)
