// SPDX-License-Identifier: Apache-2.0
// What the exporter needs from the core: packing a matrix, comparing it, checksums.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>

#include "runtime/base/crc32c.h"
#include "runtime/base/strings.h"
#include "runtime/bindings/errors.h"
#include "runtime/bindings/gil.h"
#include "runtime/store/pack_matrix.h"
#include "runtime/store/packing_error.h"

namespace nb = nanobind;

namespace adapmoe {
namespace {

using Matrix = nb::ndarray<nb::ro, nb::ndim<2>, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using OwnedBytes = nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>;

PackedShape make_shape(int64_t rows, int64_t cols, const std::string& dtype, int64_t group_size) {
  const std::optional<DType> parsed = parse_dtype(dtype);
  if (!parsed) {
    raise_if_error(
        invalid_argument(str_cat("unknown dtype '", dtype, "': int4, int8, f16 or f32")));
  }
  const PackedShape shape{*parsed, rows, cols, group_size};
  raise_if_error(check_packed_shape(shape));
  return shape;
}

// NumPy has no bfloat16, so 16-bit weights come as their bits.
MatrixView make_view(const Matrix& weights, const std::string& source) {
  const bool is_f32 = source == "f32" && weights.dtype() == nb::dtype<float>();
  const bool is_16_bit = (source == "bf16" || source == "f16") &&  // as uint16
                         weights.dtype() == nb::dtype<uint16_t>();
  if (!is_f32 && !is_16_bit) {
    raise_if_error(invalid_argument(
        str_cat("weights: source '", source,
                "' does not fit: float32 for 'f32', uint16 bits for 'bf16' and 'f16'")));
  }
  if ((weights.shape(1) > 1 && weights.stride(1) != 1) ||
      (weights.shape(0) > 1 && weights.stride(0) < static_cast<int64_t>(weights.shape(1)))) {
    raise_if_error(invalid_argument("weights: each row must be contiguous and rows ascending"));
  }
  const WeightType type =
      is_f32 ? WeightType::kF32 : (source == "bf16" ? WeightType::kBF16 : WeightType::kF16);
  return {weights.data(), weights.stride(0), type};
}

std::tuple<OwnedBytes, double, double> pack(const Matrix& weights, const std::string& dtype,
                                            int64_t group_size, int threads,
                                            const std::string& source) {
  const auto rows = static_cast<int64_t>(weights.shape(0));
  const auto cols = static_cast<int64_t>(weights.shape(1));
  const PackedShape shape = make_shape(rows, cols, dtype, group_size);
  const MatrixView view = make_view(weights, source);
  const auto size = static_cast<size_t>(shape.bytes());
  std::unique_ptr<uint8_t[]> bytes(new uint8_t[size]);
  const PackingError error = value_or_raise([&] {
    const WithoutGil without;
    return pack_matrix(view, shape, threads, {bytes.get(), size});
  }());
  const nb::capsule owner(bytes.get(), [](void* p) noexcept { delete[] static_cast<uint8_t*>(p); });
  OwnedBytes array(bytes.release(), {size}, owner);
  return {array, error.squared_error, error.squared_weights};
}

std::tuple<double, double> compare(const Bytes& data, int64_t rows, int64_t cols,
                                   const std::string& dtype, int64_t group_size,
                                   const Matrix& weights, const std::string& source) {
  const PackedShape shape = make_shape(rows, cols, dtype, group_size);
  const MatrixView view = make_view(weights, source);
  const auto wanted_rows = static_cast<int64_t>(weights.shape(0));
  const auto wanted_cols = static_cast<int64_t>(weights.shape(1));
  if (static_cast<int64_t>(data.size()) != shape.bytes()) {
    raise_if_error(invalid_argument(
        str_cat("data: ", data.size(), " bytes, expected ", shape.bytes(), " for this shape")));
  }
  if (wanted_rows > rows || wanted_cols > cols) {
    raise_if_error(invalid_argument(str_cat("weights: [", wanted_rows, ", ", wanted_cols,
                                            "] is more than [", rows, ", ", cols, "]")));
  }
  const WithoutGil without;
  const PackingError error =
      packing_error({data.data(), data.size()}, shape, view, wanted_rows, wanted_cols);
  return {error.squared_error, error.squared_weights};
}

int64_t packed_bytes(int64_t rows, int64_t cols, const std::string& dtype, int64_t group_size) {
  return make_shape(rows, cols, dtype, group_size).bytes();
}

uint32_t checksum(const Bytes& data, uint32_t before) {
  const WithoutGil without;
  return crc32c(data.data(), data.size(), before);
}

}  // namespace

void export_pack_writer(nb::module_& m) {
  m.def("pack_matrix", &pack, nb::arg("weights"), nb::arg("dtype"), nb::arg("group_size"),
        nb::arg("threads") = 0, nb::arg("source") = "f32",
        "Pack `[rows, cols]` as FORMAT.md's packed matrix: float32, or with source 'bf16' or 'f16' "
        "the uint16 bits of the weights. Returns (bytes, sum of squared error, sum of squares). "
        "Non-finite weights: ValueError.");
  m.def("packing_error", &compare, nb::arg("data"), nb::arg("rows"), nb::arg("cols"),
        nb::arg("dtype"), nb::arg("group_size"), nb::arg("weights"), nb::arg("source") = "f32",
        "(sum of squared error, sum of squares) of `weights` `[<= rows, <= cols]`, given as for "
        "pack_matrix, in a packed matrix, uint8 `[packed_bytes]`.");
  m.def("packed_bytes", &packed_bytes, nb::arg("rows"), nb::arg("cols"), nb::arg("dtype"),
        nb::arg("group_size"), "Bytes of a packed matrix.");
  m.def("crc32c", &checksum, nb::arg("data"), nb::arg("before") = 0,
        "CRC-32C (Castagnoli) of the bytes; `before` is that of the bytes in front of them.");
}

}  // namespace adapmoe
