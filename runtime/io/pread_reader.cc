// SPDX-License-Identifier: Apache-2.0
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
  PreadReader(const File& file, int threads) : file_(file) {
    ADAPMOE_CHECK(threads > 0);
    for (int i = 0; i < threads; ++i) {
      threads_.emplace_back([this] { run(); });
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

 private:
  std::deque<ReadRequest>& queue_for(ReadPriority priority) {
    return priority == ReadPriority::kDemand ? demand_ : prefetch_;
  }

  void run() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stopping_ || !demand_.empty() || !prefetch_.empty(); });
      if (stopping_) return;
      std::deque<ReadRequest>& queue = demand_.empty() ? prefetch_ : demand_;
      const ReadRequest request = queue.front();
      queue.pop_front();
      lock.unlock();
      completion_(request.tag, file_.read_at(request.offset, request.into));
      lock.lock();
    }
  }

  const File& file_;
  Completion completion_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<ReadRequest> demand_;
  std::deque<ReadRequest> prefetch_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<AsyncReader> make_pread_reader(const File& file, int threads) {
  return std::make_unique<PreadReader>(file, threads);
}

}  // namespace adapmoe
