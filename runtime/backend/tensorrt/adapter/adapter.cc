// SPDX-License-Identifier: Apache-2.0
// The adapter for the TensorRT whose headers it is compiled with. It links against nothing of
// TensorRT or CUDA: the caller has loaded libnvinfer.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <string_view>

#include "runtime/backend/tensorrt/adapter_abi.h"

namespace {

constexpr char kInput[] = "x";
constexpr char kOutput[] = "y";

// A text that takes no memory when it grows: what does not fit is cut off.
class Text {
 public:
  void clear() { size_ = 0, text_[0] = '\0'; }
  void add(std::string_view part) {
    const size_t bytes = std::min(part.size(), sizeof(text_) - 1 - size_);
    std::memcpy(text_ + size_, part.data(), bytes);
    text_[size_ += bytes] = '\0';
  }
  void add(std::string_view separator, const Text& other) {
    if (other.size_ == 0) return;
    add(separator);
    add(other.text_);
  }
  const char* c_str() const { return text_; }
  bool empty() const { return size_ == 0; }

 private:
  size_t size_ = 0;
  char text_[2000] = {};
};

// What one thread knows of its calls.
struct Caller {
  bool in_call = false;
  Text said;   // by TensorRT, in this call
  Text error;  // why the latest call failed
};
Caller& caller() {
  thread_local Caller instance;
  return instance;
}

// Keeps the errors that TensorRT says in a call for that call, and what its own threads say for the
// next call that fails. TensorRT keeps the first logger of a process for good, so there is one.
class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity != Severity::kERROR && severity != Severity::kINTERNAL_ERROR) return;
    if (caller().in_call) return add(message, caller().said);
    const std::lock_guard lock(mutex_);
    add(message, elsewhere_);
  }
  void move_elsewhere(Text& into) {
    const std::lock_guard lock(mutex_);
    into.add("; elsewhere: ", elsewhere_);
    elsewhere_.clear();
  }

 private:
  static void add(const char* message, Text& text) {
    if (!text.empty()) text.add("; ");
    text.add(message);
  }

  std::mutex mutex_;
  Text elsewhere_;
};

Logger& logger() {
  // Never destroyed: TensorRT may use it until the process ends. And there without any memory left.
  alignas(Logger) static std::byte memory[sizeof(Logger)];
  static Logger& instance = *new (memory) Logger;
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

int32_t fail(std::string_view what) {
  Text& error = caller().error;
  error.clear();
  error.add(what);
  error.add(": ", caller().said);
  logger().move_elsewhere(error);
  return 0;
}

// Does the work of a call of this interface, which no exception may leave.
template <class Work>
auto call(Work work) noexcept -> decltype(work()) {
  decltype(work()) result{};
  caller().said.clear();
  caller().in_call = true;
  try {
    result = work();
  } catch (const std::bad_alloc&) {
    fail("the host has no memory left");
  } catch (...) {
    fail("an unexpected exception");
  }
  caller().in_call = false;
  return result;
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

int32_t find_functions(void* handle) {
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
  // Its vtables are others.
  const std::string major = std::to_string(NV_TENSORRT_MAJOR);
  if (!version.starts_with(major + '.')) {
    return fail("it is TensorRT " + version + ", and this adapter is for TensorRT " + major);
  }
  using CreateRuntime = decltype(Library::create_runtime);
  const auto create = reinterpret_cast<CreateRuntime>(dlsym(handle, "createInferRuntime_INTERNAL"));
  if (create == nullptr) return fail("libnvinfer has no createInferRuntime_INTERNAL");
  library() = {create, version};
  return 1;
}

int32_t open(void* handle) {
  return call([&] { return find_functions(handle); });
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

TrtEngine* make_engine(const void* plan, uint64_t bytes, TrtExpertShape shape,
                       const TrtAllocator* allocator, int64_t* scratch_bytes) {
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

TrtEngine* deserialise(const void* plan, uint64_t bytes, TrtExpertShape shape,
                       const TrtAllocator* allocator, int64_t* scratch_bytes) {
  return call([&] { return make_engine(plan, bytes, shape, allocator, scratch_bytes); });
}

int32_t queue_run(TrtEngine* engine, const void* x, void* y, int64_t rows, void* scratch,
                  int64_t scratch_bytes, void* stream) {
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

int32_t enqueue(TrtEngine* engine, const void* x, void* y, int64_t rows, void* scratch,
                int64_t scratch_bytes, void* stream) {
  return call([&] { return queue_run(engine, x, y, rows, scratch, scratch_bytes, stream); });
}

void destroy(TrtEngine* engine) { delete engine; }

const char* last_error() { return caller().error.c_str(); }

constexpr TrtAdapter kAdapter = {kTrtAbi,     NV_TENSORRT_MAJOR, open,    version,
                                 deserialise, enqueue,           destroy, last_error};

}  // namespace

extern "C" __attribute__((visibility("default"))) const TrtAdapter* adapmoe_trt_adapter() {
  return &kAdapter;
}
