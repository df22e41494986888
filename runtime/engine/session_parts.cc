// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/session_parts.h"

#include <algorithm>
#include <utility>

#include "runtime/base/strings.h"
#include "runtime/base/usable_cpus.h"
#include "runtime/engine/backend_shape.h"
#include "runtime/memory/available_memory.h"
#include "runtime/prefetch/predictors.h"

namespace adapmoe {
namespace {

constexpr int64_t kDefaultContext = 4096;
constexpr int64_t kLargestRequest = int64_t{1} << 30;
constexpr double kAutoShare = 0.8;  // of the available memory

Status in_range(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return {};
  return invalid_argument(
      str_cat(name, "=", value, ": expected a value between ", low, " and ", high));
}

}  // namespace

Status check_floors(const std::vector<int64_t>& floors, const ModelConfig& model) {
  if (floors.empty() || static_cast<int64_t>(floors.size()) == model.num_hidden_layers) return {};
  return invalid_argument(
      str_cat("layer_floors: expected ", model.num_hidden_layers, " values, got ", floors.size()));
}

Status check_gating(const GatingConfig& gating, const ModelConfig& model) {
  if (!(gating.threshold >= 0.0F)) {
    return invalid_argument(str_cat("gating_threshold=", gating.threshold, ": expected 0 or more"));
  }
  if (gating.mode != GatingMode::kOff &&
      static_cast<int64_t>(gating.sensitivity.size()) != model.num_hidden_layers) {
    return invalid_argument(str_cat("gating needs one sensitivity per layer: expected ",
                                    model.num_hidden_layers, " values, got ",
                                    gating.sensitivity.size(),
                                    "; run adapmoe calibrate, or pass sensitivity="));
  }
  return {};
}

Status check_open(const Sequence& sequence) {
  if (sequence.kv_index >= 0) return {};
  return closed("the sequence is closed; make another with new_sequence()");
}

Status not_available(int64_t wanted, int64_t available) {
  return budget_error(str_cat("memory of ", format_bytes(wanted),
                              " is more than this process may take: ", format_bytes(available),
                              " are available (cgroup limit and MemAvailable); lower memory"));
}

Status not_on_device(int64_t wanted, int64_t available) {
  return budget_error(str_cat("memory of ", format_bytes(wanted),
                              " is more than the GPU has free: ", format_bytes(available),
                              "; lower memory, or end what else uses the GPU"));
}

Status Session::Parts::check_config() {
  const ModelConfig& c = pack->config();
  if (config.max_context == 0) {
    config.max_context = std::min(c.max_position_embeddings, kDefaultContext);
  }
  const int cpus = usable_cpus();
  if (config.threads == 0) config.threads = cpus;
  ADAPMOE_RETURN_IF_ERROR(in_range("memory", config.memory, 0, INT64_MAX));
  ADAPMOE_RETURN_IF_ERROR(in_range("threads", config.threads, 1, 1024));
  if (config.threads > cpus) {
    notes.push_back(str_cat("threads=", config.threads,
                            " is more than the cores that this process "
                            "may use (affinity and CPU quota), ",
                            cpus,
                            ": the threads wait for each other, and steps are slower, with many "
                            "threads by far; leave threads out, or lower it"));
  }
  ADAPMOE_RETURN_IF_ERROR(in_range("read_depth", config.read_depth, 1, 256));
  ADAPMOE_RETURN_IF_ERROR(in_range("request_bytes", config.request_bytes, 0, kLargestRequest));
  if (config.request_bytes % kPageBytes != 0) {
    return invalid_argument(
        str_cat("request_bytes=", config.request_bytes, ": expected a multiple of ", kPageBytes));
  }
  ADAPMOE_RETURN_IF_ERROR(
      in_range("max_context", config.max_context, 1, c.max_position_embeddings));
  ADAPMOE_RETURN_IF_ERROR(in_range("max_sequences", config.max_sequences, 1, 4096));
  ADAPMOE_RETURN_IF_ERROR(in_range("prefill_chunk", config.prefill_chunk, 1, 4096));
  if (!(config.experts_resident >= 0.0 && config.experts_resident <= 1.0)) {
    return invalid_argument(str_cat("experts_resident=", config.experts_resident,
                                    ": expected a value between 0 and 1"));
  }
  ADAPMOE_RETURN_IF_ERROR(in_range("prefetch", config.prefetch, 0, kMaxDepth));
  ADAPMOE_RETURN_IF_ERROR(check_floors(config.layer_floors, c));
  if (!config.first_layer_gate.empty() &&
      static_cast<int64_t>(config.first_layer_gate.size()) != c.num_local_experts * c.hidden_size) {
    return invalid_argument(str_cat("first_layer_gate: expected [", c.num_local_experts, ", ",
                                    c.hidden_size, "], got ", config.first_layer_gate.size(),
                                    " values"));
  }
  ADAPMOE_RETURN_IF_ERROR(check_arithmetic(config));
  return check_gating(config.gating, c);
}

Status Session::Parts::make_backend_and_split(const std::string& pack_dir,
                                              const std::string& name) {
  const ModelConfig& c = pack->config();
  const ExpertGeometry& e = pack->experts();
  const int64_t max_rows = std::max(config.prefill_chunk, config.max_sequences);
  const bool by_engines = config.arithmetic == "tensorrt";
  const auto path = by_engines ? Result<ExpertPath>(ExpertPath::kW4A8)
                               : choose_expert_path(config.arithmetic, config.exact, e.dtype);
  if (!path.ok()) return path.status();
  BackendShape shape = backend_shape(*pack, max_rows, config.kv_f16, path.value());
  shape.max_context = config.max_context;
  std::string note;
  auto made = make_backend(name, config.kernels, config.threads, shape, &note);
  if (!made.ok()) return made.status();
  backend = std::move(made).value();
  if (!note.empty()) notes.push_back(note);
  if (by_engines) ADAPMOE_RETURN_IF_ERROR(make_engines(pack_dir, shape));
  ADAPMOE_RETURN_IF_ERROR(make_expert_split(shape));

  const int64_t kv_bytes =
      align_up(KVCache::bytes(c, config.max_context, config.kv_f16), kPageBytes);
  if (kv_bytes > INT64_MAX / 2 / config.max_sequences) {
    return budget_error(str_cat(config.max_sequences, " KV caches of ", format_bytes(kv_bytes),
                                " each cannot be had; lower max_context or max_sequences"));
  }
  const int64_t split_scratch = expert_split == nullptr ? 0 : expert_split->cpu().scratch_bytes();
  needs = {.dense_bytes = pack->dense_bytes(),
           .kv_bytes = config.max_sequences * kv_bytes,
           .scratch_bytes = align_up(work_bytes(), kPageBytes) +
                            align_up(backend->scratch_bytes(), kPageBytes) + split_scratch +
                            engines.shared_bytes +
                            (backend->own_memory() ? 0 : engine_host_bytes()),
           .tile_bytes = tile_bytes(),
           .tiles_per_expert = tiles(),
           .top_k = c.router.top_k,
           .num_layers = c.num_hidden_layers,
           .num_experts = c.num_hidden_layers * c.num_local_experts};
  const int64_t host_available = available_memory("");
  const int64_t available = backend->own_memory().value_or(host_available);
  int64_t memory = config.memory;
  if (config.experts_resident > 0.0) {
    memory = memory_for_fraction(needs, config.experts_resident);
  } else if (memory == 0) {
    memory = static_cast<int64_t>(static_cast<double>(available) * kAutoShare);
  }
  auto result = split_memory(needs, memory);
  if (!result.ok()) return result.status();
  split = result.value();
  const int64_t reserved = split.reserved_bytes();
  if (backend->own_memory() && reserved > available) return not_on_device(reserved, available);
  if (reserved > available) return not_available(reserved, available);
  return check_host_memory(host_available);
}

// A CPU beside a GPU that uses its memory; both compute the same bits.
Status Session::Parts::make_expert_split(BackendShape shape) {
  expert_split.reset();
  if (!backend->shares_memory()) return {};
  shape.max_rows = std::min(shape.max_rows, ExpertSplit::kMaxRows);
  auto cpu = make_cpu_backend(config.kernels, config.threads, shape);
  if (!cpu.ok()) return cpu.status();
  expert_split = std::make_unique<ExpertSplit>(std::move(cpu).value());
  return {};
}

Status Session::Parts::reserve() {
  // Engines lie outside the arena: their frames, what they share, and plans on their way.
  const int64_t outside = engines.shared_bytes + (backend->own_memory() ? 0 : engine_host_bytes());
  const int64_t before_frames =
      align_up(split.dense_bytes + split.kv_bytes + split.scratch_bytes - outside, kPageBytes);
  const int64_t frame = plans ? 0 : split.tile_bytes;
  auto reserved = Arena::reserve(before_frames + split.frames_total *
                                                     frame);  // set_memory() may use them all later
  if (!reserved.ok()) return reserved.status();
  arena.emplace(std::move(reserved).value());
  frames_mapped = split.frames;
  ADAPMOE_RETURN_IF_ERROR(backend->use_memory(arena->first(before_frames + split.frames * frame)));
  return make_staging();
}

// Where the memory cannot be shared with the GPU that "auto" chose.
Status Session::Parts::fall_back_to_cpu(const Status& why) {
  backend.reset();
  arena.reset();
  ADAPMOE_RETURN_IF_ERROR(make_backend_and_split("", "cpu"));  // no engines: "auto" has none
  notes.push_back(str_cat(why.message(), "; running on ", backend->name()));
  return reserve();
}

Status Session::Parts::carve(const Interrupt& interrupt) {
  const ModelConfig& c = pack->config();
  auto weights = load_dense_weights(*pack, arena->carve(split.dense_bytes),
                                    staging.empty() ? std::span<std::byte>() : staging[0], *backend,
                                    config.verify != VerifyTiles::kNever, interrupt);
  if (!weights.ok()) return weights.status();
  dense = std::move(weights).value();
  for (int64_t i = 0; i < config.max_sequences; ++i) {
    kv.emplace_back(c, config.max_context, config.kv_f16,
                    arena->carve(KVCache::bytes(c, config.max_context, config.kv_f16)));
  }
  kv_in_use.assign(kv.size(), false);
  const std::span<std::byte> rows = arena->carve(work_bytes());
  ADAPMOE_RETURN_IF_ERROR(backend->share(rows));
  Bump bump(rows);
  work = Workspace::layout(bump, c, std::max(config.prefill_chunk, config.max_sequences));
  backend->set_scratch(arena->carve(backend->scratch_bytes()));
  if (expert_split != nullptr) {
    Backend& cpu = expert_split->cpu();
    cpu.set_scratch(arena->carve(cpu.scratch_bytes()));
  }

  return make_residency();
}

Status Session::Parts::make_residency() {
  const ModelConfig& c = pack->config();
  auto policy = make_eviction_policy(config.policy, c.num_hidden_layers);
  if (!policy.ok()) return policy.status();
  if (config.timeline) timeline = std::make_unique<Timeline>();
  auto region =
      plans ? engines.reserve(split.frames)
            : Result<std::span<std::byte>>(arena->carve(split.frames_total * split.tile_bytes));
  if (!region.ok()) return region.status();
  auto chosen = make_expert_reader(region.value());
  if (!chosen.ok()) return chosen.status();
  ExpertCacheConfig residency{.verify = plans ? VerifyTiles::kNever : config.verify,
                              .evict_tiles = config.evict_tiles,
                              .layer_floors = config.layer_floors,
                              .timeline = timeline.get(),
                              .tiles = tiles(),
                              .tile_read_bytes = plans ? plans->largest_bytes() : 0};
  if (!staging.empty() && !plans) {
    residency.land = [this](std::span<const std::byte> read, std::byte* frame) {
      return backend->upload(read, frame);
    };
  }
  experts = std::make_unique<ExpertCache>(
      *pack,
      FramePool(region.value(), split.tile_bytes, static_cast<int32_t>(split.frames),
                backend->pins_memory()),
      std::move(chosen).value(), std::move(policy).value(), std::move(residency));
  ADAPMOE_RETURN_IF_ERROR(make_prefetcher());
  latest.emplace(c.num_hidden_layers, c.num_local_experts);
  decoder = std::make_unique<Decoder>(
      MoeContext{c, *backend, *experts, config.gating, work, tiles(), prefetcher.get(),
                 timeline.get(), expert_split.get(), *latest, progress},
      dense);
  return {};
}

Status Session::Parts::make_prefetcher() {
  if (config.prefetch == 0) return {};
  const ModelConfig& c = pack->config();
  const int64_t top_k = c.router.top_k;
  std::vector<std::unique_ptr<ExpertPredictor>> predictors;
  std::vector<ScoreMap> routers;
  routers.reserve(dense.layers.size());
  for (const LayerWeights& layer : dense.layers) {
    const auto weights = on_host(layer.router);
    if (!weights.ok()) return weights.status();
    routers.push_back({weights.value(), c.num_local_experts, layer.router.shape.cols_padded()});
  }
  if (config.first_layer_embedding) {
    predictors.push_back(make_embedding_predictor(routers[0], top_k));
  }
  predictors.push_back(make_lookahead_predictor(std::move(routers), top_k));
  if (!config.first_layer_gate.empty()) {
    const PackedShape shape{DType::kF32, c.num_local_experts, c.hidden_size, 16};
    const int64_t cols = shape.cols_padded();
    std::vector<float> gate(static_cast<size_t>(shape.rows_padded() * cols), 0.0F);
    for (int64_t e = 0; e < c.num_local_experts; ++e) {
      for (int64_t k = 0; k < c.hidden_size; ++k) {
        gate[static_cast<size_t>((e / kBlockRows * cols + k) * kBlockRows + e % kBlockRows)] =
            config.first_layer_gate[static_cast<size_t>(e * c.hidden_size + k)];
      }
    }
    predictors.push_back(
        make_first_layer_predictor(std::move(gate), c.num_local_experts, cols, top_k));
  }
  prefetcher = std::make_unique<Prefetcher>(*experts, std::move(predictors),
                                            PrefetchConfig{config.prefetch, config.prefetch_trials},
                                            c.num_hidden_layers);
  return {};
}

void Session::Parts::read_the_rest() const {
  if (backend->max_resident_rows() == 0 || !split.everything_fits() || experts->nothing_missing())
    return;
  for (int32_t layer = 0; layer < static_cast<int32_t>(pack->config().num_hidden_layers); ++layer) {
    for (int32_t e = 0; e < static_cast<int32_t>(pack->config().num_local_experts); ++e) {
      if (!experts->placed({layer, e})) experts->warm({layer, e});
    }
  }
}

Result<std::unique_ptr<Session::Parts>> Session::Parts::build(const std::string& pack_dir,
                                                              SessionConfig config,
                                                              const Interrupt& interrupt) {
  auto parts = std::make_unique<Parts>();
  parts->config = std::move(config);
  auto pack = Pack::open(pack_dir, parts->config.direct_io);
  if (!pack.ok()) return pack.status();
  parts->pack.emplace(std::move(pack).value());
  ADAPMOE_RETURN_IF_ERROR(parts->check_config());
  ADAPMOE_RETURN_IF_ERROR(parts->make_backend_and_split(pack_dir, parts->config.backend));
  Status reserved = parts->reserve();
  if (reserved.code() == StatusCode::kUnavailable && parts->config.backend == "auto") {
    reserved = parts->fall_back_to_cpu(reserved);
  }
  ADAPMOE_RETURN_IF_ERROR(reserved);
  ADAPMOE_RETURN_IF_ERROR(parts->carve(interrupt));
  if (parts->config.direct_io && !parts->pack->expert_file().direct()) {
    parts->notes.push_back(
        str_cat("O_DIRECT is refused for ", parts->pack->expert_file().path(),
                "; reading through the page cache, which is not counted in memory"));
  }
  if (parts->split.below_one_cycle()) {
    parts->notes.push_back(str_cat("experts get ", format_bytes(parts->split.expert_bytes),
                                   ", less than one token's experts, ",
                                   format_bytes(parts->split.cycle_bytes), ": expect few hits"));
  }
  return parts;
}

}  // namespace adapmoe
