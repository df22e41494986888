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
// NvMap, which allocates for the GPU of a Jetson, refuses large pieces sooner than many.
constexpr int64_t kPiece = int64_t{256} << 20;

Status failed(std::string_view what, cudaError_t error) {
  return unavailable(str_cat("arithmetic=\"tensorrt\": ", what, ": ", cudaGetErrorString(error)));
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
                                          std::span<const std::byte> largest,
                                          const CpuFallback& cpu_fallback) {
  auto adapter = tensorrt::load_adapter(origin);
  if (!adapter.ok()) return adapter.status();
  auto made =
      tensorrt::TrtBackend::make(std::move(cuda), shape, adapter.value(), largest, cpu_fallback);
  if (!made.ok()) return made.status();
  tensorrt::TrtBackend* backend = made.value().get();
  ExpertEngines engines;
  engines.frame_bytes = backend->frame_bytes();
  engines.shared_bytes = backend->shared_bytes();
  engines.reserve = [backend](int64_t frames) { return backend->reserve(frames); };
  engines.host_bytes = backend->host_bytes();
  engines.place = [backend](uint64_t expert, std::span<const std::byte> plan, std::byte* frame) {
    return backend->place(expert, plan, frame);
  };
  engines.fall_back = [backend](uint64_t expert, std::byte* frame, const std::string& why) {
    backend->fall_back(expert, frame, why);
  };
  engines.backend = std::move(made).value();
  return engines;
}

namespace tensorrt {

TrtBackend::TrtBackend(std::unique_ptr<Backend> cuda, const BackendShape& shape,
                       const TrtAdapter* adapter, CpuFallback cpu_fallback)
    : cuda_(std::move(cuda)),
      adapter_(adapter),
      shape_{.hidden_size = shape.config.hidden_size, .max_rows = kEngineRows},
      own_memory_(cuda_->own_memory().has_value()),
      name_(str_cat(cuda_->name(), "+tensorrt/", adapter->version())),
      cpu_fallback_(std::move(cpu_fallback)) {}

Result<std::unique_ptr<TrtBackend>> TrtBackend::make(std::unique_ptr<Backend> cuda,
                                                     const BackendShape& shape,
                                                     const TrtAdapter* adapter,
                                                     std::span<const std::byte> largest,
                                                     CpuFallback cpu_fallback) {
  std::unique_ptr<TrtBackend> made(
      new TrtBackend(std::move(cuda), shape, adapter, std::move(cpu_fallback)));
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
  for (Slot& slot : slots_) remove_engine(slot);
  for (std::byte* memory : device_memory_) (void)cudaFree(memory);
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
        str_cat("arithmetic=\"tensorrt\": ", format_bytes(bytes),
                " of device memory to try an engine in: ", cudaGetErrorString(error)));
  }
  EngineMemory place({static_cast<std::byte*>(memory), static_cast<size_t>(bytes)});
  int64_t scratch = 0;
  TrtEngine* engine = deserialise(plan, place, &scratch);
  const Status made =
      engine != nullptr
          ? Status()
          : engine_error(
                str_cat("arithmetic=\"tensorrt\": no engine can be made of the largest plan: ",
                        adapter_->last_error()));
  if (engine != nullptr) adapter_->destroy(engine);
  (void)cudaFree(memory);
  frame_bytes_ = align_up(place.wanted() + place.wanted() / 32, kPageBytes);
  scratch_bytes_ = align_up(scratch, kPageBytes);
  return made;
}

Result<std::byte*> TrtBackend::allocate(int64_t bytes) {
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, static_cast<size_t>(bytes));
  if (error != cudaSuccess) {
    return budget_error(str_cat("arithmetic=\"tensorrt\": ", device_memory_.size(),
                                " pieces of device memory were granted, and then not ",
                                format_bytes(bytes), ": ", cudaGetErrorString(error),
                                "; lower memory="));
  }
  device_memory_.push_back(static_cast<std::byte*>(memory));
  return device_memory_.back();
}

Result<std::span<std::byte>> TrtBackend::reserve(int64_t frames) {
  ADAPMOE_CHECK(slots_.empty());
  ADAPMOE_RETURN_IF_ERROR(reserve_rows());
  auto scratch = allocate(std::max(scratch_bytes_, kPageBytes));
  if (!scratch.ok()) return scratch.status();
  scratch_ = scratch.value();
  slots_ = std::vector<Slot>(static_cast<size_t>(frames));
  const int64_t per_piece = std::max<int64_t>(1, kPiece / frame_bytes_);
  for (int64_t first = 0; first < frames; first += per_piece) {
    const int64_t count = std::min(per_piece, frames - first);
    auto piece = allocate(count * frame_bytes_);
    if (!piece.ok()) return piece.status();
    for (int64_t i = 0; i < count; ++i) {
      slots_[static_cast<size_t>(first + i)].place = piece.value() + i * frame_bytes_;
    }
  }
  auto names = Arena::reserve(frames * frame_bytes_);
  if (!names.ok()) return names.status();
  names_.emplace(std::move(names).value());
  return names_->carve(frames * frame_bytes_);
}

