// SPDX-License-Identifier: Apache-2.0
// What the exporter needs from the core: packing a matrix and the checksum of a tile.
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
#include "runtime/store/pack_matrix.h"

namespace nb = nanobind;

namespace adapmoe {
namespace {

using FloatMatrix = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
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

std::tuple<OwnedBytes, double, double> pack(FloatMatrix weights, const std::string& dtype,
                                            int64_t group_size, int threads) {
  const auto rows = static_cast<int64_t>(weights.shape(0));
  const auto cols = static_cast<int64_t>(weights.shape(1));
  const PackedShape shape = make_shape(rows, cols, dtype, group_size);
  if ((cols > 1 && weights.stride(1) != 1) || (rows > 1 && weights.stride(0) < cols)) {
    raise_if_error(invalid_argument("weights: each row must be contiguous and rows ascending"));
  }
  const auto size = static_cast<size_t>(shape.bytes());
  std::unique_ptr<uint8_t[]> bytes(new uint8_t[size]);
  const PackingError error = value_or_raise([&] {
    const nb::gil_scoped_release release;
    return pack_matrix({weights.data(), weights.stride(0)}, shape, threads, {bytes.get(), size});
  }());
  const nb::capsule owner(bytes.get(), [](void* p) noexcept { delete[] static_cast<uint8_t*>(p); });
  OwnedBytes array(bytes.release(), {size}, owner);
  return {array, error.squared_error, error.squared_weights};
}

int64_t packed_bytes(int64_t rows, int64_t cols, const std::string& dtype, int64_t group_size) {
  return make_shape(rows, cols, dtype, group_size).bytes();
}

uint32_t checksum(const Bytes& data) {
  const nb::gil_scoped_release release;
  return crc32c(data.data(), data.size());
}

}  // namespace

void export_pack_writer(nb::module_& m) {
  m.def("pack_matrix", &pack, nb::arg("weights"), nb::arg("dtype"), nb::arg("group_size"),
        nb::arg("threads") = 0,
        "Pack `[rows, cols]` float32 as FORMAT.md's packed matrix. Returns (bytes, sum of squared "
        "error, sum of squares). Non-finite weights: ValueError.");
  m.def("packed_bytes", &packed_bytes, nb::arg("rows"), nb::arg("cols"), nb::arg("dtype"),
        nb::arg("group_size"), "Bytes of a packed matrix.");
  m.def("crc32c", &checksum, nb::arg("data"), "CRC-32C (Castagnoli) of the bytes.");
}

}  // namespace adapmoe
