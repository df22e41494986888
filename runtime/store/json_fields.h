// SPDX-License-Identifier: Apache-2.0
// Reads typed, range-checked fields out of JSON. Throws FieldError inside store/; the parsers turn
// it into a Status.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

#include "runtime/base/strings.h"

namespace adapmoe {

class FieldError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A JSON object and its name for messages ("config", "experts").
class Fields {
 public:
  Fields(const nlohmann::json& object, std::string name) : object_(object), name_(std::move(name)) {
    if (!object_.is_object()) throw FieldError(str_cat(name_, ": expected an object"));
  }

  const nlohmann::json& at(const char* key) const {
    const auto it = object_.find(key);
    if (it == object_.end()) throw FieldError(str_cat(name_, ".", key, ": missing"));
    return *it;
  }
  Fields object(const char* key) const { return {at(key), str_cat(name_, ".", key)}; }

  int64_t integer(const char* key, int64_t low, int64_t high) const {
    const nlohmann::json& value = at(key);
    const bool representable =
        value.is_number_integer() &&
        !(value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX));
    if (!representable || value.get<int64_t>() < low || value.get<int64_t>() > high) {
      throw FieldError(str_cat(name_, ".", key, ": expected an integer in [", low, ", ", high,
                               "], found ", value.dump()));
    }
    return value.get<int64_t>();
  }
  double number(const char* key, double low, double high) const {
    const nlohmann::json& value = at(key);
    if (!value.is_number() || !(value.get<double>() >= low && value.get<double>() <= high)) {
      throw FieldError(str_cat(name_, ".", key, ": expected a number in [", low, ", ", high,
                               "], found ", value.dump()));
    }
    return value.get<double>();
  }
  bool boolean(const char* key) const {
    const nlohmann::json& value = at(key);
    if (!value.is_boolean()) throw FieldError(str_cat(name_, ".", key, ": expected true or false"));
    return value.get<bool>();
  }
  std::string text(const char* key) const {
    const nlohmann::json& value = at(key);
    if (!value.is_string()) throw FieldError(str_cat(name_, ".", key, ": expected a string"));
    return value.get<std::string>();
  }
  // A value that must be exactly `expected`: the reader implements nothing else.
  template <typename T>
  void require(const char* key, const T& expected) const {
    const nlohmann::json& value = at(key);
    if (value != nlohmann::json(expected)) {
      throw FieldError(str_cat(name_, ".", key, ": this version reads only ",
                               nlohmann::json(expected).dump(), ", found ", value.dump()));
    }
  }
  void allow_only(std::initializer_list<std::string_view> keys) const {
    for (const auto& item : object_.items()) {
      bool known = false;
      for (const std::string_view key : keys) known = known || item.key() == key;
      if (!known) throw FieldError(str_cat(name_, ".", item.key(), ": unknown field"));
    }
  }
  const nlohmann::json& json() const { return object_; }
  const std::string& name() const { return name_; }

 private:
  const nlohmann::json& object_;
  std::string name_;
};

}  // namespace adapmoe
