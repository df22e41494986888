// SPDX-License-Identifier: Apache-2.0
#include "runtime/residency/expert_stream.h"

#include <algorithm>
#include <utility>

#include "runtime/base/check.h"

namespace adapmoe {

Result<ExpertStream> ExpertStream::begin(ExpertCache& cache, int32_t layer,
                                         std::span<const int32_t> experts,
                                         const Interrupt& interrupt) {
  ExpertStream stream(cache, layer);
  for (const int32_t expert : experts) {
    const ExpertId id{layer, expert};
    if (!cache.resident(id)) {
      stream.waiting_.push_back(expert);
      continue;
    }
    auto handle = cache.acquire(id, interrupt);
    if (!handle.ok()) return handle.status();
    ADAPMOE_CHECK(handle.value().has_value());  // needs no frame
    stream.residents_.push_back(*std::move(handle.value()));
  }
  // Held before the others ask for frames, what was read ahead for this layer does not give way.
  std::stable_partition(stream.waiting_.begin(), stream.waiting_.end(),
                        [&](int32_t expert) { return cache.placed({layer, expert}); });
  ADAPMOE_RETURN_IF_ERROR(stream.start_reads(interrupt));
  return stream;
}

Status ExpertStream::start_reads(const Interrupt& interrupt) {
  while (!waiting_.empty()) {
    auto handle = cache_->acquire({layer_, waiting_.front()}, interrupt);
    if (!handle.ok()) return handle.status();
    if (!handle.value().has_value()) return {};
    under_way_.push_back(*std::move(handle.value()));
    waiting_.pop_front();
  }
  return {};
}

Result<std::optional<ExpertHandle>> ExpertStream::next(const Interrupt& interrupt) {
  ADAPMOE_RETURN_IF_ERROR(start_reads(interrupt));
  if (under_way_.empty()) {
    ADAPMOE_CHECK(waiting_.empty());  // the floor leaves frames for one expert when none is held
    return std::optional<ExpertHandle>();
  }
  std::optional<ExpertHandle> handle(std::move(under_way_.front()));
  under_way_.pop_front();
  return handle;
}

}  // namespace adapmoe
