// SPDX-License-Identifier: Apache-2.0
// The small value types every folder shares.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace adapmoe {

struct ExpertId {
  int32_t layer = 0;
  int32_t expert = 0;
  friend bool operator==(const ExpertId&, const ExpertId&) = default;
};

enum class DType : uint8_t { kInt4, kInt8, kF16, kF32 };

constexpr bool is_quantized(DType dtype) { return dtype == DType::kInt4 || dtype == DType::kInt8; }

constexpr std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kInt4: return "int4";
    case DType::kInt8: return "int8";
    case DType::kF16: return "f16";
    case DType::kF32: return "f32";
  }
  return "?";
}

constexpr std::optional<DType> parse_dtype(std::string_view name) {
  for (const DType d : {DType::kInt4, DType::kInt8, DType::kF16, DType::kF32}) {
    if (dtype_name(d) == name) return d;
  }
  return std::nullopt;
}

// REQUIRES: alignment > 0, value >= 0.
constexpr int64_t align_up(int64_t value, int64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

}  // namespace adapmoe
