// SPDX-License-Identifier: Apache-2.0
// The adapter for the TensorRT whose headers it is compiled with. It links against nothing of
// TensorRT or CUDA: the caller has loaded libnvinfer.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "runtime/backend/tensorrt/adapter_abi.h"

namespace {

constexpr char kInput[] = "x";
constexpr char kOutput[] = "y";

std::string& last_error() {
  thread_local std::string text;
  return text;
}

// TensorRT keeps the first logger of a process for good, so there is one. It remembers the errors
// of the call that runs; of calls at the same time, all of them.
class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity != Severity::kERROR && severity != Severity::kINTERNAL_ERROR) return;
    const std::lock_guard lock(mutex_);
    constexpr size_t kMost = 2000;
    if (said_.size() >= kMost) return;
    if (!said_.empty()) said_ += "; ";
    said_ += message;
  }
  std::string take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(said_, std::string());
  }

 private:
  std::mutex mutex_;
  std::string said_;
};

Logger& logger() {
  static Logger& instance = *new Logger;  // TensorRT may use it until the process ends
  return instance;
}

// Device memory for one engine, from the caller.
class Allocator final : public nvinfer1::IGpuAsyncAllocator {
 public:
  explicit Allocator(const TrtAllocator& from) : from_(from) {}

  void* allocateAsync(uint64_t size, uint64_t alignment, nvinfer1::AllocatorFlags /*flags*/,
                      cudaStream_t /*stream*/) noexcept override {
    return size == 0 ? nullptr : from_.allocate(from_.context, size, alignment);
  }
  bool deallocateAsync(void* memory, cudaStream_t /*stream*/) noexcept override {
    if (memory != nullptr) from_.release(from_.context, memory);
    return true;
  }

 private:
  TrtAllocator from_;
};

// What open() found in libnvinfer.
struct Library {
  void* (*create_runtime)(void* logger, int32_t version) noexcept = nullptr;
  std::string version;
};
Library& library() {
  static Library& instance = *new Library;
  return instance;
}

int32_t fail(const std::string& what) {
  const std::string said = logger().take();
  last_error() = said.empty() ? what : what + ": " + said;
  return 0;
}

}  // namespace

// Destroyed from the last member to the first.
struct TrtEngine {
  explicit TrtEngine(const TrtAllocator& from) : allocator(from) {}

  Allocator allocator;
  std::unique_ptr<nvinfer1::IRuntime> runtime;
  std::unique_ptr<nvinfer1::ICudaEngine> engine;
  std::unique_ptr<nvinfer1::IExecutionContext> context;
};

namespace {

int32_t open(void* handle) {
  using Number = int32_t (*)() noexcept;
  const char* const names[] = {"getInferLibMajorVersion", "getInferLibMinorVersion",
                               "getInferLibPatchVersion", "getInferLibBuildVersion"};
  std::string version;
  for (const char* name : names) {
    const auto number = reinterpret_cast<Number>(dlsym(handle, name));
    if (number == nullptr) return fail(std::string("libnvinfer has no ") + name);
    if (!version.empty()) version += '.';
    version += std::to_string(number());
  }
  using CreateRuntime = decltype(Library::create_runtime);
  const auto create = reinterpret_cast<CreateRuntime>(dlsym(handle, "createInferRuntime_INTERNAL"));
  if (create == nullptr) return fail("libnvinfer has no createInferRuntime_INTERNAL");
  library() = {create, version};
  return 1;
}

const char* version() { return library().version.c_str(); }

// Whether the engine is an expert as export/FORMAT.md describes it. The runtime never passes more
// rows than its profile allows.
bool is_expert(const nvinfer1::ICudaEngine& engine, const TrtExpertShape& shape) {
  if (engine.getNbIOTensors() != 2) return false;
  if (engine.getTensorIOMode(kInput) != nvinfer1::TensorIOMode::kINPUT) return false;
  if (engine.getTensorIOMode(kOutput) != nvinfer1::TensorIOMode::kOUTPUT) return false;
  for (const char* name : {kInput, kOutput}) {
    const nvinfer1::Dims dims = engine.getTensorShape(name);
    if (engine.getTensorDataType(name) != nvinfer1::DataType::kHALF || dims.nbDims != 2 ||
        dims.d[1] != shape.hidden_size) {
      return false;
    }
  }
  const nvinfer1::Dims most = engine.getProfileShape(kInput, 0, nvinfer1::OptProfileSelector::kMAX);
  return most.nbDims == 2 && most.d[0] >= shape.max_rows;
}

TrtEngine* deserialise(const void* plan, uint64_t bytes, TrtExpertShape shape,
                       const TrtAllocator* allocator, int64_t* scratch_bytes) {
  (void)logger().take();
  auto made = std::make_unique<TrtEngine>(*allocator);
  made->runtime.reset(
      static_cast<nvinfer1::IRuntime*>(library().create_runtime(&logger(), NV_TENSORRT_VERSION)));
  if (made->runtime == nullptr) return fail("TensorRT makes no runtime"), nullptr;
  made->runtime->setGpuAllocator(&made->allocator);
  made->engine.reset(made->runtime->deserializeCudaEngine(plan, bytes));
  if (made->engine == nullptr) return fail("TensorRT does not take the plan"), nullptr;
  if (!is_expert(*made->engine, shape)) {
    return fail("the plan is not that of an expert of this model"), nullptr;
  }
  made->context.reset(made->engine->createExecutionContext(
      nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
  if (made->context == nullptr) return fail("TensorRT makes no execution context"), nullptr;
  *scratch_bytes = made->engine->getDeviceMemorySizeV2();
  return made.release();
}

int32_t enqueue(TrtEngine* engine, const void* x, void* y, int64_t rows, void* scratch,
                int64_t scratch_bytes, void* stream) {
  (void)logger().take();
  nvinfer1::IExecutionContext& context = *engine->context;
  nvinfer1::Dims shape = engine->engine->getTensorShape(kInput);
  shape.d[0] = rows;
  context.setDeviceMemoryV2(scratch, scratch_bytes);
  // The engine only reads x.
  const bool ready = context.setInputShape(kInput, shape) &&
                     context.setTensorAddress(kInput, const_cast<void*>(x)) &&
                     context.setTensorAddress(kOutput, y);
  if (!ready) return fail("TensorRT does not take the input");
  if (!context.enqueueV3(static_cast<cudaStream_t>(stream))) {
    return fail("TensorRT cannot run the engine");
  }
  return 1;
}

void destroy(TrtEngine* engine) { delete engine; }

const char* say_last_error() { return last_error().c_str(); }

constexpr TrtAdapter kAdapter = {kTrtAbi,     NV_TENSORRT_MAJOR, open,    version,
                                 deserialise, enqueue,           destroy, say_last_error};

}  // namespace

extern "C" __attribute__((visibility("default"))) const TrtAdapter* adapmoe_trt_adapter() {
  return &kAdapter;
}
