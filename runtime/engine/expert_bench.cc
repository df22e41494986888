// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/expert_bench.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <numeric>
#include <utility>

#include "runtime/engine/backend_shape.h"
#include "runtime/store/engine_store.h"

namespace adapmoe {
namespace {

constexpr int kThreads = 1;  // of CPU kernels

Result<std::unique_ptr<Backend>> backend_for(const Pack& pack, int64_t max_rows,
                                             const std::string& backend, ExpertPath path) {
  std::string note;
  return make_backend(backend, "auto", kThreads,
                      backend_shape(pack, max_rows, /*kv_f16=*/true, path), &note);
}

// Those that one token uses in a layer.
std::vector<ExpertId> some_experts(const Pack& pack) {
  std::vector<ExpertId> ids;
  const int32_t top_k = pack.config().router.top_k;
  ids.reserve(static_cast<size_t>(top_k));
  for (int32_t expert = 0; expert < top_k; ++expert) ids.push_back({0, expert});
  return ids;
}

}  // namespace

Result<ExpertBench> ExpertBench::make_empty(const Pack& pack, std::unique_ptr<Backend> backend,
                                            int64_t max_rows, int64_t expert_bytes) {
  const int64_t stride = align_up(pack.config().hidden_size, 128);
  const int64_t rows_bytes = align_up(max_rows * stride * 4, kPageBytes);
  const int64_t scratch = align_up(backend->scratch_bytes(), kPageBytes);
  auto arena = Arena::reserve(scratch + 2 * rows_bytes + expert_bytes);
  if (!arena.ok()) return arena.status();
  ExpertBench bench(std::move(arena).value(), std::move(backend));
  Backend& device = *bench.backend_;
  ADAPMOE_RETURN_IF_ERROR(device.use_memory(bench.arena_.first(bench.arena_.remaining())));
  device.set_scratch(bench.arena_.carve(device.scratch_bytes()));
  const std::span<std::byte> rows = bench.arena_.carve(2 * rows_bytes);
  const auto written = static_cast<size_t>(2 * rows_bytes + bench.arena_.remaining());
  ADAPMOE_RETURN_IF_ERROR(device.share({rows.data(), written}));
  const auto rows_at = [&](int64_t offset) {
    return Rows{reinterpret_cast<float*>(rows.data() + offset), max_rows, stride};
  };
  bench.input_ = rows_at(0);
  bench.output_ = rows_at(rows_bytes);
  bench.row_index_.resize(static_cast<size_t>(max_rows));
  std::iota(bench.row_index_.begin(), bench.row_index_.end(), 0);
  return bench;
}

Status ExpertBench::read_tiles(const Pack& pack, ExpertId id) {
  std::vector<const std::byte*>& tiles = tiles_.emplace_back();
  tiles.reserve(static_cast<size_t>(pack.experts().tiles));
  for (int64_t tile = 0; tile < pack.experts().tiles; ++tile) {
    const std::span<std::byte> frame = arena_.carve(pack.experts().tile_bytes);
    ADAPMOE_RETURN_IF_ERROR(pack.expert_file().read_at(pack.tile_offset(id, tile), frame));
    ADAPMOE_RETURN_IF_ERROR(send(frame));
    tiles.push_back(frame.data());
  }
  return {};
}

Result<ExpertBench> ExpertBench::make(const Pack& pack, std::span<const ExpertId> ids,
                                      int64_t max_rows, const std::string& backend,
                                      ExpertPath path) {
  auto made = backend_for(pack, max_rows, backend, path);
  if (!made.ok()) return made.status();
  const auto experts = static_cast<int64_t>(ids.size());
  auto bench =
      make_empty(pack, std::move(made).value(), max_rows, experts * pack.experts().expert_bytes);
  if (!bench.ok()) return bench;
  for (const ExpertId id : ids) ADAPMOE_RETURN_IF_ERROR(bench.value().read_tiles(pack, id));
  return bench;
}

Result<ExpertBench> ExpertBench::make_of_engines(const Pack& pack, const std::string& pack_dir,
                                                 std::span<const ExpertId> ids, int64_t max_rows) {
  auto target = engine_target();
  if (!target.ok()) return target.status();
  auto store = EngineStore::open(pack_dir, pack.config(), target.value(), /*direct_io=*/false);
  if (!store.ok()) return store.status();
  const EngineStore& plans = store.value();
  auto largest = plans.read_largest();
  if (!largest.ok()) return largest.status();
  auto cuda = backend_for(pack, max_rows, "cuda", ExpertPath::kW4A8);
  if (!cuda.ok()) return cuda.status();
  const auto cpu_fallback = [](uint64_t, Rows, std::span<const int32_t>, int64_t, Rows) {
    return unavailable("the engine cannot run");
  };
  auto engines = make_expert_engines(
      std::move(cuda).value(), backend_shape(pack, max_rows, true, ExpertPath::kW4A8),
      {plans.version(), plans.built_by(), plans.rebuild()}, largest.value(), cpu_fallback);
  if (!engines.ok()) return engines.status();
  auto frames = engines.value().reserve(static_cast<int64_t>(ids.size()));
  if (!frames.ok()) return frames.status();
  auto bench = make_empty(pack, std::move(engines.value().backend), max_rows, 0);
  if (!bench.ok()) return bench;
  for (const ExpertId id : ids) {
    const auto number = static_cast<size_t>(id.layer * pack.config().num_local_experts + id.expert);
    auto plan = plans.read(number);
    if (!plan.ok()) return plan.status();
    std::byte* frame = frames.value().data() + static_cast<int64_t>(bench.value().tiles_.size()) *
                                                   engines.value().frame_bytes;
    ADAPMOE_RETURN_IF_ERROR(engines.value().place(number, plan.value(), frame));
    bench.value().tiles_.push_back({frame});
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

Result<double> time_expert(const std::string& pack_dir, const std::string& backend,
                           const std::string& experts) {
  constexpr int kRounds = 7;
  const auto opened = Pack::open(pack_dir, /*direct_io=*/true);
  if (!opened.ok()) return opened.status();
  const Pack& pack = opened.value();
  const std::vector<ExpertId> ids = some_experts(pack);
  const bool by_engines = experts == "tensorrt";
  const auto path = by_engines ? Result<ExpertPath>(ExpertPath::kW4A8)
                               : choose_expert_path(experts, /*exact=*/false, pack.experts().dtype);
  if (!path.ok()) return path.status();
  auto bench = by_engines ? ExpertBench::make_of_engines(pack, pack_dir, ids, /*max_rows=*/1)
                          : ExpertBench::make(pack, ids, /*max_rows=*/1, backend, path.value());
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

Result<RunnablePaths> runnable_expert_paths(const std::string& pack_dir,
                                            const std::string& backend) {
  const auto pack = Pack::open(pack_dir, /*direct_io=*/false);
  if (!pack.ok()) return pack.status();
  RunnablePaths paths;
  paths.names.emplace_back("w4a8");
  const bool quantized = is_quantized(pack.value().experts().dtype);
  if (quantized && backend_for(pack.value(), 1, backend, ExpertPath::kW4A16).ok()) {
    paths.names.emplace_back("w4a16");
  }
  std::error_code error;  // no folder: no engines
  if (!std::filesystem::exists(pack_dir + "/engines", error)) return paths;
  const auto exact = backend_for(pack.value(), 1, backend, ExpertPath::kW4A8);
  if (!exact.ok() || !exact.value()->name().starts_with("cuda")) return paths;
  const auto engines =
      ExpertBench::make_of_engines(pack.value(), pack_dir, some_experts(pack.value()), 1);
  if (engines.ok()) {
    paths.names.emplace_back("tensorrt");
  } else {
    paths.without_engines = engines.status().message();
  }
  return paths;
}

}  // namespace adapmoe
