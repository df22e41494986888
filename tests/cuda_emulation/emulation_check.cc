// SPDX-License-Identifier: Apache-2.0
// emulation_check: prints one line per property of the emulation, "ok" or "FAILED"; exit status 1
// when one failed.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "cuda_pipeline.h"
#include "cuda_runtime.h"
#include "runtime/memory/unified_arena.h"

namespace {

constexpr size_t kBytes = 8192;
int failed = 0;

void check(bool holds, const char* what) {
  std::printf("%s %s\n", holds ? "ok" : "FAILED", what);
  failed += holds ? 0 : 1;
}

// The signal that ends a process which calls `act`; 0 where none does.
template <typename Act>
int signal_of(const Act& act) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);  // whatever a sanitizer has put there
    (void)std::freopen("/dev/null", "w", stderr);
    act();
    _exit(0);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) std::abort();
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

// Whether the host's touching `at` ends the process.
bool faults(const volatile char* at) {
  return signal_of([at] { (void)*at; }) == SIGSEGV;
}

constexpr unsigned kThreads = 64;

// Kernels that are right where `right`, and wrong in one way where not.
struct RaceArgs {
  uint32_t* out = nullptr;  // [blocks][kThreads], and a zero
  bool right = true;
};
uint32_t& own_place(const RaceArgs& args) { return args.out[blockIdx.x * kThreads + threadIdx.x]; }
void read_a_neighbour(RaceArgs args) {
  __shared__ uint32_t shared[kThreads];
  shared[threadIdx.x] = threadIdx.x;
  if (args.right) __syncthreads();
  own_place(args) = shared[(threadIdx.x + 1) % kThreads];
}
void overwrite(RaceArgs args) {
  __shared__ uint32_t shared[kThreads];
  shared[threadIdx.x] = threadIdx.x;
  __syncthreads();
  const uint32_t read = shared[(threadIdx.x + 1) % kThreads];
  if (args.right) __syncthreads();
  shared[threadIdx.x] = read;
}
void write_for_all_blocks(RaceArgs args) {
  if (threadIdx.x == 0) args.out[args.right ? blockIdx.x : 0] = 1;
}
void read_before_writing(RaceArgs args) {
  __shared__ uint32_t shared[kThreads];
  if (args.right) shared[threadIdx.x] = 0;
  own_place(args) = shared[threadIdx.x];
}
void read_between_words(RaceArgs args) {
  const uint32_t* at = args.out + (args.right ? 4 : 1);
  if (reinterpret_cast<const uint4*>(at)->x == 1) own_place(args) = 1;
}

void overwrite_by_a_copy(RaceArgs args) {
  __shared__ uint32_t shared[kThreads];
  shared[threadIdx.x] = threadIdx.x;
  __syncthreads();
  own_place(args) = shared[(threadIdx.x + 1) % kThreads];
  if (args.right) __syncthreads();
  __pipeline_memcpy_async(&shared[threadIdx.x], args.out + size_t{2} * kThreads, 4);
  __syncthreads();
}
void copy_between_words(RaceArgs args) {
  __shared__ uint4 shared;
  if (threadIdx.x == 0) __pipeline_memcpy_async(&shared, args.out + (args.right ? 4 : 1), 16);
}
// Ends the process itself, where its own copy is not there.
void read_a_copy(RaceArgs args) {
  __shared__ uint32_t shared[kThreads];
  __pipeline_memcpy_async(&shared[threadIdx.x], args.out + size_t{2} * kThreads, 4);
  __pipeline_commit();
  __pipeline_wait_prior(args.right ? 0 : 1);
  if (shared[threadIdx.x] != 0) std::abort();
}

// The signal that ends a launch of two blocks.
int signal_of_launch(void (*kernel)(RaceArgs), bool right) {
  return signal_of([&] {
    const auto out = std::make_unique<uint32_t[]>(size_t{2} * kThreads + 1);  // the last one: 0
    cudaStream_t stream = nullptr;
    if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess) std::abort();
    cudaLaunchConfig_t config{};
    config.gridDim.x = 2;
    config.blockDim.x = kThreads;
    config.stream = stream;
    (void)cudaLaunchKernelEx(&config, kernel, RaceArgs{out.get(), right});
    (void)cudaStreamSynchronize(stream);
  });
}

