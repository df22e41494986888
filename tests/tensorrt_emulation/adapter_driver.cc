// SPDX-License-Identifier: Apache-2.0
// Calls an adapter as the runtime does and prints what happens. Device addresses are made up:
// nothing follows them. Usage: adapter_driver LIBRARY ADAPTER COMMAND...
//   open            with LIBRARY
//   place BYTES     of device memory for the next engine
//   make PLAN       an engine of an expert of hidden size 256, for 16 rows
//   both PLAN       "PLAN a" and "PLAN b" by two threads at the same time
//   run ROWS        the engine
//   destroy         the engine
// "starving COMMAND": without memory of the host while the adapter is called.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
#include <thread>

#include "runtime/backend/tensorrt/engine_memory.h"

namespace {

thread_local bool starving = false;

}  // namespace

void* operator new(size_t bytes) {
  void* memory = starving ? nullptr : std::malloc(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t /*bytes*/) noexcept { std::free(memory); }

namespace {

using adapmoe::tensorrt::EngineMemory;

void* address(uint64_t number) { return reinterpret_cast<void*>(number); }

constexpr uint64_t kPlace = 1 << 20;

std::span<std::byte> place(size_t bytes) {
  return {static_cast<std::byte*>(address(kPlace)), bytes};
}

unsigned long offset(const void* memory) { return reinterpret_cast<uint64_t>(memory) - kPlace; }

void* take(void* memory, uint64_t bytes, uint64_t alignment) {
  void* at = static_cast<EngineMemory*>(memory)->allocate(bytes, alignment);
  std::printf("take %lu aligned %lu: ", static_cast<unsigned long>(bytes),
              static_cast<unsigned long>(alignment));
  at == nullptr ? std::printf("no room\n") : std::printf("at %lu\n", offset(at));
  return at;
}

void give_back(void* /*memory*/, void* at) { std::printf("give back %lu\n", offset(at)); }

struct Driver {
  void* library;
  const TrtAdapter* adapter;
  EngineMemory memory{place(1 << 20)};
  TrtEngine* engine = nullptr;
  int64_t scratch = 0;
  bool starve = false;

  TrtEngine* make(const std::string& plan, EngineMemory& from, int64_t* needs) const {
    const TrtAllocator allocator = {&from, take, give_back};
    starving = starve;
    TrtEngine* made = adapter->deserialise(plan.data(), plan.size(), {256, 16}, &allocator, needs);
    starving = false;
    return made;
  }

  void fail() const { std::printf("failed: %s\n", adapter->last_error()); }

  void open() const {
    starving = starve;
    const int32_t done = adapter->open(library);
    starving = false;
    done != 0 ? static_cast<void>(std::printf("version %s\n", adapter->version())) : fail();
  }

  void make(const std::string& plan) {
    engine = make(plan, memory, &scratch);
    if (engine == nullptr) return fail();
    std::printf("made, scratch %ld, wanted %ld\n", static_cast<long>(scratch),
                static_cast<long>(memory.wanted()));
  }

  void both(const std::string& plan) const {
    std::string errors[2];
    const auto work = [&](int i) {
      EngineMemory own{place(1 << 20)};
      int64_t needs = 0;
      if (make(plan + (i == 0 ? " a" : " b"), own, &needs) == nullptr) {
        errors[i] = adapter->last_error();
      }
    };
    std::thread other(work, 1);
    work(0);
    other.join();
    std::printf("failed: %s\nfailed: %s\n", errors[0].c_str(), errors[1].c_str());
  }

  void run(int64_t rows) const {
    starving = starve;
    const int32_t done = adapter->enqueue(engine, address(0x1000), address(0x2000), rows,
                                          address(0x3000), scratch, address(0x4000));
    starving = false;
    done != 0 ? static_cast<void>(std::printf("queued\n")) : fail();
  }

  bool obey(std::string command) {
    starve = command.starts_with("starving ");
    if (starve) command.erase(0, command.find(' ') + 1);
    const size_t space = command.find(' ');
    const std::string word = command.substr(0, space);
    const std::string rest = space == std::string::npos ? "" : command.substr(space + 1);
    if (word == "open") return open(), true;
    if (word == "place") return memory.reset(place(std::stoul(rest))), true;
    if (word == "make") return make(rest), true;
    if (word == "both") return both(rest), true;
    if (word == "run") return run(std::stol(rest)), true;
    if (word == "destroy") return adapter->destroy(engine), true;
    return false;
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  std::setvbuf(stdout, nullptr, _IONBF, 0);  // what was printed before a crash is seen
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  void* handle = library == nullptr ? nullptr : dlopen(argv[2], RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return std::printf("%s\n", dlerror()), 2;
  const auto get = reinterpret_cast<TrtGetAdapter>(dlsym(handle, kTrtGetAdapter));
  if (get == nullptr) return 2;
  Driver driver{library, get()};
  for (int i = 3; i < argc; ++i) {
    if (!driver.obey(argv[i])) return 2;
  }
  return 0;
}
