// SPDX-License-Identifier: Apache-2.0
#include "race_check.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <unordered_map>

#include "cuda_runtime.h"

RaceThread race_thread;

// Of the program: between them lies, beside other globals, all shared memory.
extern char __bss_start;
extern char _end;

namespace {

constexpr unsigned kSeveral = ~0U;
constexpr size_t kShadowed = 64;   // bytes that one entry of the table describes
constexpr size_t kMost = 1 << 12;  // entries that outlive a launch: 12 MiB

const bool unwatched = [] {
  const char* races = std::getenv("ADAPMOE_EMULATED_RACES");
  return races != nullptr && std::string_view(races) == "unwatched";
}();

// Who touched a byte last. Of reads, those after the last barrier; "several" where it was not one.
struct Touch {
  uint64_t launch = 0;
  uint64_t barriers = 0;
  unsigned block = 0;
  unsigned thread = 0;
};
struct Byte {
  Touch written;
  Touch read;
};
struct Shadow {
  Byte bytes[kShadowed];
};

std::unordered_map<uintptr_t, std::unique_ptr<Shadow>> table;
uintptr_t last_key = 0;  // accesses are mostly close to the one before
Shadow* last_shadow = nullptr;

Byte& shadow_of(uintptr_t address) {
  const uintptr_t key = address / kShadowed + 1;
  if (key != last_key) {
    auto& entry = table[key];
    if (entry == nullptr) entry = std::make_unique<Shadow>();
    last_key = key;
    last_shadow = entry.get();
  }
  return last_shadow->bytes[address % kShadowed];
}

bool is_shared(uintptr_t address) {
  return address >= reinterpret_cast<uintptr_t>(&__bss_start) &&
         address < reinterpret_cast<uintptr_t>(&_end);
}

// threadIdx and its like are registers.
bool is_register(uintptr_t address) {
  for (const dim3* index : {&threadIdx, &blockIdx, &blockDim, &gridDim}) {
    if (address - reinterpret_cast<uintptr_t>(index) < sizeof(dim3)) return true;
  }
  return false;
}

[[noreturn]] void report(const char* what, uintptr_t address, const Touch& other) {
  std::fprintf(stderr, "race: block %u thread %u %s at %s%#zx, block %d thread %d\n",
               race_thread.block, race_thread.thread, what,
               is_shared(address) ? "shared memory " : "", static_cast<size_t>(address),
               static_cast<int>(other.block), static_cast<int>(other.thread));
  std::abort();
}

// Whether a GPU need not have done `touch` before what the thread does now.
bool at_once(const Touch& touch, bool shared) {
  if (touch.launch != race_thread.launch) return false;
  if (touch.block != race_thread.block) return !shared;  // each block has its own
  return touch.barriers == race_thread.barriers && touch.thread != race_thread.thread;
}

Touch now() {
  return {race_thread.launch, race_thread.barriers, race_thread.block, race_thread.thread};
}

void on_write(uintptr_t address, bool shared) {
  Byte& byte = shadow_of(address);
  if (at_once(byte.written, shared)) report("writes what another wrote", address, byte.written);
  if (at_once(byte.read, shared)) report("writes what another reads", address, byte.read);
  byte.written = now();
}

void on_read(uintptr_t address, bool shared) {
  Byte& byte = shadow_of(address);
  if (at_once(byte.written, shared)) report("reads what another writes", address, byte.written);
  const bool written_here =
      byte.written.launch == race_thread.launch && byte.written.block == race_thread.block;
  if (shared && !written_here) report("reads what nobody wrote", address, byte.written);
  Touch read = now();
  const Touch& before = byte.read;
  if (before.launch == read.launch) {
    if (before.block != read.block && !shared) read.block = kSeveral;
    const bool same_interval = before.block == read.block && before.barriers == read.barriers;
    if (same_interval && before.thread != read.thread) read.thread = kSeveral;
  }
  byte.read = read;
}

void touch(const void* at, size_t bytes, bool write) {
  if (race_thread.launch == 0) return;
  const char* begin = static_cast<const char*>(at);
  if (begin >= race_thread.stack && begin < race_thread.stack + race_thread.stack_bytes) return;
  const auto address = reinterpret_cast<uintptr_t>(at);
  if (is_register(address)) return;
  const bool shared = is_shared(address);
  for (size_t i = 0; i < bytes; ++i) {
    if (write) {
      on_write(address + i, shared);
    } else {
      on_read(address + i, shared);
    }
  }
}

}  // namespace

void race_begin_launch() {
  static uint64_t launches = 0;
  if (table.size() > kMost) {
    table.clear();
    last_key = 0;
  }
  race_thread = {};
  if (!unwatched) race_thread.launch = ++launches;
}

void race_read(const void* at, size_t bytes) { touch(at, bytes, false); }
void race_write(const void* at, size_t bytes) { touch(at, bytes, true); }

// What gcc and clang call.
#define ADAPMOE_WATCH(bytes)                                               \
  void __tsan_read##bytes(void* at) { touch(at, bytes, false); }           \
  void __tsan_write##bytes(void* at) { touch(at, bytes, true); }           \
  void __tsan_unaligned_read##bytes(void* at) { touch(at, bytes, false); } \
  void __tsan_unaligned_write##bytes(void* at) { touch(at, bytes, true); } \
  void __tsan_volatile_read##bytes(void* at) { touch(at, bytes, false); }  \
  void __tsan_volatile_write##bytes(void* at) { touch(at, bytes, true); }

extern "C" {
ADAPMOE_WATCH(1)
ADAPMOE_WATCH(2)
ADAPMOE_WATCH(4)
ADAPMOE_WATCH(8)
ADAPMOE_WATCH(16)
void __tsan_read_range(void* at, size_t bytes) { touch(at, bytes, false); }
void __tsan_write_range(void* at, size_t bytes) { touch(at, bytes, true); }
void __tsan_vptr_update(void** at, void* /*value*/) { touch(at, sizeof(void*), true); }
void __tsan_func_entry(void* /*caller*/) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
