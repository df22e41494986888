// SPDX-License-Identifier: Apache-2.0
#include "runtime/backend/backend.h"
#include "runtime/base/strings.h"

namespace adapmoe {

Result<std::unique_ptr<Backend>> make_backend(const std::string& backend,
                                              const std::string& kernels, int threads,
                                              const BackendShape& shape, std::string* note) {
  const bool exact = shape.expert_path == ExpertPath::kW4A8;
  if (backend == "cpu" && !exact) {
    return unavailable("arithmetic=\"w4a16\" runs on a GPU only; use backend=\"cuda\" or \"auto\"");
  }
  if (backend == "cpu") return make_cpu_backend(kernels, threads, shape);
  if (backend == "cuda") return make_cuda_backend(shape, /*integrated_only=*/false);
  if (backend != "auto") {
    return invalid_argument(str_cat("backend=\"", backend, "\": expected auto, cpu or cuda"));
  }
  auto gpu = make_cuda_backend(shape, /*integrated_only=*/true);
  if (gpu.ok() || !exact) return gpu;
  auto cpu = make_cpu_backend(kernels, threads, shape);
  if (cpu.ok() && !without_gpu()) {  // nobody asked for CUDA: no word where there is no GPU
    *note = str_cat(gpu.status().message(), "; running on ", cpu.value()->name());
  }
  return cpu;
}

}  // namespace adapmoe
