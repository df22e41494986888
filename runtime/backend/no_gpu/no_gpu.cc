// SPDX-License-Identifier: Apache-2.0
// Linked where the build has no CUDA, so that callers need no #ifdef.
#include "runtime/backend/backend.h"
#include "runtime/backend/device_bench.h"

namespace adapmoe {
namespace {

Status no_gpu_support() { return unavailable("this build has no GPU support"); }

}  // namespace

bool built_with_cuda() { return false; }
bool without_gpu() { return true; }

Result<std::unique_ptr<Backend>> make_cuda_backend(const BackendShape& /*shape*/,
                                                   bool /*integrated_only*/) {
  return unavailable(
      "backend=\"cuda\": this build has no GPU support; install it again where nvcc is found (see "
      "adapmoe doctor), or use backend=\"cpu\" or \"auto\"");
}

Result<BenchDevice> bench_device() { return no_gpu_support(); }
Result<double> read_bandwidth(BenchMemory /*memory*/, int64_t /*bytes*/) {
  return no_gpu_support();
}
Result<ProductTime> time_product(const ProductBench& /*bench*/) { return no_gpu_support(); }

}  // namespace adapmoe
