// SPDX-License-Identifier: Apache-2.0
#include "runtime/backend/cpu/thread_pool.h"

#include <algorithm>
#include <chrono>

#include "runtime/base/fp_environment.h"

namespace adapmoe {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50);
constexpr int kSpinsBeforeYield = 2000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  for (int i = 1; i < threads; ++i) {
    workers_.emplace_back([this, i] { worker_loop(i); });
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_.store(true);
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) {
    worker.join();
  }
}

void ThreadPool::dispatch(int64_t items, int64_t grain, const void* context,
                          Trampoline trampoline) {
  items_ = items;
  grain_ = grain;
  context_ = context;
  trampoline_ = trampoline;
  next_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  {
    const std::lock_guard lock(
        mutex_);  // a worker between its last look and its sleep must not miss this
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  work(0);
  for (int spins = 0; busy_.load(std::memory_order_acquire) != 0; ++spins) {
    pause();
    if (spins > kSpinsBeforeYield)
      std::this_thread::yield();  // a reader may hold the worker's core
  }
}

void ThreadPool::work(int thread) {
  while (true) {
    const int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
    if (begin >= items_) return;
    trampoline_(context_, begin, std::min(begin + grain_, items_), thread);
  }
}

void ThreadPool::worker_loop(int thread) {
  const FpEnvironment canonical;
  uint64_t seen = 0;
  while (true) {
    const auto deadline = std::chrono::steady_clock::now() + kSpin;
    while (generation_.load(std::memory_order_acquire) == seen &&
           std::chrono::steady_clock::now() < deadline) {
      pause();
    }
    if (generation_.load(std::memory_order_acquire) == seen) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stopping_.load()) return;
    work(thread);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace adapmoe
