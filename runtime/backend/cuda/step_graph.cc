// SPDX-License-Identifier: Apache-2.0
#include "runtime/backend/cuda/step_graph.h"

namespace adapmoe::cuda {

StepGraphs::~StepGraphs() {
  for (auto& [rows, step] : steps_) {
    if (step.graph != nullptr) (void)cudaGraphExecDestroy(step.graph);
  }
}

cudaError_t StepGraphs::run(int64_t rows, cudaStream_t stream, const std::function<void()>& queue) {
  Recording& step = steps_[rows];
  // Not the first time: a kernel's code may have to be loaded then, and a kind of step may come but
  // once.
  if (step.graph == nullptr && step.runs > 0 && problem_.empty()) record(step, stream, queue);
  ++step.runs;
  if (step.graph == nullptr) {
    queue();
    return cudaSuccess;
  }
  ++replays_;
  return cudaGraphLaunch(step.graph, stream);
}

void StepGraphs::record(Recording& step, cudaStream_t stream, const std::function<void()>& queue) {
  cudaGraph_t graph = nullptr;
  cudaError_t error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  if (error == cudaSuccess) {
    queue();
    error = cudaStreamEndCapture(stream, &graph);
  }
  if (error == cudaSuccess) error = cudaGraphInstantiate(&step.graph, graph, 0);
  if (graph != nullptr) (void)cudaGraphDestroy(graph);
  if (error == cudaSuccess) return;
  step.graph = nullptr;
  (void)cudaGetLastError();  // or a later call would report it
  problem_ = cudaGetErrorString(error);
}

}  // namespace adapmoe::cuda
