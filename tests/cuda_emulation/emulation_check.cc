// SPDX-License-Identifier: Apache-2.0
// emulation_check: prints one line per property of emulated memory, "ok" or "FAILED"; exit status 1
// when one failed.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cuda_runtime.h"

namespace {

constexpr size_t kBytes = 8192;
int failed = 0;

void check(bool holds, const char* what) {
  std::printf("%s %s\n", holds ? "ok" : "FAILED", what);
  failed += holds ? 0 : 1;
}

// Whether the host's touching `at` ends the process.
bool faults(const volatile char* at) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);  // whatever a sanitizer has put there
    _exit(*at == 1 ? 1 : 0);
  }
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
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
  (void)cudaHostUnregister(host);
  (void)cudaStreamDestroy(stream);
  return failed == 0 ? 0 : 1;
}
