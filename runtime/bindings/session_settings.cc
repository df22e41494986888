// SPDX-License-Identifier: Apache-2.0
// The one table of settings. A default stands in SessionConfig and nowhere else; session_parts.cc
// checks ranges.
#include "runtime/bindings/session_settings.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <concepts>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "runtime/base/strings.h"

namespace nb = nanobind;

namespace adapmoe {
namespace {

using Name = const std::string&;

[[noreturn]] void wrong_type(Name name, const char* expected, nb::handle value) {
  const std::string found = nb::cast<std::string>(nb::type_name(value.type()));
  throw nb::type_error(str_cat(name, ": expected ", expected, ", not ", found).c_str());
}

void read(Name name, nb::handle value, bool& field) {
  if (!PyBool_Check(value.ptr())) wrong_type(name, "True or False", value);
  field = value.is(Py_True);
}

// NumPy's integers, too, but not True and False.
template <std::signed_integral T>
void read(Name name, nb::handle value, T& field) {
  if (!PyIndex_Check(value.ptr()) || PyBool_Check(value.ptr())) {
    wrong_type(name, "an integer", value);
  }
  const nb::object whole = nb::steal(PyNumber_Index(value.ptr()));
  if (!whole.is_valid()) throw nb::python_error();
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(whole.ptr(), &overflow);
  if (overflow != 0 || number < std::numeric_limits<T>::min() ||
      number > std::numeric_limits<T>::max()) {
    throw nb::value_error(str_cat(name, "=", nb::str(whole).c_str(), ": out of range").c_str());
  }
  field = static_cast<T>(number);
}

template <std::floating_point T>
void read(Name name, nb::handle value, T& field) {
  if (!PyNumber_Check(value.ptr()) || PyBool_Check(value.ptr())) {
    wrong_type(name, "a number", value);
  }
  const double number = PyFloat_AsDouble(value.ptr());
  if (PyErr_Occurred() != nullptr) {  // a complex number, or an integer beyond all floats
    PyErr_Clear();
    wrong_type(name, "a number that a float can hold", value);
  }
  field = static_cast<T>(number);
}

void read(Name name, nb::handle value, std::string& field) {
  if (!PyUnicode_Check(value.ptr())) wrong_type(name, "a string", value);
  field = nb::cast<std::string>(value);
}

template <typename T>
void read(Name name, nb::handle value, std::vector<T>& field) {
  if (!nb::try_cast(value, field)) wrong_type(name, "a sequence of numbers", value);
}

struct Setting {
  std::string name;
  std::function<void(SessionConfig&, nb::handle)> set;
  std::function<nb::object(SessionConfig&)> get;
};

// `field` is a member of SessionConfig, or a function that finds one in it.
template <typename Field>
Setting value(const char* name, Field field) {
  return {name,
          [=](SessionConfig& c, nb::handle given) { read(name, given, std::invoke(field, c)); },
          [=](SessionConfig& c) { return nb::cast(std::invoke(field, c)); }};
}

template <typename T>
using Choices = std::vector<std::pair<std::string, T>>;

template <typename T>
T choose(Name name, const std::string& given, const Choices<T>& choices) {
  std::string known;
  for (const auto& [choice, meaning] : choices) {
    if (given == choice) return meaning;
    known += (known.empty() ? "" : ", ") + choice;
  }
  throw nb::value_error(str_cat(name, "=\"", given, "\": expected one of ", known).c_str());
}

// A string that stands for a value of another type.
template <typename T, typename Field>
Setting choice(const char* name, Field field, const Choices<T>& choices) {
  return {name,
          [=](SessionConfig& c, nb::handle given) {
            std::string text;
            read(name, given, text);
            std::invoke(field, c) = choose(name, text, choices);
          },
          [=](SessionConfig& c) -> nb::object {
            for (const auto& [text, meaning] : choices) {
              if (meaning == std::invoke(field, c)) return nb::cast(text);
            }
            return nb::none();
          }};
}

const Choices<GatingMode>& gating_modes() {
  static const Choices<GatingMode> modes{{"off", GatingMode::kOff},
                                         {"sensitivity", GatingMode::kSensitivity},
                                         {"residency", GatingMode::kResidency}};
  return modes;
}

const std::vector<Setting>& settings() {
  using C = SessionConfig;
  static const std::vector<Setting> table{
      value("memory", &C::memory),
      value("experts_resident", &C::experts_resident),
      value("threads", &C::threads),
      value("max_context", &C::max_context),
      value("max_sequences", &C::max_sequences),
      choice<bool>("kv_dtype", &C::kv_f16, {{"f16", true}, {"f32", false}}),
      value("prefill_chunk", &C::prefill_chunk),
      value("backend", &C::backend),
      value("kernels", &C::kernels),
      value("arithmetic", &C::arithmetic),
      value("exact", &C::exact),
      value("policy", &C::policy),
      choice<bool>("evict", &C::evict_tiles, {{"tile", true}, {"expert", false}}),
      value("prefetch", &C::prefetch),
      value("prefetch_trials", &C::prefetch_trials),
      value("reader", &C::reader),
      value("read_depth", &C::read_depth),
      value("request_bytes", &C::request_bytes),
      value("register_buffers", &C::register_buffers),
      value("direct_io", &C::direct_io),
      choice<VerifyTiles>("verify", &C::verify,
                          {{"always", VerifyTiles::kAlways},
                           {"first", VerifyTiles::kFirst},
                           {"never", VerifyTiles::kNever}}),
      choice<GatingMode>(
          "gating", [](C& c) -> auto& { return c.gating.mode; }, gating_modes()),
      value("gating_threshold", [](C& c) -> auto& { return c.gating.threshold; }),
      value("sensitivity", [](C& c) -> auto& { return c.gating.sensitivity; }),
      value("timeline", &C::timeline),
      value("layer_floors", &C::layer_floors),
      value("first_layer_gate", &C::first_layer_gate),
      value("first_layer_embedding", &C::first_layer_embedding),
  };
  return table;
}

[[noreturn]] void unknown(const std::string& name) {
  std::string known;
  for (const Setting& setting : settings()) known += (known.empty() ? "" : ", ") + setting.name;
  throw nb::type_error(str_cat("no setting is called '", name, "'; there are ", known).c_str());
}

}  // namespace

SessionConfig session_config(const nb::dict& given) {
  SessionConfig config;
  for (const auto& [key, value] : given) {
    const auto name = nb::cast<std::string>(key);
    const Setting* found = nullptr;
    for (const Setting& setting : settings()) {
      if (setting.name == name) found = &setting;
    }
    if (found == nullptr) unknown(name);
    found->set(config, value);
  }
  return config;
}

nb::dict session_settings() {
  SessionConfig config;
  nb::dict defaults;
  for (const Setting& setting : settings()) {
    defaults[setting.name.c_str()] = setting.get(config);
  }
  return defaults;
}

GatingMode gating_mode(const std::string& name) { return choose("gating", name, gating_modes()); }

}  // namespace adapmoe
