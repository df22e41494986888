// SPDX-License-Identifier: Apache-2.0
// Reads in the background. Demand reads go before prefetch reads; within a priority, first in,
// first out. A request may be read in several pieces at once.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "runtime/base/progress.h"
#include "runtime/base/status.h"
#include "runtime/base/timeline.h"
#include "runtime/io/file.h"

namespace adapmoe {

enum class ReadPriority : uint8_t { kDemand, kPrefetch };

struct ReadRequest {
  int64_t offset = 0;         // with O_DIRECT a multiple of 4 KiB, like the size and the address
  std::span<std::byte> into;  // stays valid until the completion
  ReadPriority priority = ReadPriority::kDemand;
  uint64_t tag = 0;            // given back with the completion
  const File* file = nullptr;  // outlives the completion; null: the reader's own
};

// Equal frames that requests go to, one after the other from the beginning of `memory`.
struct FrameRegion {
  std::span<std::byte> memory;
  int64_t frame_bytes = 0;
};

// What a reader has registered with the kernel.
struct Registration {
  bool file = false;
  int64_t frames = 0;   // now; they are pinned
  std::string problem;  // why it is not everything that was asked for; empty: nothing is missing
};

class AsyncReader {
 public:
  // Called once per request, on a thread of the reader; several may call at once. `read`: what was
  // read, as long as the call lasts, where `status` is ok.
  using Completion =
      std::function<void(uint64_t tag, const Status& status, std::span<const std::byte> read)>;

  // Finishes or drops what is queued; no completion is called after the destructor returns.
  virtual ~AsyncReader() = default;

  // Set once, before the first submit.
  virtual void set_completion(Completion completion) = 0;
  // Never blocks. Thread-safe.
  virtual void submit(const ReadRequest& request) = 0;

  // Advice about a prefetch read. Both return whether it, or some of it, was still queued.
  // Takes it out if none of it has begun; its completion is not called then.
  virtual bool cancel(uint64_t /*tag*/) { return false; }
  // Makes it a demand read; of one that has begun, what has not.
  virtual bool promote(uint64_t /*tag*/) { return false; }

  // Lets go of a frame whose memory is about to be given back. REQUIRES: no read into it is queued
  // or under way. Thread-safe.
  virtual void forget(std::span<std::byte> /*frame*/) {}
  // Thread-safe.
  virtual Registration registration() const { return {}; }
};

inline Lane lane_of(ReadPriority priority) {
  return priority == ReadPriority::kPrefetch ? Lane::kPrefetch : Lane::kDemand;
}

struct ReaderOptions {
  int depth = 4;                 // reads at the same time
  int64_t request_bytes = 0;     // of one read at most, a multiple of 4 KiB; 0: any
  Timeline* timeline = nullptr;  // records every read; may be null
  Progress* progress = nullptr;  // counts every read, or piece of one; may be null
  FrameRegion frames = {};       // all requests go there, a frame each; empty: anywhere
  bool register_frames = false;  // with io_uring: the file, and frames as far as permitted
};

// In all three the file outlives the reader.

// `depth` threads that read `file` with pread.
std::unique_ptr<AsyncReader> make_pread_reader(const File& file, const ReaderOptions& options);

// At most `depth` reads in flight in one io_uring. Errors: kUnavailable, with the reason, where it
// is not built in, not permitted, or the file is not open with O_DIRECT.
Result<std::unique_ptr<AsyncReader>> make_uring_reader(const File& file,
                                                       const ReaderOptions& options);

// Whether io_uring is built in, wherever it may be used.
bool built_with_io_uring();

struct ChosenReader {
  std::unique_ptr<AsyncReader> reader;
  std::string name;  // "io_uring" or "pread"
  std::string note;  // why it is not the one asked for by name; empty: it is
};

// `wanted`: "auto", "io_uring" or "pread". Where io_uring is unavailable, pread takes its place.
// Errors: kInvalidArgument for another name.
Result<ChosenReader> make_reader(const std::string& wanted, const File& file,
                                 const ReaderOptions& options);

}  // namespace adapmoe
