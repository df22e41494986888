// SPDX-License-Identifier: Apache-2.0
// Message building, for error paths only.
#pragma once
#include <cstdint>
#include <sstream>
#include <string>

namespace adapmoe {

template <typename... Parts>
std::string str_cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// "1.50 GiB (1610612736 bytes)": for people and for scripts that grep the number.
inline std::string format_bytes(int64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024.0 && unit < 4) {
    value /= 1024.0;
    ++unit;
  }
  std::ostringstream out;
  out.precision(2);
  out << std::fixed << value << ' ' << kUnits[unit] << " (" << bytes << " bytes)";
  return out.str();
}

}  // namespace adapmoe
