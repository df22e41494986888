// SPDX-License-Identifier: Apache-2.0
// Parses JSON within bounds and reads typed, range-checked fields out of it.
// Throws FieldError inside store/; the parsers turn it into a Status.
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
  explicit FieldError(const std::string& message) : std::runtime_error(shortened(message)) {}

 private:
  // A damaged file may hold a name or number of megabytes. Not cut inside a
  // UTF-8 character.
  static std::string shortened(const std::string& message) {
    size_t end = 400;
    if (message.size() <= end) return message;
    while ((message[end] & 0xC0) == 0x80) --end;
    return message.substr(0, end) + "...";
  }
};

// Far more than a pack needs: the text of a manifest or of a safetensors header in bytes, and the
// values in it. They bound the memory that reading a hostile file takes.
inline constexpr int64_t kMaxJsonBytes = 8 << 20;
inline constexpr int64_t kMaxJsonValues = 1 << 18;

// Refuses what other JSON readers do not take: anything but an object, a byte order mark, a NUL,
// and deep nesting, over which recursive code (dump(), for one) would run out of stack; and too
// many values. Returns how many keys a valid text holds.
inline size_t check_json_text(const std::string& text) {
  constexpr int kMaxNesting = 32;
  if (!text.starts_with('{')) throw FieldError("not valid JSON: expected an object at byte 0");
  int depth = 0;
  int64_t most_values = 1;
  size_t keys = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\0') throw FieldError(str_cat("not valid JSON: a NUL at byte ", i));
    if (c == '"') quoted = !quoted;
    if (quoted) {
      i += c == '\\' ? 1 : 0;
      continue;
    }
    keys += c == ':' ? 1 : 0;
    most_values += c == ',' || c == '{' || c == '[' ? 1 : 0;
    depth += c == '{' || c == '[' ? 1 : 0;
    depth -= c == '}' || c == ']' ? 1 : 0;
    if (depth > kMaxNesting) throw FieldError(str_cat("nested too deeply at byte ", i));
    if (most_values > kMaxJsonValues) throw FieldError(str_cat("too many values at byte ", i));
  }
  return keys;
}

inline size_t count_keys(const nlohmann::json& value) {
  size_t keys = value.is_object() ? value.size() : 0;
  if (value.is_structured()) {
    for (const nlohmann::json& child : value) keys += count_keys(child);
  }
  return keys;
}

// Errors: FieldError, also for a key that stands twice in one object, which readers understand
// differently. The parser's own messages quote the text, which may not be UTF-8, so they are not
// passed on.
inline nlohmann::json parse_json(const std::string& text) {
  const size_t keys = check_json_text(text);
  try {
    nlohmann::json root = nlohmann::json::parse(text);
    if (count_keys(root) != keys) throw FieldError("a key stands twice in one object");
    return root;
  } catch (const nlohmann::json::parse_error& error) {
    throw FieldError(str_cat("not valid JSON at byte ", error.byte));
  } catch (const nlohmann::json::out_of_range&) {
    throw FieldError("a number is out of range");
  }
}

// A value or a name from a file as part of a message: ASCII, one line, not
// longer than it helps.
inline std::string shown(const nlohmann::json& value) {
  constexpr size_t kMost = 100;
  const std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true);
  return text.size() <= kMost ? text : text.substr(0, kMost) + "...";
}
inline std::string shown_name(const std::string& name) {
  const std::string quoted = shown(nlohmann::json(name));
  return quoted.size() == name.size() + 2 ? name : quoted;
}

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
                               "], found ", shown(value)));
    }
    return value.get<int64_t>();
  }
  double number(const char* key, double low, double high) const {
    const nlohmann::json& value = at(key);
    if (!value.is_number() || !(value.get<double>() >= low && value.get<double>() <= high)) {
      throw FieldError(str_cat(name_, ".", key, ": expected a number in [", low, ", ", high,
                               "], found ", shown(value)));
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
  // A value that must be exactly `expected`: the reader implements nothing
  // else.
  template <typename T>
  void require(const char* key, const T& expected) const {
    const nlohmann::json& value = at(key);
    if (value != nlohmann::json(expected)) {
      throw FieldError(str_cat(name_, ".", key, ": this version reads only ",
                               nlohmann::json(expected).dump(), ", found ", shown(value)));
    }
  }
  void allow_only(std::initializer_list<std::string_view> keys) const {
    for (const auto& item : object_.items()) {
      bool known = false;
      for (const std::string_view key : keys) known = known || item.key() == key;
      if (!known) throw FieldError(str_cat(name_, ".", shown_name(item.key()), ": unknown field"));
    }
  }
  const nlohmann::json& json() const { return object_; }
  const std::string& name() const { return name_; }

 private:
  const nlohmann::json& object_;
  std::string name_;
};

}  // namespace adapmoe
