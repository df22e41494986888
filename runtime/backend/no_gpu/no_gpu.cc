// SPDX-License-Identifier: Apache-2.0
// Linked where the build has no CUDA, so that callers need no #ifdef.
#include "runtime/backend/backend.h"

namespace adapmoe {

bool built_with_cuda() { return false; }

Result<std::unique_ptr<Backend>> make_cuda_backend(const BackendShape& /*shape*/,
                                                   bool /*integrated_only*/) {
  return unavailable(
      "backend=\"cuda\": this build has no GPU support; use backend=\"cpu\" or \"auto\"");
}

}  // namespace adapmoe
