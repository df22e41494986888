// SPDX-License-Identifier: Apache-2.0
// One thread keeps `depth` reads in flight in an io_uring; a few others check and report what has
// arrived, so that a checksum never delays the next read. Whatever is not a whole read at the first
// try is finished with pread, which has the same retries and the same errors.
#include <algorithm>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/base/check.h"
#include "runtime/base/strings.h"
#include "runtime/io/async_reader.h"
#include "runtime/io/read_queue.h"
#include "runtime/io/registered_frames.h"
#include "runtime/io/uring_ring.h"

namespace adapmoe {
namespace {

constexpr int kReporters = 2;  // a checksum runs at 10 GB/s and more per thread

class UringReader final : public AsyncReader {
 public:
  UringReader(const File& file, std::unique_ptr<Ring> ring, const ReaderOptions& options)
      : file_(file),
        timeline_(options.timeline),
        ring_(std::move(ring)),
        frames_(*ring_, file.descriptor(), options.frames, options.register_frames),
        queue_(options) {
    lanes_.resize(static_cast<size_t>(options.depth));
    for (size_t i = lanes_.size(); i-- > 0;) free_lanes_.push_back(i);
    submitter_ = std::thread([this] { run(); });
    for (int i = 0; i < std::min(options.depth, kReporters); ++i) {
      reporters_.emplace_back([this] { report(); });
    }
  }

  // The kernel still writes into the frames of reads in flight: they are waited for.
  ~UringReader() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    ring_->wake();
    arrival_.notify_all();
    submitter_.join();
    for (std::thread& thread : reporters_) thread.join();
  }

  void set_completion(Completion completion) override {
    const std::lock_guard lock(mutex_);
    completion_ = std::move(completion);
  }

  void submit(const ReadRequest& request) override {
    const std::lock_guard lock(mutex_);
    ADAPMOE_CHECK(completion_ != nullptr);
    queue_.push(request);
    wake_locked();
  }

  bool cancel(uint64_t tag) override {
    const std::lock_guard lock(mutex_);
    return queue_.cancel(tag);
  }

  bool promote(uint64_t tag) override {
    const std::lock_guard lock(mutex_);
    if (!queue_.promote(tag)) return false;
    wake_locked();
    return true;
  }

  void forget(std::span<std::byte> frame) override { frames_.forget(frame); }
  Registration registration() const override { return frames_.state(); }

 private:
  struct InFlight {
    ReadQueue::Piece piece;
    int64_t begin_ns = 0;
  };
  struct Arrival {
    ReadQueue::Piece piece;
    int64_t result = 0;  // bytes, or -errno
  };

  // Only a submitter that waits with a free lane needs to be told.
  void wake_locked() {
    if (!waiting_ || free_lanes_.empty()) return;
    waiting_ = false;
    ring_->wake();
  }

  void run() {
    ring_->add_wake_poll();
    while (begin_reads()) {
      ring_->submit_and_wait();
      while (const std::optional<Ring::Event> event = ring_->next_event()) {
        if (event->user_data != Ring::kWake) {
          arrived(static_cast<size_t>(event->user_data), event->result);
          continue;
        }
        ring_->clear_wake();
        ring_->add_wake_poll();
      }
    }
  }

  // Fills the free lanes. False once the reader stops and nothing is in flight.
  bool begin_reads() {
    starting_.clear();
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return free_lanes_.size() < lanes_.size();
      while (!free_lanes_.empty()) {
        std::optional<ReadQueue::Piece> piece = queue_.next();
        if (!piece) break;
        const size_t lane = free_lanes_.back();
        free_lanes_.pop_back();
        lanes_[lane] = {*std::move(piece), timeline_ == nullptr ? 0 : timeline_->now()};
        starting_.push_back(lane);
      }
      waiting_ = true;
    }
    for (const size_t lane : starting_) {  // without the lock: registering a frame may take a while
      const ReadRequest& part = lanes_[lane].piece.part;
      ring_->add_read(file_of(part).descriptor(), part.offset, part.into,
                      frames_.buffer_of(part.into), lane);
    }
    return true;
  }

  void arrived(size_t index, int result) {
    InFlight& lane = lanes_[index];
    if (timeline_ != nullptr) {
      timeline_->add({lane_of(lane.piece.part.priority), "read", static_cast<int32_t>(index), -1,
                      lane.begin_ns, timeline_->now()});
    }
    {
      const std::lock_guard lock(mutex_);
      queue_.finished(lane.piece);
      free_lanes_.push_back(index);
      arrivals_.push_back({std::move(lane.piece), result});
    }
    arrival_.notify_one();
  }

  void report() {
    std::unique_lock lock(mutex_);
    while (true) {
      arrival_.wait(lock, [this] { return stopping_ || !arrivals_.empty(); });
      if (stopping_) return;
      const Arrival arrival = std::move(arrivals_.front());
      arrivals_.pop_front();
      lock.unlock();
      const ReadRequest& part = arrival.piece.part;
      const Status status = file_of(part).finish_read(part.offset, part.into, arrival.result);
      lock.lock();
      const std::optional<Status> whole = ReadQueue::settle(arrival.piece, status);
      if (!whole) continue;
      lock.unlock();
      completion_(part.tag, *whole, arrival.piece.job->request.into);
      lock.lock();
    }
  }

  const File& file_of(const ReadRequest& request) const {
    return request.file == nullptr ? file_ : *request.file;
  }

  const File& file_;
  Timeline* const timeline_;
  const std::unique_ptr<Ring> ring_;  // used by the submitter alone, but for wake()
  RegisteredFrames frames_;
  std::vector<InFlight> lanes_;   // written by the submitter alone
  std::vector<size_t> starting_;  // likewise
  Completion completion_;
  std::mutex mutex_;
  std::condition_variable arrival_;
  ReadQueue queue_;
  std::vector<size_t> free_lanes_;
  std::deque<Arrival> arrivals_;
  bool waiting_ = false;  // the submitter waits, or is about to
  bool stopping_ = false;
  std::thread submitter_;
  std::vector<std::thread> reporters_;
};

}  // namespace

bool built_with_io_uring() { return true; }

Result<std::unique_ptr<AsyncReader>> make_uring_reader(const File& file,
                                                       const ReaderOptions& options) {
  ADAPMOE_CHECK(options.depth > 0);
  if (!file.direct()) {
    return unavailable(str_cat("io_uring is for O_DIRECT only, and ", file.path(),
                               " is read through the page cache"));
  }
  auto ring = Ring::open(options.depth);
  if (!ring.ok()) return ring.status();
  return std::unique_ptr<AsyncReader>(
      std::make_unique<UringReader>(file, std::move(ring).value(), options));
}

}  // namespace adapmoe
