// SPDX-License-Identifier: Apache-2.0
// Steps that queue the same kernels with the same arguments every time, one kind per number of
// rows: queued one by one the first time, recorded as a CUDA graph the second, and repeated as that
// graph from then on.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>

namespace adapmoe::cuda {

class StepGraphs {
 public:
  StepGraphs() = default;
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;
  ~StepGraphs();

  // Queues on `stream` what `queue` queues on it, without calling it where a graph is at hand.
  // `queue` may be called twice: what it did in a recording that failed has no effect.
  cudaError_t run(int64_t rows, cudaStream_t stream, const std::function<void()>& queue);

  int64_t replays() const { return replays_; }
  // Why no step is recorded any more; empty while they are.
  const std::string& problem() const { return problem_; }

 private:
  struct Recording {
    int64_t runs = 0;
    cudaGraphExec_t graph = nullptr;
  };
  void record(Recording& step, cudaStream_t stream, const std::function<void()>& queue);

  std::map<int64_t, Recording> steps_;  // by rows
  int64_t replays_ = 0;
  std::string problem_;
};

}  // namespace adapmoe::cuda
