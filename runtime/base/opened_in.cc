// SPDX-License-Identifier: Apache-2.0
#include "runtime/base/opened_in.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>

namespace adapmoe {
namespace {

// Between the process that first asked and this one.
std::atomic<uint64_t>& forks() {
  static std::atomic<uint64_t> count{0};
  return count;
}

void count_forks() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { forks().fetch_add(1); });
  (void)registered;
}

}  // namespace

OpenedIn::OpenedIn() : process_(getpid()) {
  count_forks();
  forks_ = forks().load();
}

bool OpenedIn::here() const { return forks().load() == forks_; }

}  // namespace adapmoe