void check_kernels() {
  const auto check_kernel = [](void (*kernel)(RaceArgs), int signal, const char* what) {
    check(signal_of_launch(kernel, true) == 0 && signal_of_launch(kernel, false) == signal, what);
  };
  check_kernel(read_a_neighbour, SIGABRT, "a read needs a barrier after another thread's write");
  check_kernel(overwrite, SIGABRT, "a write needs one after another thread's read");
  check_kernel(write_for_all_blocks, SIGABRT, "blocks write different places");
  check_kernel(read_before_writing, SIGABRT, "a block's shared memory holds nothing at first");
  check_kernel(overwrite_by_a_copy, SIGABRT, "a copy writes as soon as it is queued");
  check_kernel(read_a_copy, SIGABRT, "and is there when its thread has waited for it");
  check_kernel(copy_between_words, SIGILL, "its ends are multiples of its size");
  check_kernel(read_between_words, SIGILL, "a vector lies at a multiple of its size");
}

struct AddOne {
  char* at;
};
void add_one(AddOne args) { args.at[threadIdx.x] += 1; }

char* pinned_pages() {
  void* at = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED || cudaHostRegister(at, kBytes, 0) != cudaSuccess) std::abort();
  return static_cast<char*>(at);
}

void check_copies(cudaStream_t stream, char* device, char* host) {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess, "events are made");
  check(cudaMemcpyAsync(host, device, 64, cudaMemcpyDeviceToHost, stream) == cudaSuccess,
        "a copy is queued");
  check(cudaEventRecord(event, stream) == cudaSuccess && host[0] == 0,
        "and not done before a wait");
  check(cudaEventSynchronize(event) == cudaSuccess && host[0] != 0,
        "an event waits for it; fresh device memory is not zero");
  std::memset(host, 5, 64);
  (void)cudaMemcpyAsync(device, host, 64, cudaMemcpyHostToDevice, stream);
  cudaLaunchConfig_t threads{};
  threads.blockDim.x = 64;
  threads.stream = stream;
  check(cudaLaunchKernelEx(&threads, add_one, AddOne{device}) == cudaSuccess, "a kernel is queued");
  (void)cudaMemcpyAsync(host, device, 64, cudaMemcpyDeviceToHost, stream);
  (void)cudaStreamSynchronize(stream);
  check(host[0] == 6 && host[63] == 6, "copies and kernels of a stream run in order");
  (void)cudaEventDestroy(event);
}

// A child that had the arena's pages could leave this process with copies of them.
void check_forks() {
  void* at = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) std::abort();
  const auto* memory = static_cast<const char*>(at);
  {
    const auto arena = adapmoe::UnifiedArena::map({static_cast<std::byte*>(at), kBytes});
    check(arena.ok() && faults(memory) && faults(memory + kBytes - 1),
          "a child has no pinned pages");
  }
  check(!faults(memory), "and has them once they are pinned no more");
  (void)munmap(at, kBytes);
}

}  // namespace

int main() {
  cudaStream_t stream = nullptr;
  void* memory = nullptr;
  if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess ||
      cudaMalloc(&memory, kBytes) != cudaSuccess) {
    return 2;
  }
  char* device = static_cast<char*>(memory);
  char* host = pinned_pages();
  check(faults(device) && faults(device + kBytes - 1), "the host cannot touch device memory");
  check_copies(stream, device, host);
  check(faults(device), "nor once the device is done");

  char stack[64] = {};
  check(cudaMemcpyAsync(device, stack, 64, cudaMemcpyHostToDevice, stream) != cudaSuccess,
        "pages that are not pinned are no source");
  check(cudaMemcpyAsync(device + kBytes - 32, host, 64, cudaMemcpyHostToDevice, stream) !=
            cudaSuccess,
        "a copy ends with the allocation");
  check(cudaMemcpyAsync(host, stack, 64, cudaMemcpyDeviceToHost, stream) != cudaSuccess,
        "host memory is no device memory");
  check(cudaHostRegister(host + 4096, 4096, 0) == cudaErrorHostMemoryAlreadyRegistered,
        "pages are pinned once");
  size_t before = 0;
  size_t after = 0;
  size_t total = 0;
  (void)cudaMemGetInfo(&before, &total);
  check(cudaMalloc(&memory, total) == cudaErrorMemoryAllocation, "device memory ends");
  check(cudaFree(device) == cudaSuccess && cudaMemGetInfo(&after, &total) == cudaSuccess &&
            after == before + kBytes,
        "and is given back");
  check_kernels();
  check_forks();
  (void)cudaHostUnregister(host);
  (void)cudaStreamDestroy(stream);
  return failed == 0 ? 0 : 1;
}
