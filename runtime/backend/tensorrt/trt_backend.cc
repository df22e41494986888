// SPDX-License-Identifier: Apache-2.0
#include "runtime/backend/tensorrt/trt_backend.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "runtime/backend/tensorrt/trt_library.h"
#include "runtime/base/check.h"
#include "runtime/base/half.h"
#include "runtime/base/strings.h"

namespace adapmoe {
namespace {

constexpr int64_t kAlignment = 256;  // of every address that TensorRT is given

Status failed(std::string_view what, cudaError_t error) {
  return unavailable(str_cat("experts=\"tensorrt\": ", what, ": ", cudaGetErrorString(error)));
}

}  // namespace

Result<EngineDevice> engine_target() {
  int device = 0;
  cudaDeviceProp found{};
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaGetDeviceProperties(&found, device);
  if (error != cudaSuccess) return failed("no usable GPU", error);
  return EngineDevice{.target = str_cat("sm_", found.major, found.minor),
                      .name = found.name,
                      .multiprocessors = found.multiProcessorCount};
}

Result<ExpertEngines> make_expert_engines(std::unique_ptr<Backend> cuda, const BackendShape& shape,
                                          const PlanOrigin& origin,
                                          std::span<const std::byte> largest) {
  auto adapter = tensorrt::load_adapter(origin);
  if (!adapter.ok()) return adapter.status();
  auto made = tensorrt::TrtBackend::make(std::move(cuda), shape, adapter.value(), largest);
  if (!made.ok()) return made.status();
  tensorrt::TrtBackend* backend = made.value().get();
  ExpertEngines engines;
  engines.frame_bytes = backend->frame_bytes();
  engines.shared_bytes = backend->shared_bytes();
  engines.reserve = [backend](int64_t frames) { return backend->reserve(frames); };
  engines.place = [backend](std::span<const std::byte> plan, std::byte* frame) {
    return backend->place(plan, frame);
  };
  engines.backend = std::move(made).value();
  return engines;
}

namespace tensorrt {

TrtBackend::TrtBackend(std::unique_ptr<Backend> cuda, const BackendShape& shape,
                       const TrtAdapter* adapter)
    : cuda_(std::move(cuda)),
      adapter_(adapter),
      shape_{.hidden_size = shape.config.hidden_size, .max_rows = kEngineRows},
      own_memory_(cuda_->own_memory().has_value()),
      name_(str_cat(cuda_->name(), "+tensorrt/", adapter->version())) {}

Result<std::unique_ptr<TrtBackend>> TrtBackend::make(std::unique_ptr<Backend> cuda,
                                                     const BackendShape& shape,
                                                     const TrtAdapter* adapter,
                                                     std::span<const std::byte> largest) {
  std::unique_ptr<TrtBackend> made(new TrtBackend(std::move(cuda), shape, adapter));
  cudaError_t error = cudaGetDevice(&made->device_);
  if (error == cudaSuccess) {
    error = cudaStreamCreateWithFlags(&made->stream_, cudaStreamNonBlocking);
  }
  if (error != cudaSuccess) return failed("cannot start on the GPU", error);
  ADAPMOE_RETURN_IF_ERROR(made->measure(largest));
  return made;
}

TrtBackend::~TrtBackend() {
  (void)cudaSetDevice(device_);
  if (stream_ != nullptr) (void)cudaStreamSynchronize(stream_);
  for (const Slot& slot : slots_) {
    if (slot.engine != nullptr) adapter_->destroy(slot.engine);
  }
  if (device_memory_ != nullptr) (void)cudaFree(device_memory_);
  if (rows_of_device_ != nullptr) (void)cudaHostUnregister(rows_);
  std::free(rows_);
  if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
}

TrtEngine* TrtBackend::deserialise(std::span<const std::byte> plan, EngineMemory& memory,
                                   int64_t* scratch_bytes) const {
  const TrtAllocator allocator = memory.allocator();
  return adapter_->deserialise(plan.data(), plan.size(), shape_, &allocator, scratch_bytes);
}

// Nothing records what an engine needs, and plans of one model differ little: a place gets what the
// largest one took, and a 32nd more.
Status TrtBackend::measure(std::span<const std::byte> plan) {
  const auto bytes = static_cast<int64_t>(plan.size()) * 2 + (int64_t{4} << 20);
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, static_cast<size_t>(bytes));
  if (error != cudaSuccess) {
    return budget_error(
        str_cat("experts=\"tensorrt\": ", format_bytes(bytes),
                " of device memory to try an engine in: ", cudaGetErrorString(error)));
  }
  EngineMemory place({static_cast<std::byte*>(memory), static_cast<size_t>(bytes)});
  int64_t scratch = 0;
  TrtEngine* engine = deserialise(plan, place, &scratch);
  const Status made = engine != nullptr
                          ? Status()
                          : engine_error(str_cat(
                                "experts=\"tensorrt\": no engine can be made of the largest plan: ",
                                adapter_->last_error()));
  if (engine != nullptr) adapter_->destroy(engine);
  (void)cudaFree(memory);
  frame_bytes_ = align_up(place.wanted() + place.wanted() / 32, kPageBytes);
  scratch_bytes_ = align_up(scratch, kPageBytes);
  return made;
}

Result<std::span<std::byte>> TrtBackend::reserve(int64_t frames) {
  ADAPMOE_CHECK(device_memory_ == nullptr);
  ADAPMOE_RETURN_IF_ERROR(reserve_rows());
  const int64_t bytes = scratch_bytes_ + frames * frame_bytes_;
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, static_cast<size_t>(bytes));
  if (error != cudaSuccess) {
    return budget_error(str_cat("experts=\"tensorrt\": ", format_bytes(bytes),
                                " of device memory for engines: ", cudaGetErrorString(error),
                                "; lower memory="));
  }
  device_memory_ = static_cast<std::byte*>(memory);
  slots_ = std::vector<Slot>(static_cast<size_t>(frames));
  return std::span(device_memory_ + scratch_bytes_, static_cast<size_t>(frames * frame_bytes_));
}

