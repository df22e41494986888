// SPDX-License-Identifier: Apache-2.0
// NumPy arrays in and out.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "runtime/base/check.h"

namespace adapmoe {

template <typename T>
using Vector = nanobind::ndarray<const T, nanobind::ndim<1>, nanobind::c_contig>;
// Rows may lie apart and may be part of a wider array; each one is contiguous.
template <typename T>
using RowArray = nanobind::ndarray<T, nanobind::ndim<2>, nanobind::device::cpu>;
template <typename T>
using NumpyVector = nanobind::ndarray<nanobind::numpy, T, nanobind::ndim<1>>;

template <typename T>
int64_t row_stride(const RowArray<T>& array) {
  ADAPMOE_CHECK(array.shape(1) <= 1 || array.stride(1) == 1);
  return array.stride(0);
}

template <typename T>
int64_t size_of(const Vector<T>& array) {
  return static_cast<int64_t>(array.shape(0));
}

template <typename T>
NumpyVector<T> to_numpy(std::vector<T> values) {
  auto* kept = new std::vector<T>(std::move(values));
  const nanobind::capsule owner(kept,
                                [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return NumpyVector<T>(kept->data(), {kept->size()}, owner);
}

}  // namespace adapmoe
