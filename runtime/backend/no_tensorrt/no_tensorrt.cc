// SPDX-License-Identifier: Apache-2.0
// Linked where the build has no adapter for TensorRT, so that callers need no #ifdef.
#include "runtime/backend/expert_engines.h"

namespace adapmoe {
namespace {

Status absent() {
  return unavailable(
      "arithmetic=\"tensorrt\": this build has no TensorRT; build it where CUDA and the headers of "
      "TensorRT are, or use arithmetic=\"w4a8\"");
}

}  // namespace

std::vector<int> tensorrt_majors() { return {}; }

Result<EngineDevice> engine_target() { return absent(); }

Result<ExpertEngines> make_expert_engines(std::unique_ptr<Backend> /*cuda*/,
                                          const BackendShape& /*shape*/,
                                          const PlanOrigin& /*origin*/,
                                          std::span<const std::byte> /*largest*/,
                                          const CpuFallback& /*cpu_fallback*/) {
  return absent();
}

}  // namespace adapmoe