TrtBackend::Slot& TrtBackend::slot_of(const std::byte* frame) {
  const int64_t offset = frame - (device_memory_ + scratch_bytes_);
  const auto index = static_cast<size_t>(offset / frame_bytes_);
  ADAPMOE_CHECK(offset >= 0 && offset % frame_bytes_ == 0 && index < slots_.size());
  return slots_[index];
}

Status TrtBackend::place(std::span<const std::byte> plan, std::byte* frame) {
  const cudaError_t error = cudaSetDevice(device_);  // of this thread
  if (error != cudaSuccess) return failed("the GPU failed", error);
  Slot& slot = slot_of(frame);
  if (slot.engine != nullptr) adapter_->destroy(std::exchange(slot.engine, nullptr));
  slot.memory.reset({frame, static_cast<size_t>(frame_bytes_)});
  int64_t scratch = 0;
  slot.engine = deserialise(plan, slot.memory, &scratch);
  const int64_t wanted = slot.memory.wanted();
  if (slot.engine != nullptr && wanted <= frame_bytes_ && scratch <= scratch_bytes_) return {};
  const std::string reason =
      wanted > frame_bytes_ ? str_cat("its engine needs ", format_bytes(wanted),
                                      " of device memory, a place has ", format_bytes(frame_bytes_))
      : slot.engine == nullptr
          ? adapter_->last_error()
          : str_cat("its engine needs ", format_bytes(scratch), " of scratch memory, there are ",
                    format_bytes(scratch_bytes_));
  if (slot.engine != nullptr) adapter_->destroy(std::exchange(slot.engine, nullptr));
  return engine_error(reason);
}

int64_t TrtBackend::chunk_values() const {
  return align_up(kEngineRows * shape_.hidden_size, kAlignment);
}

