// SPDX-License-Identifier: Apache-2.0
#include "runtime/base/opened_in.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>

namespace adapmoe {
namespace {

std::atomic<uint64_t> forks{0};  // between the first process and this one

void count_forks() {
  static const int registered =
      pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
  (void)registered;
}

}  // namespace

OpenedIn::OpenedIn() : process_(getpid()) {
  count_forks();
  forks_ = forks.load(std::memory_order_relaxed);
}

bool OpenedIn::here() const { return forks.load(std::memory_order_relaxed) == forks_; }

}  // namespace adapmoe
