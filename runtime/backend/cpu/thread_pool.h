// SPDX-License-Identifier: Apache-2.0
// Splits a range of independent work items over the caller and the workers. Which thread computes
// an item never matters to its bits. Workers spin for a moment, then sleep, so that hand-off is
// quick while decoding and idle costs nothing. A job never waits for a worker that has not begun:
// one that comes late, because its core is busy, finds the job closed.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace adapmoe {

class ThreadPool {
 public:
  // `threads` counts the caller: threads - 1 workers are started. REQUIRES: threads >= 1.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(begin, end, thread) until [0, items) is covered, in chunks of `grain`; returns when
  // all are done. One caller at a time; body must not call run().
  template <typename Body>
  void run(int64_t items, int64_t grain, const Body& body) {
    if (workers_.empty() || items <= grain) {
      if (items > 0) body(int64_t{0}, items, 0);
      return;
    }
    dispatch(items, grain, &body, [](const void* context, int64_t begin, int64_t end, int thread) {
      (*static_cast<const Body*>(context))(begin, end, thread);
    });
  }

 private:
  using Trampoline = void (*)(const void*, int64_t, int64_t, int);

  void dispatch(int64_t items, int64_t grain, const void* context, Trampoline trampoline);
  void work(int thread);
  void wake_sleepers();
  void wait_for_job(uint64_t seen);
  bool join(uint64_t& seen);
  void worker_loop(int thread);

  // The current job; published by job_, read by workers that joined it.
  int64_t items_ = 0;
  int64_t grain_ = 1;
  const void* context_ = nullptr;
  Trampoline trampoline_ = nullptr;
  std::atomic<int64_t> next_{0};
  std::atomic<uint64_t> job_{0};  // job number, whether it takes workers, workers in it
  std::atomic<int> asleep_{0};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

}  // namespace adapmoe
