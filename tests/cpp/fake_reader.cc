// SPDX-License-Identifier: Apache-2.0
#include "tests/cpp/fake_reader.h"

#include <utility>

#include "runtime/base/check.h"

namespace adapmoe {

void FakeReader::set_completion(Completion completion) { completion_ = std::move(completion); }

void FakeReader::submit(const ReadRequest& request) {
  const std::lock_guard lock(mutex_);
  ADAPMOE_CHECK(completion_ != nullptr);
  queued_.push_back(request);
}

std::vector<ReadRequest> FakeReader::queued() const {
  const std::lock_guard lock(mutex_);
  return queued_;
}

ReadRequest FakeReader::take(size_t at) {
  const std::lock_guard lock(mutex_);
  const ReadRequest request = queued_.at(at);
  queued_.erase(queued_.begin() + static_cast<std::ptrdiff_t>(at));
  return request;
}

void FakeReader::complete(size_t at) {
  const ReadRequest request = take(at);
  completion_(request.tag, file_.read_at(request.offset, request.into), request.into);
}

void FakeReader::complete_damaged(size_t at) {
  const ReadRequest request = take(at);
  const Status read = file_.read_at(request.offset, request.into);
  request.into[request.into.size() / 2] ^= std::byte{1};
  completion_(request.tag, read, request.into);
}

void FakeReader::fail(size_t at, const Status& error) { completion_(take(at).tag, error, {}); }

}  // namespace adapmoe
