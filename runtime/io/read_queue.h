// SPDX-License-Identifier: Apache-2.0
// Which read begins next: demand before prefetch, and prefetch in at most half of the lanes, so
// that a demand read never waits behind a full set of them. Large requests are cut into pieces,
// each read in a lane of its own. Thread-compatible: a reader guards it.
#pragma once
#include <deque>
#include <memory>
#include <optional>

#include "runtime/io/async_reader.h"

namespace adapmoe {

class ReadQueue {
 public:
  struct Job {
    ReadRequest request;
    size_t begun = 0;    // bytes handed out, from the front
    size_t settled = 0;  // bytes of finished pieces
    Status status;       // of the first piece that failed
  };
  // One read; `part` lies within the request of `job`.
  struct Piece {
    ReadRequest part;
    std::shared_ptr<Job> job;
  };

  // REQUIRES: depth > 0; request_bytes is 0 or a multiple of 4 KiB.
  explicit ReadQueue(const ReaderOptions& options);

  void push(const ReadRequest& request);
  // See AsyncReader.
  bool cancel(uint64_t tag);
  bool promote(uint64_t tag);

  bool has_next() const { return !demand_.empty() || may_prefetch(); }
  // Takes the next piece out; its caller has a free lane, and calls both functions below.
  std::optional<Piece> next();
  // Its lane is free again.
  void finished(const Piece& piece);
  // What became of it. The last piece of a request gives back what became of the whole.
  static std::optional<Status> settle(const Piece& piece, const Status& status);

 private:
  using Jobs = std::deque<std::shared_ptr<Job>>;

  bool may_prefetch() const { return !prefetch_.empty() && prefetching_ < prefetch_lanes_; }
  Jobs::iterator find_prefetch(uint64_t tag);

  Jobs demand_;
  Jobs prefetch_;
  const int prefetch_lanes_;
  const size_t piece_bytes_;
  Progress* const progress_;
  int prefetching_ = 0;
};

}  // namespace adapmoe
