// SPDX-License-Identifier: Apache-2.0
// What experts are doing, at one moment.
#pragma once
#include <cstdint>
#include <vector>

namespace adapmoe {

struct ResidencyView {
  std::vector<uint8_t> resident;  // [num_local_experts], 1: every tile is ready

  bool is_resident(int32_t expert) const { return resident[static_cast<size_t>(expert)] != 0; }
};

// Bits that say what an expert is doing.
enum ExpertState : uint8_t {
  kExpertResident = 1,  // every tile is ready
  kExpertLoading = 2,   // a tile is being read
  kExpertUsed = 4,      // by the latest pass over its layer
  kExpertLeftOut = 8,   // by the gate, in that pass
};

}  // namespace adapmoe
