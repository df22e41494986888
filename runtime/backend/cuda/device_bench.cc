// SPDX-License-Identifier: Apache-2.0
#include "runtime/backend/device_bench.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "runtime/backend/act_buffer.h"
#include "runtime/backend/cuda/bench_kernels.h"
#include "runtime/backend/cuda/kernels.h"
#include "runtime/base/crc32c.h"
#include "runtime/base/strings.h"
#include "runtime/memory/arena.h"
#include "runtime/memory/bump.h"
#include "runtime/memory/unified_arena.h"

namespace adapmoe {
namespace cuda {
namespace {

constexpr int kRounds = 7;

Status failed(std::string_view what, cudaError_t error) {
  return unavailable(str_cat("adapmoe-gpu-bench: ", what, ": ", cudaGetErrorString(error)));
}

// Memory of either kind and a stream, both given back at the end.
class Device {
 public:
  static Result<std::unique_ptr<Device>> make(BenchMemory kind, int64_t bytes) {
    std::unique_ptr<Device> device(new Device);
    cudaError_t error = cudaStreamCreateWithFlags(&device->stream_, cudaStreamNonBlocking);
    if (error != cudaSuccess) return failed("cannot start on the GPU", error);
    if (kind == BenchMemory::kMapped) {
      ADAPMOE_RETURN_IF_ERROR(device->map(bytes));
      return device;
    }
    void* memory = nullptr;
    error = cudaMalloc(&memory, static_cast<size_t>(bytes));
    if (error != cudaSuccess) return failed(str_cat("no ", format_bytes(bytes)), error);
    device->allocated_ = static_cast<std::byte*>(memory);
    device->memory_ = {device->allocated_, static_cast<size_t>(bytes)};
    return device;
  }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device() {
    if (stream_ != nullptr) (void)cudaStreamSynchronize(stream_);
    if (allocated_ != nullptr) (void)cudaFree(allocated_);
    if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
  }

  cudaStream_t stream() const { return stream_; }
  std::span<std::byte> memory() const { return memory_; }  // as the device finds it
  std::byte* host() const { return host_; }                // of mapped memory

  // The least seconds that `work` took in some rounds, after one that does not count.
  Result<double> best_seconds(const std::function<cudaError_t()>& work) const {
    double best = 0.0;
    for (int round = 0; round <= kRounds; ++round) {
      const auto began = std::chrono::steady_clock::now();
      cudaError_t error = work();
      if (error == cudaSuccess) error = cudaStreamSynchronize(stream_);
      if (error != cudaSuccess) return failed("the GPU failed", error);
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
      if (round > 0) best = round == 1 ? took.count() : std::min(best, took.count());
    }
    return best;
  }

 private:
  Device() = default;
  Status map(int64_t bytes) {
    auto arena = Arena::reserve(bytes);
    if (!arena.ok()) return arena.status();
    arena_.emplace(std::move(arena).value());
    auto mapped = UnifiedArena::map(arena_->first(align_up(bytes, kPageBytes)));
    if (!mapped.ok()) return mapped.status();
    mapped_ = std::move(mapped).value();
    host_ = arena_->first(bytes).data();
    memory_ = {mapped_.device(host_), static_cast<size_t>(bytes)};
    return {};
  }

  cudaStream_t stream_ = nullptr;
  std::byte* allocated_ = nullptr;
  std::optional<Arena> arena_;
  UnifiedArena mapped_;  // of the arena
  std::byte* host_ = nullptr;
  std::span<std::byte> memory_;
};

// What one product works on.
struct Buffers {
  std::byte* weights = nullptr;  // [copies] matrices
  float* x = nullptr;            // [rows][cols]
  float* y = nullptr;            // [rows][output rows]
  ActBuffer act;

