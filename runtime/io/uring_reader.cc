// SPDX-License-Identifier: Apache-2.0
// One thread keeps `depth` reads in flight in an io_uring; a few others check and report what has
// arrived, so that a checksum never delays the next read. Whatever is not a whole read at the first
// try is finished with pread, which has the same retries and the same errors.
#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/base/check.h"
#include "runtime/base/strings.h"
#include "runtime/io/async_reader.h"
#include "runtime/io/read_queue.h"

namespace adapmoe {
namespace {

constexpr int kReporters = 2;               // a checksum runs at 10 GB/s and more per thread
constexpr uint64_t kWake = UINT64_MAX;      // user data of the poll that ends a wait
constexpr size_t kLargestRead = 1UL << 30;  // the rest of a larger one is finished with pread

// An io_uring and the eventfd that wakes whoever waits on it.
class Ring {
 public:
  // Errors: kUnavailable with the reason.
  static Result<std::unique_ptr<Ring>> open(int depth) {
    auto ring = std::unique_ptr<Ring>(new Ring);
    int error = io_uring_queue_init(static_cast<unsigned>(depth) + 1, &ring->ring_, 0);
    if (error != 0) return refused("io_uring_setup", -error);
    ring->ready_ = true;
    if (!ring->can_read()) return unavailable("io_uring of this kernel has no read operation");
    error = ring->try_once();
    if (error != 0) return refused("io_uring_enter", error);
    ring->wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ring->wake_ < 0) return refused("eventfd", errno);
    return ring;
  }

  ~Ring() {
    if (ready_) io_uring_queue_exit(&ring_);
    if (wake_ >= 0) close(wake_);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  void add_read(int fd, const ReadRequest& request, uint64_t user_data) {
    const auto bytes = static_cast<unsigned>(std::min(request.into.size(), kLargestRead));
    io_uring_sqe* entry = next_entry();
    io_uring_prep_read(entry, fd, request.into.data(), bytes,
                       static_cast<uint64_t>(request.offset));
    entry->user_data = user_data;
  }

  void add_wake_poll() {
    io_uring_sqe* entry = next_entry();
    io_uring_prep_poll_add(entry, wake_, POLLIN);
    entry->user_data = kWake;
  }

  // Thread-safe.
  void wake() const { (void)eventfd_write(wake_, 1); }
  void clear_wake() const {
    eventfd_t count = 0;
    (void)eventfd_read(wake_, &count);
  }

  // Hands over what was added and waits until something has completed.
  void submit_and_wait() {
    const int done = io_uring_submit_and_wait(&ring_, 1);
    if (done == -EAGAIN || done == -EBUSY) {  // the kernel is short of memory for a moment
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    } else {
      ADAPMOE_CHECK(done >= 0 || done == -EINTR);
    }
  }

  // Calls handle(user data, result) for everything that has completed.
  template <typename Handle>
  void reap(const Handle& handle) {
    io_uring_cqe* event = nullptr;
    while (io_uring_peek_cqe(&ring_, &event) == 0) {
      const uint64_t user_data = event->user_data;
      const int result = event->res;
      io_uring_cqe_seen(&ring_, event);
      handle(user_data, result);
    }
  }

 private:
  Ring() = default;

  static Status refused(const char* call, int error) {
    return unavailable(str_cat("io_uring cannot be used here: ", call, ": ",
                               std::generic_category().message(error)));
  }

  io_uring_sqe* next_entry() {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    ADAPMOE_CHECK(entry != nullptr);  // one place per lane and one for the poll
    return entry;
  }

  bool can_read() {
    io_uring_probe* probe = io_uring_get_probe_ring(&ring_);
    const bool can = probe != nullptr && io_uring_opcode_supported(probe, IORING_OP_READ) != 0;
    io_uring_free_probe(probe);
    return can;
  }

  // Setting up may be permitted and submitting not. Returns an errno.
  int try_once() {
    io_uring_prep_nop(next_entry());
    const int done = io_uring_submit_and_wait(&ring_, 1);
    if (done < 0) return -done;
    reap([](uint64_t, int) {});
    return 0;
  }

  io_uring ring_{};
  bool ready_ = false;
  int wake_ = -1;
};

class UringReader final : public AsyncReader {
 public:
  UringReader(const File& file, std::unique_ptr<Ring> ring, int depth, Timeline* timeline)
      : file_(file), timeline_(timeline), ring_(std::move(ring)), queue_(depth) {
    lanes_.resize(static_cast<size_t>(depth));
    for (size_t i = lanes_.size(); i-- > 0;) free_lanes_.push_back(i);
    submitter_ = std::thread([this] { run(); });
    for (int i = 0; i < std::min(depth, kReporters); ++i) {
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

 private:
  struct InFlight {
    ReadRequest request;
    int64_t begin_ns = 0;
  };
  struct Arrival {
    ReadRequest request;
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
      ring_->reap([this](uint64_t user_data, int result) {
        if (user_data != kWake) return arrived(static_cast<size_t>(user_data), result);
        ring_->clear_wake();
        ring_->add_wake_poll();
      });
    }
  }

  // Fills the free lanes. False once the reader stops and nothing is in flight.
  bool begin_reads() {
    const std::lock_guard lock(mutex_);
    if (stopping_) return free_lanes_.size() < lanes_.size();
    while (!free_lanes_.empty()) {
      const std::optional<ReadRequest> request = queue_.next();
      if (!request) break;
      const size_t lane = free_lanes_.back();
      free_lanes_.pop_back();
      lanes_[lane] = {*request, timeline_ == nullptr ? 0 : timeline_->now()};
      ring_->add_read(file_of(*request).descriptor(), *request, lane);
    }
    waiting_ = true;
    return true;
  }

  void arrived(size_t index, int result) {
    const InFlight& lane = lanes_[index];
    if (timeline_ != nullptr) {
      timeline_->add({lane_of(lane.request.priority), "read", static_cast<int32_t>(index), -1,
                      lane.begin_ns, timeline_->now()});
    }
    {
      const std::lock_guard lock(mutex_);
      queue_.finished(lane.request);
      free_lanes_.push_back(index);
      arrivals_.push_back({lane.request, result});
    }
    arrival_.notify_one();
  }

  void report() {
    std::unique_lock lock(mutex_);
    while (true) {
      arrival_.wait(lock, [this] { return stopping_ || !arrivals_.empty(); });
      if (stopping_) return;
      const Arrival arrival = arrivals_.front();
      arrivals_.pop_front();
      lock.unlock();
      const ReadRequest& request = arrival.request;
      completion_(request.tag,
                  file_of(request).finish_read(request.offset, request.into, arrival.result),
                  request.into);
      lock.lock();
    }
  }

  const File& file_of(const ReadRequest& request) const {
    return request.file == nullptr ? file_ : *request.file;
  }

  const File& file_;
  Timeline* const timeline_;
  const std::unique_ptr<Ring> ring_;  // used by the submitter alone, but for wake()
  std::vector<InFlight> lanes_;       // written by the submitter alone
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

Result<std::unique_ptr<AsyncReader>> make_uring_reader(const File& file, int depth,
                                                       Timeline* timeline) {
  ADAPMOE_CHECK(depth > 0);
  if (!file.direct()) {
    return unavailable(str_cat("io_uring is for O_DIRECT only, and ", file.path(),
                               " is read through the page cache"));
  }
  auto ring = Ring::open(depth);
  if (!ring.ok()) return ring.status();
  return std::unique_ptr<AsyncReader>(
      std::make_unique<UringReader>(file, std::move(ring).value(), depth, timeline));
}

}  // namespace adapmoe
