// SPDX-License-Identifier: Apache-2.0
// What a session needs of the host's memory where the backend has memory of its own: places where
// tiles are read and checked before they are uploaded, the routers that prefetch looks at, and the
// rows that the host fetches.
#include <algorithm>
#include <utility>

#include "runtime/base/strings.h"
#include "runtime/engine/session_parts.h"
#include "runtime/io/staged_reader.h"

namespace adapmoe {
namespace {

// While a tile that has been read is checked and uploaded, its lane reads the next one.
constexpr int64_t kBeingUploaded = 2;

int64_t router_bytes(const ModelConfig& c) {
  return align_up(PackedShape{DType::kF32, c.num_local_experts, c.hidden_size, 16}.bytes(),
                  kPageBytes);
}

}  // namespace

int64_t Session::Parts::work_bytes() const {
  Bump count;
  Workspace::layout(count, pack->config(), std::max(config.prefill_chunk, config.max_sequences));
  return count.used();
}

// Of one tile. Plans have staging of their own; dense weights take one place in any case.
int64_t Session::Parts::staging_places() const {
  return plans ? 1 : config.read_depth + kBeingUploaded;
}

// Of `host`.
int64_t Session::Parts::staging_bytes() const {
  return staging_places() * split.tile_bytes +
         pack->config().num_hidden_layers * router_bytes(pack->config());
}

Status Session::Parts::check_host_memory(int64_t available) {
  if (!backend->own_memory()) return {};
  split.host_bytes = align_up(work_bytes(), kPageBytes) + staging_bytes() + engine_host_bytes();
  if (split.host_bytes <= available) return {};
  return budget_error(str_cat(
      "beside the GPU's memory ", format_bytes(split.host_bytes),
      " of the CPU's are needed for staging, and ", format_bytes(available),
      " are available (cgroup limit and MemAvailable); lower read_depth, or prefill_chunk"));
}

Status Session::Parts::make_staging() {
  if (!backend->own_memory()) return {};
  auto reserved = Arena::reserve(staging_bytes());
  if (!reserved.ok()) return reserved.status();
  host.emplace(std::move(reserved).value());
  ADAPMOE_RETURN_IF_ERROR(backend->share(host->first(staging_bytes())));
  for (int64_t i = 0; i < staging_places(); ++i) {
    staging.push_back(host->carve(split.tile_bytes));
  }
  return {};
}

// Where tiles are read into: their frames, or the staging places, which lie side by side.
FrameRegion Session::Parts::read_into(std::span<std::byte> frames) const {
  if (staging.empty()) return {frames, split.tile_bytes};
  const auto bytes = staging.size() * static_cast<size_t>(split.tile_bytes);
  return {{staging.front().data(), bytes}, split.tile_bytes};
}

std::unique_ptr<AsyncReader> Session::Parts::staged(std::unique_ptr<AsyncReader> reads) {
  if (staging.empty()) return reads;
  return std::make_unique<StagedReader>(std::move(reads), staging);
}

// The weights of a router where the host may read them.
Result<const float*> Session::Parts::on_host(const Matrix& router) {
  if (staging.empty()) return reinterpret_cast<const float*>(router.data);
  const std::span<std::byte> copy = host->carve(router.shape.bytes());
  ADAPMOE_RETURN_IF_ERROR(backend->download(router.data, copy));
  return reinterpret_cast<const float*>(copy.data());
}

}  // namespace adapmoe