  static Buffers layout(Bump& bump, const ProductBench& bench, int64_t copies) {
    const PackedShape& w = bench.weights;
    Buffers b;
    b.weights = bump.take<std::byte>(copies * w.bytes());
    b.act.layout(bump, bench.rows, w.cols_padded(), true);
    b.act.group = w.group_size;
    b.x = bump.take<float>(bench.rows * b.act.cols);
    b.y = bump.take<float>(bench.rows * w.rows_padded());
    return b;
  }
};

// Draws weights and activations, and quantizes these.
cudaError_t prepare(const Buffers& b, const ProductBench& bench, int64_t copies,
                    cudaStream_t stream) {
  const PackedShape& w = bench.weights;
  const cudaError_t filled = launch_fill({.to = reinterpret_cast<uint32_t*>(b.weights),
                                          .words = copies * w.bytes() / 4,
                                          .block_words = w.block_bytes() / 4,
                                          .scale_words = w.scale_bytes() / 4},
                                         stream);
  if (filled != cudaSuccess) return filled;
  const cudaError_t drawn =
      launch_fill_floats({.to = b.x, .count = bench.rows * b.act.cols}, stream);
  if (drawn != cudaSuccess) return drawn;
  return launch_quantize({.x = b.x,
                          .stride = b.act.cols,
                          .rows = bench.rows,
                          .groups = w.groups(),
                          .group = w.group_size,
                          .q = b.act.q,
                          .scale = b.act.scale,
                          .sum = b.act.sum,
                          .q_stride = b.act.cols,
                          .group_stride = b.act.cols / w.group_size},
                         stream);
}

ProductArgs product(const Buffers& b, const ProductBench& bench) {
  const PackedShape& w = bench.weights;
  return {.w = {.dtype = w.dtype,
                .only = b.weights,
                .blocks = w.blocks(),
                .block_bytes = w.block_bytes(),
                .scale_bytes = w.scale_bytes(),
                .cols = w.cols_padded(),
                .group_size = w.group_size},
          .act = bench.w4a16 ? ActRows{.x = b.x, .x_stride = b.act.cols} : b.act.view(0, 0),
          .rows = bench.rows,
          .y = b.y,
          .y_stride = w.rows_padded(),
          .reads = bench.reads};
}

Result<uint32_t> checksum(const float* values, int64_t count) {
  auto host = Device::make(BenchMemory::kMapped, count * 4);
  if (!host.ok()) return host.status();
  cudaError_t error =
      launch_copy_words({.from = reinterpret_cast<const uint32_t*>(values),
                         .to = reinterpret_cast<uint32_t*>(host.value()->memory().data()),
                         .words = count},
                        host.value()->stream());
  if (error == cudaSuccess) error = cudaStreamSynchronize(host.value()->stream());
  if (error != cudaSuccess) return failed("the GPU failed", error);
  return crc32c(host.value()->host(), static_cast<size_t>(count * 4));
}

}  // namespace
}  // namespace cuda

Result<BenchDevice> bench_device() {
  int device = 0;
  int values[3] = {};
  cudaError_t error = cudaGetDevice(&device);
  const cudaDeviceAttr attributes[] = {cudaDevAttrComputeCapabilityMajor,
                                       cudaDevAttrComputeCapabilityMinor, cudaDevAttrIntegrated};
  for (int i = 0; i < 3 && error == cudaSuccess; ++i) {
    error = cudaDeviceGetAttribute(&values[i], attributes[i], device);
  }
  if (error == cudaSuccess) error = cuda::check_kernels();
  if (error != cudaSuccess) return cuda::failed("no usable GPU", error);
  return BenchDevice{str_cat("cuda/sm_", values[0], values[1]), values[2] != 0};
}

Result<double> read_bandwidth(BenchMemory memory, int64_t bytes) {
  const int64_t sums_bytes = cuda::kReadThreads * 4;
  auto made = cuda::Device::make(memory, bytes + sums_bytes);
  if (!made.ok()) return made.status();
  const cuda::Device& device = *made.value();
  std::byte* data = device.memory().data();
  const auto words = bytes / 4;
  const cudaError_t filled = cuda::launch_fill(
      {.to = reinterpret_cast<uint32_t*>(data), .words = words, .block_words = words},
      device.stream());
  if (filled != cudaSuccess) return cuda::failed("the GPU failed", filled);
  const cuda::ReadArgs args{.from = reinterpret_cast<const uint4*>(data),
                            .count = bytes / 16,
                            .sums = reinterpret_cast<uint32_t*>(data + bytes)};
  const auto seconds =
      device.best_seconds([&] { return cuda::launch_read(args, device.stream()); });
  if (!seconds.ok()) return seconds.status();
  return static_cast<double>(bytes) / seconds.value();
}

Result<ProductTime> time_product(const ProductBench& bench) {
  const PackedShape& w = bench.weights;
  const int64_t copies = std::max<int64_t>(1, bench.total_bytes / w.bytes());
  Bump count;
  cuda::Buffers::layout(count, bench, copies);
  auto made = cuda::Device::make(bench.memory, count.used());
  if (!made.ok()) return made.status();
  const cuda::Device& device = *made.value();
  Bump bump(device.memory());
  const cuda::Buffers buffers = cuda::Buffers::layout(bump, bench, copies);
  const cudaError_t prepared = cuda::prepare(buffers, bench, copies, device.stream());
  if (prepared != cudaSuccess) return cuda::failed("the GPU failed", prepared);
  cuda::ProductArgs args = cuda::product(buffers, bench);
  const auto seconds = device.best_seconds([&] {
    cudaError_t error = cudaSuccess;
    for (int64_t i = 0; i < copies && error == cudaSuccess; ++i) {
      args.w.only = buffers.weights + i * w.bytes();
      error = cuda::launch_product(args, device.stream());
    }
    return error;
  });
  if (!seconds.ok()) return seconds.status();
  const auto digest = cuda::checksum(buffers.y, bench.rows * w.rows_padded());
  if (!digest.ok()) return digest.status();
  return ProductTime{seconds.value() / static_cast<double>(copies), digest.value()};
}

}  // namespace adapmoe
