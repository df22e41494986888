// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/registered_frames.h"

#include <sys/resource.h>

#include <algorithm>
#include <system_error>

#include "runtime/base/strings.h"

namespace adapmoe {
namespace {

std::string refused(const char* what, int error) {
  return str_cat(what, ": ", std::generic_category().message(error));
}

std::string limit_text() {
  rlimit limit{};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return "";
  return str_cat("; RLIMIT_MEMLOCK is ", format_bytes(static_cast<int64_t>(limit.rlim_cur)),
                 ", raise it with ulimit -l or LimitMEMLOCK=");
}

}  // namespace

RegisteredFrames::RegisteredFrames(Ring& ring, int fd, const FrameRegion& frames, bool wanted)
    : ring_(ring), frames_(frames) {
  if (!wanted) return;
  const int file_error = ring.register_file(fd);
  file_ = file_error == 0;
  if (!file_) refusal_ = refused("the file cannot be registered", file_error);
  if (frames.frame_bytes > Ring::kLargestBuffer || frames.memory.empty()) return;
  const auto count = std::min<int64_t>(
      static_cast<int64_t>(frames.memory.size()) / frames.frame_bytes, Ring::kMostBuffers);
  const int error = ring.reserve_buffers(static_cast<int>(count));
  if (error != 0) {
    refusal_ = refused("this kernel registers no buffers one by one", error);
    return;
  }
  places_ = static_cast<int>(count);
  registered_ = std::make_unique<std::atomic<bool>[]>(static_cast<size_t>(count));
}

int RegisteredFrames::index_of(const std::byte* at) const {
  const std::byte* begin = frames_.memory.data();
  if (places_ == 0 || at < begin) return Ring::kNoBuffer;
  const int64_t index = (at - begin) / frames_.frame_bytes;
  return index < places_ ? static_cast<int>(index) : Ring::kNoBuffer;
}

int RegisteredFrames::buffer_of(std::span<std::byte> into) {
  const int index = index_of(into.data());
  if (index == Ring::kNoBuffer) return index;
  std::atomic<bool>& registered = registered_[static_cast<size_t>(index)];
  if (registered.load()) return index;
  if (error_.load() != 0) return Ring::kNoBuffer;
  const auto bytes = static_cast<size_t>(frames_.frame_bytes);
  const int error =
      ring_.set_buffer(index, frames_.memory.subspan(static_cast<size_t>(index) * bytes, bytes));
  if (error != 0) {  // the limit is reached: the others are read as they are
    error_ = error;
    return Ring::kNoBuffer;
  }
  registered = true;
  ++count_;
  return index;
}

void RegisteredFrames::forget(std::span<std::byte> memory) {
  const int index = index_of(memory.data());
  if (index == Ring::kNoBuffer || !registered_[static_cast<size_t>(index)].load()) return;
  (void)ring_.set_buffer(index, {});  // emptying a place cannot be refused
  registered_[static_cast<size_t>(index)] = false;
  --count_;
}

Registration RegisteredFrames::state() const {
  const int error = error_.load();
  return {.file = file_,
          .frames = count_.load(),
          .problem = error == 0
                         ? refusal_
                         : refused("no more frames can be registered", error) + limit_text()};
}

}  // namespace adapmoe
