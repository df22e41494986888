// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/expert_bench.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>

#include "runtime/engine/backend_shape.h"

namespace adapmoe {

Result<ExpertBench> ExpertBench::make(const Pack& pack, std::span<const ExpertId> ids,
                                      int64_t max_rows, const std::string& backend,
                                      ExpertPath path) {
  std::string note;
  auto made = make_backend(backend, "auto", /*threads=*/1,
                           backend_shape(pack, max_rows, /*kv_f16=*/true, path), &note);
  if (!made.ok()) return made.status();
  const int64_t stride = align_up(pack.config().hidden_size, 128);
  const int64_t rows_bytes = align_up(max_rows * stride * 4, kPageBytes);
  const int64_t scratch = align_up(made.value()->scratch_bytes(), kPageBytes);
  const auto experts = static_cast<int64_t>(ids.size());
  auto arena = Arena::reserve(scratch + 2 * rows_bytes + experts * pack.experts().expert_bytes);
  if (!arena.ok()) return arena.status();
  const std::span<std::byte> memory = arena.value().first(arena.value().remaining());
  ADAPMOE_RETURN_IF_ERROR(made.value()->use_memory(memory));

  ExpertBench bench(std::move(arena).value(), std::move(made).value());
  bench.backend_->set_scratch(bench.arena_.carve(bench.backend_->scratch_bytes()));
  const std::span<std::byte> written = memory.subspan(static_cast<size_t>(scratch));
  ADAPMOE_RETURN_IF_ERROR(bench.backend_->share(written));
  for (Rows* rows : {&bench.input_, &bench.output_}) {
    *rows = {reinterpret_cast<float*>(bench.arena_.carve(rows_bytes).data()), max_rows, stride};
  }
  bench.row_index_.resize(static_cast<size_t>(max_rows));
  std::iota(bench.row_index_.begin(), bench.row_index_.end(), 0);
  for (const ExpertId id : ids) {
    std::vector<const std::byte*>& tiles = bench.tiles_.emplace_back();
    tiles.reserve(static_cast<size_t>(pack.experts().tiles));
    for (int64_t tile = 0; tile < pack.experts().tiles; ++tile) {
      const std::span<std::byte> into = bench.arena_.carve(pack.experts().tile_bytes);
      ADAPMOE_RETURN_IF_ERROR(pack.expert_file().read_at(pack.tile_offset(id, tile), into));
      ADAPMOE_RETURN_IF_ERROR(bench.send(into));
      tiles.push_back(into.data());
    }
  }
  return bench;
}

// To where a device with memory of its own finds what the host has at the same address.
Status ExpertBench::send(std::span<const std::byte> bytes) {
  if (!backend_->own_memory()) return {};
  return backend_->upload(bytes, const_cast<std::byte*>(bytes.data()));
}

Status ExpertBench::send_input() {
  const auto values = static_cast<size_t>(input_.rows * input_.stride);
  return send(std::as_bytes(std::span(input_.data, values)));
}

Status ExpertBench::run(size_t index, int64_t rows) {
  const ExpertOp op{tiles_[index], 0, {row_index_.data(), static_cast<size_t>(rows)}, 0};
  backend_->begin_experts(input_.first(rows));
  backend_->gate_up_proj(std::span(&op, 1));
  backend_->down_proj(std::span(&op, 1), output_);
  backend_->fetch(output_.first(rows));
  return backend_->wait();
}

Result<double> time_expert(const Pack& pack, const std::string& backend, ExpertPath path) {
  constexpr int kRounds = 7;
  std::vector<ExpertId> ids;
  const int32_t top_k = pack.config().router.top_k;
  ids.reserve(static_cast<size_t>(top_k));
  for (int32_t expert = 0; expert < top_k; ++expert) ids.push_back({0, expert});
  auto bench = ExpertBench::make(pack, ids, /*max_rows=*/1, backend, path);
  if (!bench.ok()) return bench.status();
  const Rows x = bench.value().input();
  for (int64_t k = 0; k < pack.config().hidden_size; ++k) {
    x.row(0)[k] = static_cast<float>(k % 7 - 3);  // the time does not depend on values
  }
  ADAPMOE_RETURN_IF_ERROR(bench.value().send_input());
  std::vector<double> seconds;
  for (int round = 0; round <= kRounds; ++round) {
    const auto began = std::chrono::steady_clock::now();
    for (size_t i = 0; i < ids.size(); ++i) ADAPMOE_RETURN_IF_ERROR(bench.value().run(i, 1));
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    if (round > 0) seconds.push_back(took.count() / static_cast<double>(ids.size()));
  }
  std::nth_element(seconds.begin(), seconds.begin() + kRounds / 2, seconds.end());
  return seconds[kRounds / 2];
}

}  // namespace adapmoe
