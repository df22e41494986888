// SPDX-License-Identifier: Apache-2.0
// What the runtime asks of TensorRT, as plain C: an adapter library offers it for one major version
// of TensorRT, compiled with that version's headers. Nothing here names a type of TensorRT or CUDA.
#pragma once
#include <stdint.h>

extern "C" {

// One deserialised plan that can run.
struct TrtEngine;

// Where an engine's device memory comes from. Both functions may be called while the engine is
// made, runs or is destroyed, by any thread, one at a time for one engine.
struct TrtAllocator {
  void* context;
  // `alignment` is a power of two, or 0 where any will do. Null: there is no room.
  void* (*allocate)(void* context, uint64_t bytes, uint64_t alignment);
  void (*release)(void* context, void* memory);
};

// Of one expert: fp16 `x` [rows, hidden_size] to fp16 `y` of the same shape (export/FORMAT.md).
struct TrtExpertShape {
  int64_t hidden_size;
  int64_t max_rows;
};

// Functions that return an int return 0 where they failed. Different engines may be made, run and
// destroyed by different threads at the same time.
struct TrtAdapter {
  int32_t abi;    // kTrtAbi
  int32_t major;  // of TensorRT
  // `library`: the handle of libnvinfer.so.MAJOR, which stays loaded. Once, before all others.
  int32_t (*open)(void* library);
  // Of that library, such as "10.3.0.26".
  const char* (*version)(void);
  // A plan that the caller trusts: it is machine code. The context of `allocator` outlives the
  // engine; `plan` need not. `scratch_bytes` receives what enqueue() needs. Null where it failed.
  struct TrtEngine* (*deserialise)(const void* plan, uint64_t bytes, struct TrtExpertShape shape,
                                   const struct TrtAllocator* allocator, int64_t* scratch_bytes);
  // Queues y = expert(x) on `stream`, a cudaStream_t. All addresses are the device's and multiples
  // of 256. Engines on one stream may share `scratch`.
  int32_t (*enqueue)(struct TrtEngine* engine, const void* x, void* y, int64_t rows, void* scratch,
                     int64_t scratch_bytes, void* stream);
  // REQUIRES: nothing that was queued still runs.
  void (*destroy)(struct TrtEngine* engine);
  // Why the latest call of this thread failed; until its next call.
  const char* (*last_error)(void);
};

// The one symbol that an adapter exports.
typedef const struct TrtAdapter* (*TrtGetAdapter)(void);
}

inline constexpr int32_t kTrtAbi = 1;
inline constexpr char kTrtGetAdapter[] = "adapmoe_trt_adapter";
