// SPDX-License-Identifier: Apache-2.0
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/base/check.h"
#include "runtime/io/async_reader.h"
#include "runtime/io/read_queue.h"

namespace adapmoe {
namespace {

class PreadReader final : public AsyncReader {
 public:
  PreadReader(const File& file, const ReaderOptions& options)
      : file_(file),
        timeline_(options.timeline),
        asked_to_register_(options.register_frames),
        queue_(options) {
    for (int i = 0; i < options.depth; ++i) {
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
      queue_.push(request);
    }
    wake_.notify_one();
  }

  bool cancel(uint64_t tag) override {
    const std::lock_guard lock(mutex_);
    return queue_.cancel(tag);
  }

  bool promote(uint64_t tag) override {
    {
      const std::lock_guard lock(mutex_);
      if (!queue_.promote(tag)) return false;
    }
    wake_.notify_one();
    return true;
  }

  Registration registration() const override {
    return {.problem = asked_to_register_ ? "only io_uring registers, and pread is used" : ""};
  }

 private:
  void run(int thread) {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stopping_ || queue_.has_next(); });
      if (stopping_) return;
      const ReadQueue::Piece piece = *queue_.next();
      lock.unlock();
      const Status status = [&] {
        const SpanTimer span(timeline_, lane_of(piece.part.priority), "read", thread);
        const File& file = piece.part.file == nullptr ? file_ : *piece.part.file;
        return file.read_at(piece.part.offset, piece.part.into);
      }();
      lock.lock();
      if (const auto whole = ReadQueue::settle(piece, status)) {
        lock.unlock();
        completion_(piece.part.tag, *whole, piece.job->request.into);
        lock.lock();
      }
      queue_.finished(piece);
      // A lane for prefetch may have become free while the other threads sleep.
      if (piece.part.priority == ReadPriority::kPrefetch && queue_.has_next()) wake_.notify_one();
    }
  }

  const File& file_;
  Timeline* const timeline_;
  const bool asked_to_register_;
  Completion completion_;
  std::mutex mutex_;
  std::condition_variable wake_;
  ReadQueue queue_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<AsyncReader> make_pread_reader(const File& file, const ReaderOptions& options) {
  return std::make_unique<PreadReader>(file, options);
}

}  // namespace adapmoe
