// SPDX-License-Identifier: Apache-2.0
// Reads into a few staging buffers, not to where requests say: for targets that files cannot be
// read into, such as a discrete GPU's memory. The completion gets the bytes in a staging buffer and
// copies them to the target; then the buffer serves the next read.
#pragma once
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "runtime/io/async_reader.h"

namespace adapmoe {

class StagedReader final : public AsyncReader {
 public:
  // `places`: staging buffers, at least one; page-aligned, as long as the longest request, and
  // outliving this. Prefetch reads use at most half of them, or the only one.
  StagedReader(std::unique_ptr<AsyncReader> reader, std::vector<std::span<std::byte>> places);
  ~StagedReader() override;
  StagedReader(const StagedReader&) = delete;
  StagedReader& operator=(const StagedReader&) = delete;

  void set_completion(Completion completion) override;
  void submit(const ReadRequest& request) override;
  bool cancel(uint64_t tag) override;
  bool promote(uint64_t tag) override;
  Registration registration() const override { return reader_->registration(); }

 private:
  struct Begun {
    ReadRequest request;  // as it was submitted
    std::span<std::byte> place;
  };

  void begin_locked();
  void end_locked(const Begun& begun);
  void arrived(uint64_t tag, const Status& status);

  Completion completion_;
  std::mutex mutex_;
  std::deque<ReadRequest> demand_;
  std::deque<ReadRequest> prefetch_;
  std::vector<std::span<std::byte>> free_;
  const size_t prefetch_places_;
  size_t prefetching_ = 0;
  std::unordered_map<uint64_t, Begun> begun_;  // by tag
  bool stopping_ = false;
  std::unique_ptr<AsyncReader> reader_;  // last member: destroyed first
};

}  // namespace adapmoe
