// SPDX-License-Identifier: Apache-2.0
// Reads into a few places of its own instead of where requests say: for a target that no file can
// be read into, as the memory of a discrete GPU. The completion finds the bytes in such a place and
// takes them on; then the place serves the next read.
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
  // `places`: page-aligned, as long as the longest request, and outliving this; at least one. Half
  // of them at most serve prefetch reads, but one if there is only one.
  StagedReader(std::unique_ptr<AsyncReader> reader, std::vector<std::span<std::byte>> places);
  ~StagedReader() override;
  StagedReader(const StagedReader&) = delete;
  StagedReader& operator=(const StagedReader&) = delete;

  void set_completion(Completion completion) override;
  void submit(const ReadRequest& request) override;
  bool cancel(uint64_t tag) override;
  bool promote(uint64_t tag) override;

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
