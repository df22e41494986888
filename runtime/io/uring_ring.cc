// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/uring_ring.h"

#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/base/check.h"
#include "runtime/base/strings.h"

namespace adapmoe {

struct Ring::State {
  io_uring ring{};
  bool ready = false;
  int wake = -1;
  int registered_file = -1;
  bool buffers_reserved = false;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    // Closing the ring would let go of them as well, but later.
    if (buffers_reserved) (void)io_uring_unregister_buffers(&ring);
    if (ready) io_uring_queue_exit(&ring);
    if (wake >= 0) close(wake);
  }

  io_uring_sqe* next_entry() {
    io_uring_sqe* entry = io_uring_get_sqe(&ring);
    ADAPMOE_CHECK(entry != nullptr);  // one place per lane and one for the poll
    return entry;
  }

  bool can_read() {
    io_uring_probe* probe = io_uring_get_probe_ring(&ring);
    const bool can = probe != nullptr && io_uring_opcode_supported(probe, IORING_OP_READ) != 0;
    io_uring_free_probe(probe);
    return can;
  }

  // Setting up may be permitted and submitting not. Returns an errno.
  int try_once() {
    io_uring_prep_nop(next_entry());
    const int done = io_uring_submit_and_wait(&ring, 1);
    if (done < 0) return -done;
    io_uring_cqe* event = nullptr;
    if (io_uring_peek_cqe(&ring, &event) == 0) io_uring_cqe_seen(&ring, event);
    return 0;
  }
};

namespace {

Status ring_refused(const char* call, int error) {
  return unavailable(str_cat("io_uring cannot be used here: ", call, ": ",
                             std::generic_category().message(error)));
}

// liburing returns a count or -errno.
int errno_of(int result) { return result < 0 ? -result : 0; }

}  // namespace

Ring::Ring(std::unique_ptr<State> state) : state_(std::move(state)) {}
Ring::~Ring() = default;

Result<std::unique_ptr<Ring>> Ring::open(int depth) {
  auto state = std::make_unique<State>();
  int error = io_uring_queue_init(static_cast<unsigned>(depth) + 1, &state->ring, 0);
  if (error != 0) return ring_refused("io_uring_setup", -error);
  state->ready = true;
  if (!state->can_read()) return unavailable("io_uring of this kernel has no read operation");
  error = state->try_once();
  if (error != 0) return ring_refused("io_uring_enter", error);
  state->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (state->wake < 0) return ring_refused("eventfd", errno);
  return std::unique_ptr<Ring>(new Ring(std::move(state)));
}

int Ring::register_file(int fd) {
  const int error = errno_of(io_uring_register_files(&state_->ring, &fd, 1));
  if (error == 0) state_->registered_file = fd;
  return error;
}

int Ring::reserve_buffers(int count) {
  const auto places = static_cast<size_t>(count);
  const std::vector<iovec> empty(places);
  const std::vector<__u64> tags(places);
  const int error = errno_of(io_uring_register_buffers_tags(
      &state_->ring, empty.data(), tags.data(), static_cast<unsigned>(count)));
  state_->buffers_reserved = error == 0;
  return error;
}

int Ring::set_buffer(int index, std::span<std::byte> memory) {
  const iovec place{memory.empty() ? nullptr : memory.data(), memory.size()};
  const __u64 tag = 0;
  return errno_of(io_uring_register_buffers_update_tag(&state_->ring, static_cast<unsigned>(index),
                                                       &place, &tag, 1));
}

void Ring::add_read(int fd, int64_t offset, std::span<std::byte> into, int buffer,
                    uint64_t user_data) {
  const auto bytes =
      static_cast<unsigned>(std::min(into.size(), static_cast<size_t>(kLargestBuffer)));
  io_uring_sqe* entry = state_->next_entry();
  const bool registered = fd == state_->registered_file;
  const int file = registered ? 0 : fd;
  const auto at = static_cast<uint64_t>(offset);
  if (buffer == kNoBuffer) {
    io_uring_prep_read(entry, file, into.data(), bytes, at);
  } else {
    io_uring_prep_read_fixed(entry, file, into.data(), bytes, at, buffer);
  }
  if (registered) entry->flags |= IOSQE_FIXED_FILE;
  entry->user_data = user_data;
}

void Ring::add_wake_poll() {
  io_uring_sqe* entry = state_->next_entry();
  io_uring_prep_poll_add(entry, state_->wake, POLLIN);
  entry->user_data = kWake;
}

void Ring::wake() const { (void)eventfd_write(state_->wake, 1); }

void Ring::clear_wake() const {
  eventfd_t count = 0;
  (void)eventfd_read(state_->wake, &count);
}

void Ring::submit_and_wait() {
  const int done = io_uring_submit_and_wait(&state_->ring, 1);
  if (done == -EAGAIN || done == -EBUSY) {  // the kernel is short of memory for a moment
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  } else {
    ADAPMOE_CHECK(done >= 0 || done == -EINTR);
  }
}

std::optional<Ring::Event> Ring::next_event() {
  io_uring_cqe* event = nullptr;
  if (io_uring_peek_cqe(&state_->ring, &event) != 0) return std::nullopt;
  const Event found{event->user_data, event->res};
  io_uring_cqe_seen(&state_->ring, event);
  return found;
}

}  // namespace adapmoe
