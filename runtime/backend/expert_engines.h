// SPDX-License-Identifier: Apache-2.0
// Experts as TensorRT engines, one per expert, deserialised into frames of device memory that is
// reserved when the session opens. Activations are fp16, so the bits are not the canonical ones.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/backend/backend.h"
#include "runtime/base/engine_device.h"
#include "runtime/base/status.h"

namespace adapmoe {

inline constexpr int64_t kEngineRows = 16;  // rows that engines are built for (export/FORMAT.md)

// Where plans come from, to choose the library and for messages.
struct PlanOrigin {
  std::string version;   // of the TensorRT that built them, such as "10.3.0"
  std::string built_by;  // the list, and what it says: "DIR/engines.json: built by tensorrt ..."
  std::string rebuild;   // the command that builds them again
};

// Computes an expert, numbered layer by layer, without its engine: see RecordExperts::run().
using CpuFallback = std::function<Status(uint64_t expert, Rows x, std::span<const int32_t> rows,
                                         int64_t first_output, Rows out)>;

struct ExpertEngines {
  // Runs experts by their engines and everything else by the backend that it was made from. The
  // tile of an expert is the frame that its plan was placed in.
  std::unique_ptr<Backend> backend;
  int64_t frame_bytes = 0;   // device memory of one engine
  int64_t shared_bytes = 0;  // device memory that all of them share, beside the frames
  int64_t host_bytes = 0;    // of rows on their way
  // Reserves this memory, once, before anything is placed. Returns one name per frame, which is not
  // an address. Errors: kBudgetError.
  std::function<Result<std::span<std::byte>>(int64_t frames)> reserve;
  // Creates the engine of a checked plan, replacing the one in that frame, which nothing uses any
  // more. Different frames may be filled at the same time, on any thread. Errors:
  // kEngineError saying what is wrong with the plan.
  std::function<Status(uint64_t expert, std::span<const std::byte> plan, std::byte* frame)> place;
  // Or leaves the frame without an engine: `cpu_fallback` computes the expert, and `why` is noted.
  std::function<void(uint64_t expert, std::byte* frame, const std::string& why)> fall_back;
};

// Defined by backend/tensorrt, or by backend/no_tensorrt where there is none.
// Major versions of TensorRT that this build can use where they are installed.
std::vector<int> tensorrt_majors();
// The device that engines would run on. Errors: kUnavailable.
Result<EngineDevice> engine_target();
// Loads the TensorRT that built the plans, and makes an engine of the `largest` one, once, to learn
// how much memory they need. `cuda` is the GPU backend. Errors: kUnavailable where there is no such
// TensorRT, naming both versions; kEngineError for the plan.
Result<ExpertEngines> make_expert_engines(std::unique_ptr<Backend> cuda, const BackendShape& shape,
                                          const PlanOrigin& origin,
                                          std::span<const std::byte> largest,
                                          const CpuFallback& cpu_fallback);

}  // namespace adapmoe
