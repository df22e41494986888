// SPDX-License-Identifier: Apache-2.0
// Stands in for the adapter of TensorRT where there is none: the same C interface, and engines that
// run an expert on the CPU. A run is queued on the emulated stream, and happens when the host
// synchronizes, so that results which are read too early are wrong.
//
// A plan, as tests write it: "standin\n", then uint32 TensorRT major, hidden_size, inner size, and
// f32 gate_proj [inner, hidden], up_proj [inner, hidden], down_proj [hidden, inner]. Its engine
// takes device memory for the weights and for a state, and scratch for the inner values of 16 rows.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/backend/tensorrt/adapter_abi.h"
#include "runtime/base/half.h"

struct TrtEngine {
  TrtAllocator allocator;
  int64_t hidden = 0;
  int64_t inner = 0;
  float* weights = nullptr;  // gate_proj, up_proj, down_proj
  void* state = nullptr;     // as TensorRT takes for an execution context, of any alignment
  int64_t scratch_bytes() const { return 16 * inner * static_cast<int64_t>(sizeof(float)); }
};

namespace {

constexpr uint64_t kStateBytes = 512;
constexpr char kMagic[8] = {'s', 't', 'a', 'n', 'd', 'i', 'n', '\n'};

thread_local std::string last_error;
std::string library_version;

int32_t fail(const std::string& what) {
  last_error = what;
  return 0;
}

int32_t open(void* library) {
  const auto number = reinterpret_cast<int (*)()>(dlsym(library, "nvinfer_stand_in_version"));
  if (number == nullptr) return fail("not the stand-in for libnvinfer");
  library_version = std::to_string(number() / 10000) + "." + std::to_string(number() / 100 % 100) +
                    "." + std::to_string(number() % 100) + ".9";
  return 1;
}

const char* version() { return library_version.c_str(); }

// Does `work` on the emulated GPU, whose memory the host cannot touch, and waits for it.
bool on_device(std::function<void()> work) {
  cudaLaunchConfig_t config;
  if (cudaStreamCreateWithFlags(&config.stream, cudaStreamNonBlocking) != cudaSuccess) return false;
  const bool done = emulate_launch(config, std::move(work)) == cudaSuccess &&
                    cudaStreamSynchronize(config.stream) == cudaSuccess;
  return cudaStreamDestroy(config.stream) == cudaSuccess && done;
}

TrtEngine* deserialise(const void* plan, uint64_t bytes, TrtExpertShape shape,
                       const TrtAllocator* allocator, int64_t* scratch_bytes) {
  uint32_t head[3] = {};
  const auto* data = static_cast<const char*>(plan);
  if (bytes < sizeof(kMagic) + sizeof(head) || std::memcmp(data, kMagic, sizeof(kMagic)) != 0) {
    return fail("TensorRT does not take the plan"), nullptr;
  }
  std::memcpy(head, data + sizeof(kMagic), sizeof(head));
  const uint64_t weight_bytes = uint64_t{3} * head[1] * head[2] * sizeof(float);
  if (head[0] != TRT_MAJOR || bytes < sizeof(kMagic) + sizeof(head) + weight_bytes) {
    return fail("the plan is of another TensorRT"), nullptr;
  }
  if (head[1] != shape.hidden_size || shape.max_rows > 16) {
    return fail("the plan is not that of an expert of this model"), nullptr;
  }
  void* weights = allocator->allocate(allocator->context, weight_bytes, 256);
  if (weights == nullptr) return fail("out of device memory"), nullptr;
  const char* from = data + sizeof(kMagic) + sizeof(head);
  if (!on_device([=] { std::memcpy(weights, from, weight_bytes); })) {
    return fail("the emulated GPU failed"), nullptr;
  }
  void* state = allocator->allocate(allocator->context, kStateBytes, 0);
  if (state == nullptr) return fail("out of device memory"), nullptr;
  auto* engine = new TrtEngine{*allocator, head[1], head[2], static_cast<float*>(weights), state};
  *scratch_bytes = engine->scratch_bytes();
  return engine;
}

float dot(const float* a, const float* b, int64_t n) {
  float sum = 0.0F;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void run(const TrtEngine& e, const uint16_t* x, uint16_t* y, int64_t rows, float* scratch) {
  std::vector<float> row(static_cast<size_t>(e.hidden));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < e.hidden; ++k) {
      row[static_cast<size_t>(k)] = adapmoe::half_to_float(x[r * e.hidden + k]);
    }
    float* inner = scratch + r * e.inner;
    for (int64_t i = 0; i < e.inner; ++i) {
      const float gate = dot(e.weights + i * e.hidden, row.data(), e.hidden);
      const float up = dot(e.weights + (e.inner + i) * e.hidden, row.data(), e.hidden);
      inner[i] = gate / (1.0F + std::exp(-gate)) * up;
    }
    const float* down = e.weights + 2 * e.inner * e.hidden;
    for (int64_t k = 0; k < e.hidden; ++k) {
      y[r * e.hidden + k] = adapmoe::float_to_half(dot(down + k * e.inner, inner, e.inner));
    }
  }
}

int32_t enqueue(TrtEngine* engine, const void* x, void* y, int64_t rows, void* scratch,
                int64_t scratch_bytes, void* stream) {
  const bool aligned = reinterpret_cast<uintptr_t>(x) % 256 == 0 &&
                       reinterpret_cast<uintptr_t>(y) % 256 == 0 &&
                       reinterpret_cast<uintptr_t>(scratch) % 256 == 0;
  if (!aligned) return fail("an address is no multiple of 256");
  if (rows < 1 || rows > 16) return fail("built for 1 to 16 rows");
  const char* refused = std::getenv("ADAPMOE_EMULATED_TENSORRT_REFUSES");
  if (refused != nullptr && std::string_view(refused) == "enqueue") return fail("told to refuse");
  if (scratch_bytes < engine->scratch_bytes()) return fail("too little scratch memory");
  cudaLaunchConfig_t config;
  config.stream = static_cast<cudaStream_t>(stream);
  const auto queued = emulate_launch(config, [=] {
    run(*engine, static_cast<const uint16_t*>(x), static_cast<uint16_t*>(y), rows,
        static_cast<float*>(scratch));
  });
  return queued == cudaSuccess ? 1 : fail("the emulated GPU takes nothing");
}

void destroy(TrtEngine* engine) {
  // Whatever still ran it would show.
  const auto bytes = static_cast<size_t>(3 * engine->hidden * engine->inner) * sizeof(float);
  (void)on_device([=] { std::memset(engine->weights, 0xff, bytes); });
  engine->allocator.release(engine->allocator.context, engine->state);
  engine->allocator.release(engine->allocator.context, engine->weights);
  delete engine;
}

const char* say_last_error() { return last_error.c_str(); }

constexpr TrtAdapter kAdapter = {kTrtAbi,     TRT_MAJOR, open,    version,
                                 deserialise, enqueue,   destroy, say_last_error};

}  // namespace

extern "C" __attribute__((visibility("default"))) const TrtAdapter* adapmoe_trt_adapter() {
  return &kAdapter;
}