int64_t TrtBackend::rows_bytes() const {
  return align_up(kChunks * 2 * chunk_values() * static_cast<int64_t>(sizeof(uint16_t)),
                  kPageBytes);
}

Status TrtBackend::reserve_rows() {
  const auto bytes = static_cast<size_t>(rows_bytes());
  rows_ = static_cast<uint16_t*>(std::aligned_alloc(kPageBytes, bytes));
  if (rows_ == nullptr) return budget_error("no memory for the rows of experts");
  cudaError_t error =
      cudaHostRegister(rows_, bytes, cudaHostRegisterMapped | cudaHostRegisterPortable);
  if (error == cudaSuccess) error = cudaHostGetDevicePointer(&rows_of_device_, rows_, 0);
  return error == cudaSuccess ? Status() : failed("cannot map the rows of experts", error);
}

void TrtBackend::note(const Status& status) {
  if (error_.ok() && !status.ok()) error_ = status;
}

void TrtBackend::note(cudaError_t error) {
  if (error != cudaSuccess) note(failed("the GPU failed", error));
}

Status TrtBackend::wait() {
  note(cuda_->wait());
  drain();
  return std::exchange(error_, Status());
}

// Waits for the engines and takes their results.
void TrtBackend::drain() {
  note(cudaStreamSynchronize(stream_));
  for (const Pending& run : pending_) {
    const uint16_t* y = run.y;
    for (int64_t i = 0; i < run.into.rows; ++i, y += shape_.hidden_size) {
      std::transform(y, y + shape_.hidden_size, run.into.row(i), half_to_float);
    }
    if (!own_memory_) continue;
    const std::span rows(run.into.data, static_cast<size_t>(run.into.rows * run.into.stride));
    note(cuda_->upload(std::as_bytes(rows), reinterpret_cast<std::byte*>(run.into.data)));
  }
  pending_.clear();
}

void TrtBackend::embed(const Matrix& table, std::span<const int32_t> ids, Rows out) {
  drain();  // a step that failed may have left work behind
  cuda_->embed(table, ids, out);
}

// The host reads x in down_proj().
void TrtBackend::begin_experts(Rows x) {
  cuda_->fetch(x);
  note(cuda_->wait());
  expert_input_ = x;
}

void TrtBackend::down_proj(std::span<const ExpertOp> ops, Rows out) {
  for (const ExpertOp& op : ops) {
    const auto rows = static_cast<int64_t>(op.rows.size());
    for (int64_t first = 0; first < rows; first += kEngineRows) {
      run(op, first, std::min(kEngineRows, rows - first), out);
    }
  }
}

// Rows [first, first + rows) of the expert.
void TrtBackend::run(const ExpertOp& op, int64_t first, int64_t rows, Rows out) {
  if (static_cast<int64_t>(pending_.size()) == kChunks) drain();
  const int64_t chunk = static_cast<int64_t>(pending_.size()) * 2 * chunk_values();
  uint16_t* x = rows_ + chunk;
  for (int64_t i = 0; i < rows; ++i) {
    const float* row = expert_input_.row(op.rows[static_cast<size_t>(first + i)]);
    std::transform(row, row + shape_.hidden_size, x + i * shape_.hidden_size, float_to_half);
  }
  uint16_t* device_x = static_cast<uint16_t*>(rows_of_device_) + chunk;
  const bool queued =
      adapter_->enqueue(slot_of(op.tiles[0]).engine, device_x, device_x + chunk_values(), rows,
                        device_memory_, scratch_bytes_, stream_) != 0;
  if (!queued) {
    note(unavailable(str_cat("experts=\"tensorrt\": ", adapter_->last_error())));
    return;
  }
  pending_.push_back({x + chunk_values(), {out.row(op.first_output + first), rows, out.stride}});
}

}  // namespace tensorrt
}  // namespace adapmoe
