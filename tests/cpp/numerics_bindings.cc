// SPDX-License-Identifier: Apache-2.0
// exp, sincos, halves and the checksum.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>

#include <utility>

#include "runtime/base/canonical_math.h"
#include "runtime/base/crc32c.h"
#include "runtime/base/half.h"
#include "tests/cpp/arrays.h"

namespace nb = nanobind;

namespace adapmoe {
namespace {

template <typename In, typename Function>
auto map(const Vector<In>& values, Function function) {
  std::vector<decltype(function(In{}))> out;
  for (size_t i = 0; i < values.shape(0); ++i) out.push_back(function(values.data()[i]));
  return to_numpy(std::move(out));
}

std::pair<NumpyVector<float>, NumpyVector<float>> sincos(const Vector<float>& angles) {
  std::vector<float> sine(angles.shape(0));
  std::vector<float> cosine(angles.shape(0));
  for (size_t i = 0; i < sine.size(); ++i) {
    canonical_sincos(angles.data()[i], &sine[i], &cosine[i]);
  }
  return {to_numpy(std::move(sine)), to_numpy(std::move(cosine))};
}

}  // namespace

void export_numerics(nb::module_& m) {
  m.def("exp", [](const Vector<float>& x) { return map(x, canonical_exp); });
  m.def("sincos", &sincos);
  m.def("half_to_float", [](const Vector<uint16_t>& x) { return map(x, half_to_float); });
  m.def("float_to_half", [](const Vector<float>& x) { return map(x, float_to_half); });
  m.def("crc32c", [](const Vector<uint8_t>& data) { return crc32c(data.data(), data.shape(0)); });
  m.def("crc32c_portable",
        [](const Vector<uint8_t>& data) { return crc32c_portable(data.data(), data.shape(0)); });
}

}  // namespace adapmoe
