// SPDX-License-Identifier: Apache-2.0
// An AsyncReader whose reads finish when, in which order and how the test says.
#pragma once
#include <cstddef>
#include <mutex>
#include <vector>

#include "runtime/io/async_reader.h"

namespace adapmoe {

class FakeReader final : public AsyncReader {
 public:
  // The file outlives the reader.
  explicit FakeReader(const File& file) : file_(file) {}

  void set_completion(Completion completion) override;
  void submit(const ReadRequest& request) override;

  // What was submitted and not completed, in the order of submission.
  std::vector<ReadRequest> queued() const;
  // Carries out queued read `at` and reports it.
  void complete(size_t at);
  // The same, with one bit of what was read flipped.
  void complete_damaged(size_t at);
  // Reports queued read `at` as failed with `error`.
  void fail(size_t at, const Status& error);

 private:
  ReadRequest take(size_t at);

  const File& file_;
  Completion completion_;
  mutable std::mutex mutex_;
  std::vector<ReadRequest> queued_;
};

}  // namespace adapmoe
