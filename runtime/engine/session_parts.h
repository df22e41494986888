// SPDX-License-Identifier: Apache-2.0
// What a session is made of, in order of construction.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/backend/expert_engines.h"
#include "runtime/engine/record_experts.h"
#include "runtime/engine/session.h"
#include "runtime/memory/arena.h"
#include "runtime/model/decoder.h"
#include "runtime/model/kv_cache.h"
#include "runtime/store/engine_store.h"

namespace adapmoe {

// Errors: kInvalidArgument naming the setting.
Status check_floors(const std::vector<int64_t>& floors, const ModelConfig& model);
Status check_arithmetic(const SessionConfig& config);
Status check_gating(const GatingConfig& gating, const ModelConfig& model);

// Errors: kClosed, where `sequence` is.
Status check_open(const Sequence& sequence);

// Errors: kBudgetError saying that `wanted` bytes cannot be had.
Status not_available(int64_t wanted, int64_t available);
// The same of the GPU's own memory.
Status not_on_device(int64_t wanted, int64_t available);

struct Session::Parts {
  // Errors: see Session::open().
  static Result<std::unique_ptr<Parts>> build(const std::string& pack_dir, SessionConfig config,
                                              const Interrupt& interrupt);

  SessionConfig config;
  std::vector<std::string> notes;
  std::string reader;  // the one in use: "io_uring" or "pread"
  std::optional<Pack> pack;
  std::optional<EngineStore> plans;  // empty: experts are the pack's records
  std::optional<Arena> engine_host;  // host memory of engines: plans, and of record_experts
  MemoryNeeds needs;
  MemorySplit split;
  int64_t frames_mapped = 0;  // that the backend was told of
  std::optional<Arena> arena;
  // Where the backend has memory of its own: what the host needs beside the arena, whose addresses
  // then only name places on the device (engine/session_staging.cc).
  std::optional<Arena> host;
  std::vector<std::span<std::byte>> staging;    // in it, one tile each; else empty
  std::unique_ptr<Backend> backend;             // uses both until its end
  ExpertEngines engines;                        // of `backend`, where there are plans
  std::optional<RecordExperts> record_experts;  // for experts that have none
  DenseWeights dense;
  std::vector<KVCache> kv;
  std::vector<bool> kv_in_use;
  Workspace work;
  std::unique_ptr<Timeline> timeline;  // null: not recorded
  std::optional<LatestRouting> latest;
  Progress progress = 0;
  std::unique_ptr<ExpertCache> experts;
  std::unique_ptr<Prefetcher> prefetcher;     // null: off
  std::unique_ptr<ExpertSplit> expert_split;  // null: the backend computes every expert
  std::unique_ptr<Decoder> decoder;
  bool tracing = false;
  std::vector<TraceVisit> trace;
  int64_t passes = 0;  // over the layers, since open

  // For a backend that routes by itself once every expert is resident: where all of them fit,
  // begins to read those that no token has needed yet.
  void read_the_rest() const;

  // Of what is reserved, how much takes memory already. Engines, outside the arena, do so whole.
  int64_t held_bytes() const { return plans ? split.reserved_bytes() : arena->resident_bytes(); }

  Step make_step(const Interrupt& interrupt) {
    return {.interrupt = interrupt, .trace = tracing ? &trace : nullptr, .pass = passes};
  }

 private:
  Status check_config();
  Status make_backend_and_split(const std::string& pack_dir, const std::string& name);
  Status make_engines(const std::string& pack_dir, const BackendShape& shape);
  Status reserve();
  Status fall_back_to_cpu(const Status& why);
  Status make_expert_split(BackendShape shape);
  Status carve(const Interrupt& interrupt);
  Status make_residency();
  Result<std::unique_ptr<AsyncReader>> make_expert_reader(std::span<std::byte> frames);
  // Of an expert, and what they take.
  int64_t tiles() const { return plans ? 1 : pack->experts().tiles; }
  int64_t tile_bytes() const { return plans ? engines.frame_bytes : pack->experts().tile_bytes; }
  int64_t plan_staging_bytes() const;  // of plans that are read
  int64_t engine_host_bytes() const;   // that engines need of the host
  Status make_prefetcher();

  int64_t work_bytes() const;
  int64_t staging_places() const;
  int64_t staging_bytes() const;
  Status check_host_memory(int64_t available);
  Status make_staging();
  FrameRegion read_into(std::span<std::byte> frames) const;
  std::unique_ptr<AsyncReader> staged(std::unique_ptr<AsyncReader> reads);
  Result<const float*> on_host(const Matrix& router);
};

}  // namespace adapmoe
