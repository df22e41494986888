// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/base/check.h"
#include "runtime/io/async_reader.h"

namespace adapmoe {
namespace {

class PreadReader final : public AsyncReader {
 public:
  PreadReader(const File& file, int threads, Timeline* timeline)
      : file_(file), timeline_(timeline), prefetch_lanes_(std::max(1, threads / 2)) {
    ADAPMOE_CHECK(threads > 0);
    for (int i = 0; i < threads; ++i) {
      threads_.emplace_back([this, i] { run(i); });
    }
  }

  ~PreadReader() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) {
      thread.join();
    }
  }

  void set_completion(Completion completion) override {
    const std::lock_guard lock(mutex_);
    completion_ = std::move(completion);
  }

  void submit(const ReadRequest& request) override {
    {
      const std::lock_guard lock(mutex_);
      ADAPMOE_CHECK(completion_ != nullptr);
      queue_for(request.priority).push_back(request);
    }
    wake_.notify_one();
  }

  bool cancel(uint64_t tag) override {
    const std::lock_guard lock(mutex_);
    return take_prefetch_locked(tag, nullptr);
  }

  bool promote(uint64_t tag) override {
    {
      const std::lock_guard lock(mutex_);
      ReadRequest request;
      if (!take_prefetch_locked(tag, &request)) return false;
      request.priority = ReadPriority::kDemand;
      demand_.push_back(request);
    }
    wake_.notify_one();
    return true;
  }

 private:
  bool take_prefetch_locked(uint64_t tag, ReadRequest* request) {
    const auto it = std::find_if(prefetch_.begin(), prefetch_.end(),
                                 [&](const ReadRequest& r) { return r.tag == tag; });
    if (it == prefetch_.end()) return false;
    if (request != nullptr) *request = *it;
    prefetch_.erase(it);
    return true;
  }

  // Prefetch leaves lanes free, so that a demand read never waits behind a full set of them.
  bool may_prefetch_locked() const { return !prefetch_.empty() && prefetching_ < prefetch_lanes_; }

  std::deque<ReadRequest>& queue_for(ReadPriority priority) {
    return priority == ReadPriority::kDemand ? demand_ : prefetch_;
  }

  void run(int thread) {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stopping_ || !demand_.empty() || may_prefetch_locked(); });
      if (stopping_) return;
      std::deque<ReadRequest>& queue = demand_.empty() ? prefetch_ : demand_;
      const ReadRequest request = queue.front();
      queue.pop_front();
      const bool is_prefetch = request.priority == ReadPriority::kPrefetch;
      prefetching_ += is_prefetch ? 1 : 0;
      lock.unlock();
      const Status status = [&] {
        const SpanTimer span(timeline_, is_prefetch ? Lane::kPrefetch : Lane::kDemand, "read",
                             thread);
        return file_.read_at(request.offset, request.into);
      }();
      completion_(request.tag, status);
      lock.lock();
      prefetching_ -= is_prefetch ? 1 : 0;
      if (is_prefetch && may_prefetch_locked()) wake_.notify_one();
    }
  }

  const File& file_;
  Timeline* const timeline_;
  Completion completion_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<ReadRequest> demand_;
  std::deque<ReadRequest> prefetch_;
  const int prefetch_lanes_;  // reads of the prefetch queue at the same time, at most
  int prefetching_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<AsyncReader> make_pread_reader(const File& file, int threads, Timeline* timeline) {
  return std::make_unique<PreadReader>(file, threads, timeline);
}

}  // namespace adapmoe
