// SPDX-License-Identifier: Apache-2.0
// A libnvinfer that computes nothing and prints what it is told, compiled with TensorRT's headers:
// tests/integration/test_tensorrt_adapter.py runs the real adapter against it. "stubs.h" is made by
// tests/support/tensorrt/tensorrt_stubs.py.
//
// A plan is text: "expert HIDDEN ROWS BYTES" is an engine for at most so many rows that takes so
// much device memory. "thread TEXT" is refused by a thread of its own, "meet TEXT" once two threads
// have been refused, everything else at once.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "stubs.h"

using namespace nvinfer1;

void not_meant_to_be_called(const char* name) {
  std::printf("%s is not meant to be called\n", name);
  std::abort();
}

namespace {

constexpr int64_t kScratch = 65536;

std::atomic<ILogger*> logger = nullptr;  // TensorRT keeps the first of a process

void say(const char* text) { logger.load()->log(ILogger::Severity::kERROR, text); }

// Device memory from the allocator that the runtime was given.
class Range {
 public:
  Range(IGpuAllocator* from, uint64_t bytes, uint64_t alignment)
      : from_(from), memory_(from->allocateAsync(bytes, alignment, 0, nullptr)) {}
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;
  ~Range() { from_->deallocateAsync(memory_, nullptr); }
  bool there() const { return memory_ != nullptr; }

 private:
  IGpuAllocator* from_;
  void* memory_;
};

struct Shape {
  int64_t hidden = 0;
  int64_t rows = 0;
};

struct ContextCalls final : stubs::VExecutionContext {
  explicit ContextCalls(Shape expert) : shape(expert) {}
  void setDeviceMemoryV2(void* memory, int64_t bytes) noexcept override {
    std::printf("scratch %p %ld\n", memory, static_cast<long>(bytes));
  }
  bool setInputShape(char const* name, Dims const& dims) noexcept override {
    std::printf("shape %s %ldx%ld\n", name, static_cast<long>(dims.d[0]),
                static_cast<long>(dims.d[1]));
    if (dims.nbDims == 2 && dims.d[0] <= shape.rows && dims.d[1] == shape.hidden) return true;
    say("the profile has no such shape");
    return false;
  }
  bool setTensorAddress(char const* name, void* data) noexcept override {
    std::printf("address %s %p\n", name, data);
    return true;
  }
  bool enqueueV3(cudaStream_t stream) noexcept override {
    std::printf("enqueue %p\n", static_cast<void*>(stream));
    return true;
  }
  Shape shape;
};

struct Context final : IExecutionContext {
  Context(Shape expert, IGpuAllocator* from) : calls(expert), state(from, 512, 0) {
    mImpl = &calls;
  }
  ~Context() override { std::puts("~context"); }
  ContextCalls calls;
  Range state;
};

struct EngineCalls final : stubs::VCudaEngine {
  EngineCalls(Shape expert, IGpuAllocator* from) : shape(expert), allocator(from) {}
  int32_t getNbIOTensors() const noexcept override { return 2; }
  TensorIOMode getTensorIOMode(char const* name) const noexcept override {
    return *name == 'x' ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
  }
  DataType getTensorDataType(char const* /*name*/) const noexcept override {
    return DataType::kHALF;
  }
  Dims getTensorShape(char const* /*name*/) const noexcept override {
    return Dims{2, {-1, shape.hidden}};
  }
  Dims getProfileShape(char const* /*name*/, int32_t /*profile*/,
                       OptProfileSelector /*select*/) const noexcept override {
    return Dims{2, {shape.rows, shape.hidden}};
  }
  int64_t getDeviceMemorySizeV2() const noexcept override { return kScratch; }
  IExecutionContext* createExecutionContext(
      ExecutionContextAllocationStrategy strategy) noexcept override {
    if (strategy != ExecutionContextAllocationStrategy::kUSER_MANAGED) return nullptr;
    auto* made = new Context(shape, allocator);
    if (made->state.there()) return made;
    say("out of device memory for the context");
    delete made;
    return nullptr;
  }
  Shape shape;
  IGpuAllocator* allocator;
};

struct Engine final : ICudaEngine {
  Engine(Shape expert, IGpuAllocator* from, uint64_t bytes)
      : calls(expert, from), weights(from, bytes, 256) {
    mImpl = &calls;
  }
  ~Engine() override { std::puts("~engine"); }
  EngineCalls calls;
  Range weights;
};

void wait_for_two() {
  static std::atomic<int> here = 0;
  ++here;
  for (int i = 0; here < 2 && i < 10000; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

ICudaEngine* refuse(const std::string& plan) {
  const std::string text = "not a plan: " + plan;
  if (plan.starts_with("thread ")) {
    std::thread([&] { say(text.c_str()); }).join();
  } else {
    say(text.c_str());
  }
  if (plan.starts_with("meet ")) wait_for_two();
  return nullptr;
}

struct RuntimeCalls final : stubs::VRuntime {
  void setGpuAllocator(IGpuAllocator* from) noexcept override { allocator = from; }
  ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept override {
    const std::string plan(static_cast<const char*>(blob), size);
    long hidden = 0;
    long rows = 0;
    unsigned long bytes = 0;
    if (std::sscanf(plan.c_str(), "expert %ld %ld %lu", &hidden, &rows, &bytes) != 3) {
      return refuse(plan);
    }
    auto* made = new Engine({hidden, rows}, allocator, bytes);
    if (made->weights.there()) return made;
    say("out of device memory");
    delete made;
    return nullptr;
  }
  IGpuAllocator* allocator = nullptr;
};

struct Runtime final : IRuntime {
  Runtime() { mImpl = &calls; }
  ~Runtime() override { std::puts("~runtime"); }
  RuntimeCalls calls;
};

}  // namespace

extern "C" {
int32_t getInferLibMajorVersion() noexcept {
  const char* other = std::getenv("MOCK_MAJOR");
  return other == nullptr ? NV_TENSORRT_MAJOR : std::atoi(other);
}
int32_t getInferLibMinorVersion() noexcept { return NV_TENSORRT_MINOR; }
int32_t getInferLibPatchVersion() noexcept { return NV_TENSORRT_PATCH; }
int32_t getInferLibBuildVersion() noexcept { return NV_TENSORRT_BUILD; }

void* createInferRuntime_INTERNAL(void* log, int32_t version) noexcept {
  ILogger* none = nullptr;
  logger.compare_exchange_strong(none, static_cast<ILogger*>(log));
  if (version != NV_TENSORRT_VERSION) return nullptr;
  return static_cast<IRuntime*>(new Runtime);
}
}
