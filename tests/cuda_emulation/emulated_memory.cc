// SPDX-License-Identifier: Apache-2.0
// Device memory, pinned memory and copies. The environment says which GPU this is:
//   ADAPMOE_EMULATED_GPU          integrated (the default) or discrete
//   ADAPMOE_EMULATED_GPU_MEMORY   bytes of device memory; 1 GiB by default
//   ADAPMOE_EMULATED_GPU_REFUSES  what fails: register, malloc, or copy (to the device, queued)
#include "emulated_memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "cuda_runtime.h"

namespace {

constexpr size_t kPage = 4096;
constexpr int kGarbage = 0xcb;  // what fresh device memory holds

using Ranges = std::map<const char*, size_t>;  // begin -> bytes

std::mutex guard;
Ranges allocated;   // on the device
Ranges registered;  // of the host
size_t in_use = 0;

std::string setting(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}
bool refuses(const char* what) { return setting("ADAPMOE_EMULATED_GPU_REFUSES") == what; }

size_t device_bytes() {
  const std::string bytes = setting("ADAPMOE_EMULATED_GPU_MEMORY");
  return bytes.empty() ? size_t{1} << 30 : std::stoull(bytes);
}

// Whether one range holds all of it. A copy may not go from one registered range into the next.
bool within(const Ranges& ranges, const void* at, size_t bytes) {
  const char* begin = static_cast<const char*>(at);
  auto range = ranges.upper_bound(begin);
  if (range == ranges.begin()) return false;
  --range;
  return begin + bytes <= range->first + range->second;
}

bool overlaps(const Ranges& ranges, const void* at, size_t bytes) {
  const char* begin = static_cast<const char*>(at);
  auto next = ranges.lower_bound(begin);
  if (next != ranges.end() && next->first < begin + bytes) return true;
  return next != ranges.begin() && (--next)->first + next->second > begin;
}

void protect_all(int protection) {
  const std::lock_guard lock(guard);
  for (const auto& [begin, bytes] : allocated) {
    if (mprotect(const_cast<char*>(begin), bytes, protection) != 0) std::abort();
  }
}

// A kernel of one thread.
cudaError_t queue(cudaStream_t stream, std::function<void()> work) {
  cudaLaunchConfig_t one{};
  one.stream = stream;
  return emulate_launch(one, std::move(work));
}

}  // namespace

DeviceAtWork::DeviceAtWork() { protect_all(PROT_READ | PROT_WRITE); }
DeviceAtWork::~DeviceAtWork() { protect_all(PROT_NONE); }

bool emulated_is_absent() { return setting("ADAPMOE_EMULATED_GPU") == "none"; }
int emulated_is_integrated() { return setting("ADAPMOE_EMULATED_GPU") == "discrete" ? 0 : 1; }

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const std::lock_guard lock(guard);
  *total = device_bytes();
  *free = *total - in_use;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  const std::lock_guard lock(guard);
  bytes = (bytes + kPage - 1) / kPage * kPage;
  if (refuses("malloc") || in_use + bytes > device_bytes()) return cudaErrorMemoryAllocation;
  void* begin = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (begin == MAP_FAILED) return cudaErrorMemoryAllocation;
  std::memset(begin, kGarbage, bytes);
  if (mprotect(begin, bytes, PROT_NONE) != 0) std::abort();
  allocated[static_cast<char*>(begin)] = bytes;
  in_use += bytes;
  *memory = begin;
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  const std::lock_guard lock(guard);
  const auto range = allocated.find(static_cast<char*>(memory));
  if (range == allocated.end()) return cudaErrorInvalidValue;
  in_use -= range->second;
  munmap(memory, range->second);
  allocated.erase(range);
  return cudaSuccess;
}

cudaError_t cudaHostRegister(void* memory, size_t bytes, unsigned /*flags*/) {
  if (refuses("register")) return cudaErrorMemoryAllocation;
  const std::lock_guard lock(guard);
  if (overlaps(registered, memory, bytes)) return cudaErrorHostMemoryAlreadyRegistered;
  registered[static_cast<char*>(memory)] = bytes;
  return cudaSuccess;
}

cudaError_t cudaHostUnregister(void* memory) {
  const std::lock_guard lock(guard);
  return registered.erase(static_cast<char*>(memory)) == 1 ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned /*flags*/) {
  const std::lock_guard lock(guard);
  if (!within(registered, host, 1)) return cudaErrorInvalidValue;
  *device = host;
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  {
    const std::lock_guard lock(guard);
    if (!within(allocated, memory, bytes)) return cudaErrorInvalidValue;
  }
  return queue(stream, [=] { std::memset(memory, value, bytes); });
}

// Stricter than CUDA, which takes host memory that is not pinned and then waits.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (kind == cudaMemcpyHostToDevice && refuses("copy")) return cudaErrorInvalidValue;
  {
    const std::lock_guard lock(guard);
    const Ranges& target = kind == cudaMemcpyHostToDevice ? allocated : registered;
    const Ranges& source = kind == cudaMemcpyHostToDevice ? registered : allocated;
    if (!within(target, to, bytes) || !within(source, from, bytes)) return cudaErrorInvalidValue;
  }
  return queue(stream, [=] { std::memcpy(to, from, bytes); });
}
