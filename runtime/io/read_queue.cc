// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/read_queue.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "runtime/base/check.h"
#include "runtime/base/packed_layout.h"  // kPageBytes

namespace adapmoe {

ReadQueue::ReadQueue(const ReaderOptions& options)
    : prefetch_lanes_(std::max(1, options.depth / 2)),
      piece_bytes_(options.request_bytes == 0 ? SIZE_MAX
                                              : static_cast<size_t>(options.request_bytes)),
      progress_(options.progress) {
  ADAPMOE_CHECK(options.depth > 0);
  ADAPMOE_CHECK(options.request_bytes >= 0 && options.request_bytes % kPageBytes == 0);
}

void ReadQueue::push(const ReadRequest& request) {
  Jobs& jobs = request.priority == ReadPriority::kDemand ? demand_ : prefetch_;
  auto job = std::make_shared<Job>();
  job->request = request;
  jobs.push_back(std::move(job));
}

ReadQueue::Jobs::iterator ReadQueue::find_prefetch(uint64_t tag) {
  return std::find_if(prefetch_.begin(), prefetch_.end(),
                      [&](const auto& job) { return job->request.tag == tag; });
}

bool ReadQueue::cancel(uint64_t tag) {
  const auto it = find_prefetch(tag);
  if (it == prefetch_.end() || (*it)->begun > 0) return false;
  prefetch_.erase(it);
  return true;
}

bool ReadQueue::promote(uint64_t tag) {
  const auto it = find_prefetch(tag);
  if (it == prefetch_.end()) return false;
  (*it)->request.priority = ReadPriority::kDemand;
  demand_.push_back(*it);
  prefetch_.erase(it);
  return true;
}

std::optional<ReadQueue::Piece> ReadQueue::next() {
  if (!has_next()) return std::nullopt;
  Jobs& jobs = demand_.empty() ? prefetch_ : demand_;
  Piece piece{.part = jobs.front()->request, .job = jobs.front()};
  const size_t left = piece.part.into.size() - piece.job->begun;
  piece.part.offset += static_cast<int64_t>(piece.job->begun);
  piece.part.into = piece.part.into.subspan(piece.job->begun, std::min(left, piece_bytes_));
  piece.job->begun += piece.part.into.size();
  if (piece.part.into.size() == left) jobs.pop_front();
  prefetching_ += piece.part.priority == ReadPriority::kPrefetch ? 1 : 0;
  return piece;
}

void ReadQueue::finished(const Piece& piece) {
  if (progress_ != nullptr) ++*progress_;
  prefetching_ -= piece.part.priority == ReadPriority::kPrefetch ? 1 : 0;
}

std::optional<Status> ReadQueue::settle(const Piece& piece, const Status& status) {
  Job& job = *piece.job;
  if (job.status.ok()) job.status = status;
  job.settled += piece.part.into.size();
  if (job.settled < job.request.into.size()) return std::nullopt;
  return job.status;
}

}  // namespace adapmoe
