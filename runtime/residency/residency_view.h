// SPDX-License-Identifier: Apache-2.0
// Which experts of one layer are resident, at one moment.
#pragma once
#include <cstdint>
#include <vector>

namespace adapmoe {

struct ResidencyView {
  std::vector<uint8_t> resident;  // [num_local_experts], 1: every tile is ready

  bool is_resident(int32_t expert) const { return resident[static_cast<size_t>(expert)] != 0; }
};

}  // namespace adapmoe
