// SPDX-License-Identifier: Apache-2.0
// The threads of a block take turns: each runs until a barrier, and then lets the next one run.
#include <ucontext.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "cuda_pipeline.h"
#include "cuda_runtime.h"
#include "emulated_memory.h"
#include "race_check.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr size_t kStackBytes = size_t{256} << 10;

// To shared memory, queued by a thread.
struct Copy {
  void* to = nullptr;
  const void* from = nullptr;
  size_t bytes = 0;
};

// Where __builtin_setjmp was.
using Place = void* [5];

struct Fiber {
  Place place{};
  ucontext_t start{};
  std::unique_ptr<char[]> stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
  bool started = false;
  bool done = false;
  std::vector<Copy> copies;               // since the last commit
  std::deque<std::vector<Copy>> commits;  // not waited for
};

// The block that runs now. One at a time, whatever the streams.
std::mutex running;
std::vector<std::unique_ptr<Fiber>> fibers;
Place scheduler;
const std::function<void()>* body = nullptr;
unsigned current = 0;
unsigned at_barrier = 0;
uint64_t barriers = 0;

// swapcontext would ask the kernel for the mask of signals each time. "noipa": other fibers run
// before these return, whatever the compiler sees in them.
[[gnu::noipa, noreturn]] void jump(Place& to) { __builtin_longjmp(to, 1); }
[[gnu::noipa]] void go(Place& from, Place& to) {
  if (__builtin_setjmp(from) == 0) jump(to);
}

// One thread of one block after another.
void fiber_main() {
  Fiber& self = *fibers[current];
  while (true) {
    (*body)();
    self.done = true;
    go(self.place, scheduler);
  }
}

[[gnu::noipa]] void resume(Fiber& fiber) {
  if (fiber.started) return go(scheduler, fiber.place);
  fiber.started = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.get();
  fiber.start.uc_stack.ss_size = kStackBytes;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, fiber_main, 0);
  if (__builtin_setjmp(scheduler) == 0) setcontext(&fiber.start);
}

void yield() { go(fibers[current]->place, scheduler); }

void run_block(unsigned threads) {
  while (fibers.size() < threads) fibers.push_back(std::make_unique<Fiber>());
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = *fibers[i];
    fiber.done = false;
    fiber.copies.clear();
    fiber.commits.clear();
  }
  at_barrier = 0;
  unsigned left = threads;
  while (left > 0) {
    const uint64_t before = barriers;
    const unsigned left_before = left;
    for (unsigned i = 0; i < threads; ++i) {
      if (fibers[i]->done) continue;
      current = i;
      threadIdx = dim3(i);
      race_thread.thread = i;
      race_thread.stack = fibers[i]->stack.get();
      resume(*fibers[i]);
      left -= fibers[i]->done ? 1 : 0;
    }
    // Some threads wait at a barrier that the others have left without: a GPU would hang.
    if (before == barriers && left == left_before) std::abort();
  }
  if (at_barrier != 0) std::abort();
}

}  // namespace

using Work = std::pair<cudaLaunchConfig_t, std::function<void()>>;

struct EmulatedGraph {
  std::vector<Work> work;
};

class EmulatedStream {
 public:
  void push(Work work) {
    const std::lock_guard lock(mutex_);
    if (capture_ != nullptr) {
      capture_->work.push_back(std::move(work));
    } else {
      queue_.push_back(std::move(work));
    }
  }
  std::optional<Work> pop() {
    const std::lock_guard lock(mutex_);
    if (queue_.empty()) return std::nullopt;
    Work work = std::move(queue_.front());
    queue_.pop_front();
    return work;
  }
  bool begin_capture(bool valid) {
    const std::lock_guard lock(mutex_);
    if (capture_ != nullptr) return false;
    capture_ = std::make_unique<EmulatedGraph>();
    valid_ = valid;
    return true;
  }
  // Whether there is a capture, which is worth nothing then.
  bool spoil_capture() {
    const std::lock_guard lock(mutex_);
    valid_ = false;
    return capture_ != nullptr;
  }
  std::unique_ptr<EmulatedGraph> end_capture() {  // null: none, or spoilt
    const std::lock_guard lock(mutex_);
    std::unique_ptr<EmulatedGraph> made = std::move(capture_);
    return valid_ ? std::move(made) : nullptr;
  }

