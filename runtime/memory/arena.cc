// SPDX-License-Identifier: Apache-2.0
#include "runtime/memory/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>
#include <vector>

#include "runtime/base/packed_layout.h"  // kPageBytes
#include "runtime/base/strings.h"

namespace adapmoe {

Result<Arena> Arena::reserve(int64_t bytes) {
  const int64_t capacity = align_up(bytes, kPageBytes);
  void* base = mmap(nullptr, static_cast<size_t>(capacity), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return budget_error(str_cat("cannot reserve ", format_bytes(capacity),
                                " of memory: ", std::generic_category().message(errno),
                                "; lower memory= or raise ulimit -v"));
  }
  // Fewer TLB misses while streaming weights; only advice, so a refusal costs nothing but speed.
  (void)madvise(base, static_cast<size_t>(capacity), MADV_HUGEPAGE);
  // A fork would share the pages until they are written, and with them reads that are under way:
  // they would arrive in whichever copy is not this process's. Nor could a fork use what is in
  // them.
  (void)madvise(base, static_cast<size_t>(capacity), MADV_DONTFORK);
  return Arena(static_cast<std::byte*>(base), capacity);
}

Arena::Arena(Arena&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)),
      capacity_(std::exchange(other.capacity_, 0)),
      used_(std::exchange(other.used_, 0)),
      opened_in_(other.opened_in_) {}

Arena::~Arena() {
  if (base_ != nullptr && opened_in_.here()) {  // a fork may have other things at this address
    munmap(base_, static_cast<size_t>(capacity_));
  }
}

std::span<std::byte> Arena::carve(int64_t bytes) {
  const int64_t rounded = align_up(bytes, kPageBytes);
  ADAPMOE_CHECK(rounded <= remaining());
  std::byte* begin = base_ + used_;
  used_ += rounded;
  return {begin, static_cast<size_t>(bytes)};
}

int64_t Arena::resident_bytes() const {
  constexpr int64_t kPiece = int64_t{1} << 30;
  const int64_t page = sysconf(_SC_PAGESIZE);
  std::vector<unsigned char> pages(static_cast<size_t>(kPiece / page));
  int64_t resident = 0;
  for (int64_t begin = 0; begin < capacity_; begin += kPiece) {
    const int64_t bytes = std::min(kPiece, capacity_ - begin);
    const int64_t count = (bytes + page - 1) / page;
    if (mincore(base_ + begin, static_cast<size_t>(bytes), pages.data()) != 0) continue;
    resident += page * std::count_if(pages.begin(), pages.begin() + count,
                                     [](unsigned char state) { return (state & 1U) != 0; });
  }
  return std::min(resident, capacity_);
}

}  // namespace adapmoe
