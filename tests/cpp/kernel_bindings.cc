// SPDX-License-Identifier: Apache-2.0
// The CPU kernels of any table that this machine can run, chosen by name.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "runtime/backend/cpu/cpu_features.h"
#include "runtime/base/fp_environment.h"
#include "runtime/base/packed_layout.h"
#include "tests/cpp/arrays.h"
#include "tests/cpp/status_error.h"

namespace nb = nanobind;

namespace adapmoe {
namespace {

using Index = std::optional<Vector<int32_t>>;

const KernelTable& table(const std::string& name) { return *value_or_throw(select_kernels(name)); }

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const KernelTable* kernels : available_kernels()) names.emplace_back(kernels->name);
  return names;
}

std::tuple<NumpyVector<int8_t>, NumpyVector<float>, NumpyVector<int32_t>> quantize(
    const std::string& kernels, const Vector<float>& x, int64_t group) {
  std::vector<int8_t> q(x.shape(0));
  std::vector<float> scale(q.size() / static_cast<size_t>(group));
  std::vector<int32_t> sum(scale.size());
  const FpEnvironment canonical;
  table(kernels).quantize(x.data(), size_of(x), group, q.data(), scale.data(), sum.data());
  return {to_numpy(std::move(q)), to_numpy(std::move(scale)), to_numpy(std::move(sum))};
}

BlockArgs block_args(const Vector<uint8_t>& block, const Index& index, const RowArray<float>& y,
                     bool accumulate) {
  ADAPMOE_CHECK(y.shape(1) == kBlockRows);
  BlockArgs args;
  args.block = reinterpret_cast<const std::byte*>(block.data());
  args.index = index ? index->data() : nullptr;
  args.rows = static_cast<int64_t>(y.shape(0));
  args.y = y.data();
  args.y_stride = row_stride(y);
  args.accumulate = accumulate;
  return args;
}

void block_quantized(const std::string& kernels, const std::string& dtype,
                     const Vector<uint8_t>& block, const RowArray<const int8_t>& q,
                     const RowArray<const float>& scale, const RowArray<const int32_t>& sum,
                     const Index& index, const RowArray<float>& y, bool accumulate) {
  const auto cols = static_cast<int64_t>(q.shape(1));
  const int64_t group = cols / static_cast<int64_t>(scale.shape(1));
  const PackedShape shape{parse_dtype(dtype).value(), kBlockRows, cols, group};
  ADAPMOE_CHECK(size_of(block) == shape.block_bytes() && row_stride(scale) == row_stride(sum));
  BlockArgs args = block_args(block, index, y, accumulate);
  args.cols = cols;
  args.group_size = group;
  args.scale_bytes = shape.scale_bytes();
  args.act.q = q.data();
  args.act.scale = scale.data();
  args.act.sum = sum.data();
  args.act.q_stride = row_stride(q);
  args.act.group_stride = row_stride(scale);
  const FpEnvironment canonical;
  const KernelTable& k = table(kernels);
  (shape.dtype == DType::kInt4 ? k.block_int4 : k.block_int8)(args);
}

void block_float(const std::string& kernels, const std::string& dtype, const Vector<uint8_t>& block,
                 const RowArray<const float>& x, const Index& index, const RowArray<float>& y,
                 bool accumulate) {
  const auto cols = static_cast<int64_t>(x.shape(1));
  const PackedShape shape{parse_dtype(dtype).value(), kBlockRows, cols, kBlockRows};
  ADAPMOE_CHECK(size_of(block) == shape.block_bytes());
  BlockArgs args = block_args(block, index, y, accumulate);
  args.cols = cols;
  args.group_size = kBlockRows;
  args.act.x = x.data();
  args.act.x_stride = row_stride(x);
  const FpEnvironment canonical;
  const KernelTable& k = table(kernels);
  (shape.dtype == DType::kF16 ? k.block_f16 : k.block_f32)(args);
}

NumpyVector<float> rms_norm(const std::string& kernels, const Vector<float>& x,
                            const Vector<float>& weight, int64_t n, float eps) {
  std::vector<float> y(x.shape(0));
  const FpEnvironment canonical;
  table(kernels).rms_norm(x.data(), weight.data(), n, eps, y.data());
  return to_numpy(std::move(y));
}

NumpyVector<float> swiglu(const std::string& kernels, const Vector<float>& gate,
                          const Vector<float>& up) {
  std::vector<float> out(gate.data(), gate.data() + gate.shape(0));
  const FpEnvironment canonical;
  table(kernels).swiglu(out.data(), up.data(), size_of(up), out.data());  // in place, as used
  return to_numpy(std::move(out));
}

NumpyVector<uint16_t> to_half(const std::string& kernels, const Vector<float>& x) {
  std::vector<uint16_t> out(x.shape(0));
  table(kernels).to_half(x.data(), size_of(x), out.data());
  return to_numpy(std::move(out));
}

// T is float or uint16_t (fp16). Returns [heads * head_dim_padded].
template <typename T>
NumpyVector<float> attend(const std::string& kernels, const RowArray<const float>& q,
                          const RowArray<const T>& k, const RowArray<const T>& v, int64_t first,
                          int64_t last, float scale) {
  const auto heads = static_cast<int64_t>(q.shape(0));
  const auto dim = static_cast<int64_t>(q.shape(1));
  ADAPMOE_CHECK(row_stride(q) == dim && row_stride(k) == row_stride(v));
  std::vector<float> scratch(static_cast<size_t>(heads * (kAttentionBlock + 2 * dim)));
  std::vector<float> out(static_cast<size_t>(heads * dim));
  const AttendArgs args{.q = q.data(),
                        .k = reinterpret_cast<const std::byte*>(k.data()),
                        .v = reinterpret_cast<const std::byte*>(v.data()),
                        .kv_stride = row_stride(k),
                        .heads = heads,
                        .head_dim_padded = dim,
                        .first = first,
                        .last = last,
                        .scale = scale,
                        .scratch = scratch.data(),
                        .out = out.data()};
  const FpEnvironment canonical;
  const KernelTable& t = table(kernels);
  (std::is_same_v<T, float> ? t.attend_f32 : t.attend_f16)(args);
  return to_numpy(std::move(out));
}

}  // namespace

void export_kernels(nb::module_& m) {
  m.def("kernel_names", &kernel_names);
  m.def("quantize", &quantize);
  m.def("block_quantized", &block_quantized, nb::arg("kernels"), nb::arg("dtype"), nb::arg("block"),
        nb::arg("q").noconvert(), nb::arg("scale").noconvert(), nb::arg("sum").noconvert(),
        nb::arg("index").none(), nb::arg("y").noconvert(), nb::arg("accumulate"));
  m.def("block_float", &block_float, nb::arg("kernels"), nb::arg("dtype"), nb::arg("block"),
        nb::arg("x").noconvert(), nb::arg("index").none(), nb::arg("y").noconvert(),
        nb::arg("accumulate"));
  m.def("rms_norm", &rms_norm);
  m.def("swiglu", &swiglu);
  m.def("to_half", &to_half);
  m.def("attend_f32", &attend<float>, nb::arg("kernels"), nb::arg("q").noconvert(),
        nb::arg("k").noconvert(), nb::arg("v").noconvert(), nb::arg("first"), nb::arg("last"),
        nb::arg("scale"));
  m.def("attend_f16", &attend<uint16_t>, nb::arg("kernels"), nb::arg("q").noconvert(),
        nb::arg("k").noconvert(), nb::arg("v").noconvert(), nb::arg("first"), nb::arg("last"),
        nb::arg("scale"));
}

}  // namespace adapmoe
