// SPDX-License-Identifier: Apache-2.0
#include "runtime/backend/cpu/thread_pool.h"

#include <algorithm>
#include <chrono>

#include "runtime/base/fp_environment.h"

namespace adapmoe {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50);
constexpr int kSpinsBeforeYield = 2000;

// Of job_: the low half counts the workers inside, the next bit says that more may join, the rest
// is the number of the job.
constexpr uint64_t kWorker = 1;
constexpr uint64_t kWorkers = 0xffff;
constexpr uint64_t kOpen = 1 << 16;
constexpr uint64_t kNumber = 1 << 17;

uint64_t number(uint64_t job) { return job / kNumber; }

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
  stopping_.store(true);
  wake_sleepers();
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
  // Nobody is inside: the next number, open.
  job_.store((number(job_.load(std::memory_order_relaxed)) + 1) * kNumber + kOpen);
  if (asleep_.load() > 0) wake_sleepers();
  work(0);
  job_.fetch_and(~kOpen, std::memory_order_acq_rel);
  for (int spins = 0; (job_.load(std::memory_order_acquire) & kWorkers) != 0; ++spins) {
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

// A worker counts itself asleep before its last look at job_, and a caller changes job_ before it
// looks for sleepers, so that one of them sees the other.
void ThreadPool::wake_sleepers() {
  {
    const std::lock_guard lock(mutex_);
  }
  wake_.notify_all();
}

// Returns at a job after `seen`, or at the end.
void ThreadPool::wait_for_job(uint64_t seen) {
  const auto due = [&] { return number(job_.load()) != seen || stopping_.load(); };
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  while (!due()) {
    if (std::chrono::steady_clock::now() < deadline) {
      pause();
      continue;
    }
    std::unique_lock lock(mutex_);
    asleep_.fetch_add(1);
    wake_.wait(lock, due);
    asleep_.fetch_sub(1);
  }
}

// Whether the worker is now inside the current job, which becomes `seen` in any case.
bool ThreadPool::join(uint64_t& seen) {
  uint64_t job = job_.load();
  while (true) {
    seen = number(job);
    if ((job & kOpen) == 0) return false;
    if (job_.compare_exchange_weak(job, job + kWorker, std::memory_order_acq_rel)) return true;
  }
}

void ThreadPool::worker_loop(int thread) {
  const FpEnvironment canonical;
  uint64_t seen = 0;
  while (true) {
    wait_for_job(seen);
    if (stopping_.load()) return;
    if (!join(seen)) continue;
    work(thread);
    job_.fetch_sub(kWorker, std::memory_order_release);
  }
}

}  // namespace adapmoe
