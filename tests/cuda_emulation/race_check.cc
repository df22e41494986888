// SPDX-License-Identifier: Apache-2.0
#include "race_check.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <string_view>
#include <unordered_map>

#include "cuda_runtime.h"

RaceThread race_thread;

// Of the program: between them lies, beside other globals, all shared memory.
extern char __bss_start;
extern char _end;

namespace {

constexpr size_t kShadowed = 64;   // bytes that one entry of the table describes
constexpr size_t kMost = 1 << 13;  // entries that outlive a launch: 8 MiB

const bool unwatched = [] {
  const char* races = std::getenv("ADAPMOE_EMULATED_RACES");
  return races != nullptr && std::string_view(races) == "unwatched";
}();

// Goes on at every launch, block and barrier: of two touches of a block with the same time, none
// need come first.
uint32_t now = 0;
uint32_t launch_began = 0;
uint32_t block_began = 0;
bool watching = false;  // a kernel runs

void tick() {
  if (++now == 0) std::abort();  // after hours
}

// Of several readers at a time, no thread is the one.
constexpr unsigned kSeveral = ~0U;
constexpr unsigned kSeveralBlocks = ~1U;

// Who touched a byte last.
struct Touch {
  uint32_t time = 0;
  unsigned thread = 0;
  bool operator==(const Touch&) const = default;
};
struct Byte {
  Touch written;
  Touch read;
  bool operator==(const Byte&) const = default;
};
struct Shadow {
  Byte bytes[kShadowed];
};

std::unordered_map<uintptr_t, std::unique_ptr<Shadow>> table;
// Those found last, each in the place of its key.
struct Found {
  uintptr_t key = 0;
  Shadow* shadow = nullptr;
};
Found found[1 << 13];

Byte* shadow_of(uintptr_t address) {
  const uintptr_t key = address / kShadowed + 1;
  Found& last = found[key % std::size(found)];
  if (key != last.key) {
    auto& entry = table[key];
    if (entry == nullptr) entry = std::make_unique<Shadow>();
    last = {key, entry.get()};
  }
  return &last.shadow->bytes[address % kShadowed];
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
  std::fprintf(stderr, "race: block %u thread %u %s at %s%#zx", race_thread.block,
               race_thread.thread, what, is_shared(address) ? "shared memory " : "",
               static_cast<size_t>(address));
  if (other.time < block_began || other.thread == kSeveralBlocks) {
    std::fprintf(stderr, ", another block\n");
  } else {
    std::fprintf(stderr, ", thread %d of its block\n", static_cast<int>(other.thread));
  }
  std::abort();
}

// Whether a GPU need not have done `touch` before what the thread does now.
bool at_once(const Touch& touch, bool shared) {
  if (touch.time < launch_began) return false;
  // Each block has its own shared memory.
  if (touch.time < block_began || touch.thread == kSeveralBlocks) return !shared;
  return touch.time == now && touch.thread != race_thread.thread;
}

Byte after_write(const Byte& before, uintptr_t address, bool shared) {
  if (at_once(before.written, shared)) report("writes what another wrote", address, before.written);
  if (at_once(before.read, shared)) report("writes what another reads", address, before.read);
  return {{now, race_thread.thread}, before.read};
}

Byte after_read(const Byte& before, uintptr_t address, bool shared) {
  if (at_once(before.written, shared)) report("reads what another writes", address, before.written);
  if (shared && before.written.time < block_began) {
    report("reads what nobody wrote", address, before.written);
  }
  Touch read = {now, race_thread.thread};
  const Touch& last = before.read;
  if (last.time >= launch_began) {
    if (last.time < block_began || last.thread == kSeveralBlocks) {
      if (!shared) read.thread = kSeveralBlocks;
    } else if (last.time == now && last.thread != read.thread) {
      read.thread = kSeveral;
    }
  }
  return {before.written, read};
}

template <Byte after(const Byte&, uintptr_t, bool)>
void touch(const void* at, size_t bytes) {
  if (!watching) return;
  const char* begin = static_cast<const char*>(at);
  if (begin >= race_thread.stack && begin < race_thread.stack + race_thread.stack_bytes) return;
  const auto address = reinterpret_cast<uintptr_t>(at);
  if (is_register(address)) return;
  const bool shared = is_shared(address);
  Byte before;
  Byte now_is;
  for (size_t i = 0; i < bytes;) {
    Byte* byte = shadow_of(address + i);
    const size_t end = std::min(bytes, i + kShadowed - (address + i) % kShadowed);
    for (bool first = i == 0; i < end; ++i, ++byte, first = false) {
      if (first || *byte != before) {  // mostly they are alike
        before = *byte;
        now_is = after(before, address + i, shared);
      }
      *byte = now_is;
    }
  }
}

}  // namespace

void race_begin_launch() {
  if (table.size() > kMost) {
    table.clear();
    std::ranges::fill(found, Found{});
  }
  tick();
  launch_began = now;
  watching = !unwatched;
}

void race_begin_block() {
  tick();
  block_began = now;
}

void race_pass_barrier() { tick(); }

void race_end_launch() { watching = false; }

void race_read(const void* at, size_t bytes) { touch<after_read>(at, bytes); }
void race_write(const void* at, size_t bytes) { touch<after_write>(at, bytes); }

// What gcc and clang call.
#define ADAPMOE_WATCH(bytes)                                              \
  void __tsan_read##bytes(void* at) { race_read(at, bytes); }             \
  void __tsan_write##bytes(void* at) { race_write(at, bytes); }           \
  void __tsan_unaligned_read##bytes(void* at) { race_read(at, bytes); }   \
  void __tsan_unaligned_write##bytes(void* at) { race_write(at, bytes); } \
  void __tsan_volatile_read##bytes(void* at) { race_read(at, bytes); }    \
  void __tsan_volatile_write##bytes(void* at) { race_write(at, bytes); }

extern "C" {
ADAPMOE_WATCH(1)
ADAPMOE_WATCH(2)
ADAPMOE_WATCH(4)
ADAPMOE_WATCH(8)
ADAPMOE_WATCH(16)
void __tsan_read_range(void* at, size_t bytes) { race_read(at, bytes); }
void __tsan_write_range(void* at, size_t bytes) { race_write(at, bytes); }
void __tsan_vptr_update(void** at, void* /*value*/) { race_write(at, sizeof(void*)); }
void __tsan_func_entry(void* /*caller*/) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