 private:
  std::mutex mutex_;
  std::deque<Work> queue_;
  std::unique_ptr<EmulatedGraph> capture_;  // null: work is queued
  bool valid_ = false;
};

// What it waits for is all that its stream has to do when somebody waits: a GPU may be that fast.
struct EmulatedEvent {
  cudaStream_t stream = nullptr;
};

void __syncthreads() {
  const uint64_t mine = barriers;
  if (++at_barrier == blockDim.x) {
    at_barrier = 0;
    ++barriers;
    race_pass_barrier();
  }
  while (barriers == mine) yield();
}

void __pipeline_memcpy_async(void* to, const void* from, size_t bytes) {
  const auto low_bits = reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from);
  if ((bytes != 4 && bytes != 8 && bytes != 16) || low_bits % bytes != 0) __builtin_trap();
  race_write(to, bytes);
  std::memset(to, 0xa5, bytes);
  fibers[current]->copies.push_back({to, from, bytes});
}

void __pipeline_commit() {
  Fiber& fiber = *fibers[current];
  fiber.commits.push_back(std::exchange(fiber.copies, {}));
}

void __pipeline_wait_prior(size_t prior) {
  auto& commits = fibers[current]->commits;
  for (; commits.size() > prior; commits.pop_front()) {
    for (const Copy& copy : commits.front()) {
      race_read(copy.from, copy.bytes);
      race_write(copy.to, copy.bytes);
      std::memcpy(copy.to, copy.from, copy.bytes);
    }
  }
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = emulated_is_absent() ? 0 : 1;
  return *count == 0 ? cudaErrorNoDevice : cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int /*device*/) {
  const bool capability = attribute == cudaDevAttrComputeCapabilityMajor ||
                          attribute == cudaDevAttrComputeCapabilityMinor;
  *value = capability ? 0 : 1;  // sm_00: no real GPU
  if (attribute == cudaDevAttrIntegrated) *value = emulated_is_integrated();
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int /*device*/) {
  *properties = {.name = "emulated", .major = 0, .minor = 0, .multiProcessorCount = 1};
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned /*flags*/) {
  *stream = new EmulatedStream;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned /*flags*/) {
  *event = new EmulatedEvent;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->stream = stream;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return event->stream == nullptr ? cudaSuccess : cudaStreamSynchronize(event->stream);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "an emulated error";
}

cudaError_t emulate_launch(const cudaLaunchConfig_t& config, std::function<void()> thread) {
  if (config.gridDim.x == 0 || config.blockDim.x == 0) return cudaErrorInvalidValue;
  config.stream->push({config, std::move(thread)});
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode /*mode*/) {
  const char* graphs = std::getenv("ADAPMOE_EMULATED_GRAPHS");
  const bool refused = graphs != nullptr && std::string_view(graphs) == "refused";
  return stream->begin_capture(!refused) ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  std::unique_ptr<EmulatedGraph> made = stream->end_capture();
  if (made == nullptr) return cudaErrorStreamCaptureInvalidated;
  *graph = made.release();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long /*flags*/) {
  *exec = new EmulatedGraph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const Work& work : exec->work) stream->push(work);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return cudaGraphDestroy(exec); }

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream->spoil_capture()) return cudaErrorStreamCaptureUnsupported;
  const std::lock_guard lock(running);
  const DeviceAtWork access;
  while (const auto work = stream->pop()) {
    const auto& [config, thread] = *work;
    body = &thread;
    gridDim = config.gridDim;
    blockDim = config.blockDim;
    race_begin_launch();
    race_thread.stack_bytes = kStackBytes;
    for (unsigned block = 0; block < config.gridDim.x; ++block) {
      blockIdx = dim3(block);
      race_thread.block = block;
      race_begin_block();
      run_block(config.blockDim.x);
    }
    race_end_launch();
  }
  return cudaSuccess;
}