TrtBackend::Slot& TrtBackend::slot_of(const std::byte* frame) {
  const int64_t offset = frame - names_->first(0).data();
  const auto index = static_cast<size_t>(offset / frame_bytes_);
  ADAPMOE_CHECK(offset >= 0 && offset % frame_bytes_ == 0 && index < slots_.size());
  return slots_[index];
}

void TrtBackend::remove_engine(Slot& slot) {
  if (slot.engine != nullptr) adapter_->destroy(std::exchange(slot.engine, nullptr));
}

Status TrtBackend::place(uint64_t expert, std::span<const std::byte> plan, std::byte* frame) {
  const cudaError_t error = cudaSetDevice(device_);  // of this thread
  if (error != cudaSuccess) return failed("the GPU failed", error);
  Slot& slot = slot_of(frame);
  remove_engine(slot);
  slot.expert = expert;
  slot.memory.reset({slot.place, static_cast<size_t>(frame_bytes_)});
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
  remove_engine(slot);
  return engine_error(reason);
}

void TrtBackend::fall_back(uint64_t expert, std::byte* frame, const std::string& why) {
  (void)cudaSetDevice(device_);  // of this thread
  Slot& slot = slot_of(frame);
  remove_engine(slot);
  slot.expert = expert;
  const std::lock_guard lock(note_mutex_);
  if (!noted_.insert(expert).second) return;
  note_ += str_cat(note_.empty() ? "" : "; ", "computed by the CPU: ", why);
}

BackendCounts TrtBackend::counts() const {
  BackendCounts counts = cuda_->counts();
  counts.on_cpu += on_cpu_;
  return counts;
}

std::string TrtBackend::take_note() {
  std::string note = cuda_->take_note();
  const std::lock_guard lock(note_mutex_);
  return note.empty() ? std::exchange(note_, std::string()) : note;
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
    for (int64_t i = 0; y != nullptr && i < run.into.rows; ++i, y += shape_.hidden_size) {
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
    int64_t first = 0;
    while (first < rows && run(op, first, std::min(kEngineRows, rows - first), out)) {
      first += kEngineRows;
    }
    if (first < rows) run_on_cpu(op, first, out);
  }
}

// Rows [first, first + rows) of the expert. Whether its engine takes them.
bool TrtBackend::run(const ExpertOp& op, int64_t first, int64_t rows, Rows out) {
  Slot& slot = slot_of(op.tiles[0]);
  if (slot.engine == nullptr) return false;
  if (static_cast<int64_t>(pending_.size()) == kChunks) drain();
  const int64_t chunk = static_cast<int64_t>(pending_.size()) * 2 * chunk_values();
  uint16_t* x = rows_ + chunk;
  for (int64_t i = 0; i < rows; ++i) {
    const float* row = expert_input_.row(op.rows[static_cast<size_t>(first + i)]);
    std::transform(row, row + shape_.hidden_size, x + i * shape_.hidden_size, float_to_half);
  }
  uint16_t* device_x = static_cast<uint16_t*>(rows_of_device_) + chunk;
  const bool queued = adapter_->enqueue(slot.engine, device_x, device_x + chunk_values(), rows,
                                        scratch_, scratch_bytes_, stream_) != 0;
  if (queued) {
    pending_.push_back({x + chunk_values(), {out.row(op.first_output + first), rows, out.stride}});
    return true;
  }
  const std::string why = str_cat("arithmetic=\"tensorrt\": ", adapter_->last_error());
  drain();  // the engine may still run earlier rows
  fall_back(slot.expert, const_cast<std::byte*>(op.tiles[0]), why);
  return false;
}

// From row `first` on.
void TrtBackend::run_on_cpu(const ExpertOp& op, int64_t first, Rows out) {
  if (static_cast<int64_t>(pending_.size()) == kChunks) drain();
  const std::span<const int32_t> rows = op.rows.subspan(static_cast<size_t>(first));
  const int64_t output = op.first_output + first;
  note(cpu_fallback_(slot_of(op.tiles[0]).expert, expert_input_, rows, output, out));
  ++on_cpu_;
  pending_.push_back({nullptr, {out.row(output), static_cast<int64_t>(rows.size()), out.stride}});
}

}  // namespace tensorrt
}  // namespace adapmoe
