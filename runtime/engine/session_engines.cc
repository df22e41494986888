// SPDX-License-Identifier: Apache-2.0
// How experts come to a session: as records of the pack, or as TensorRT engines of its sidecar,
// which are records of ExpertCache as well. A plan is read into staging memory, checked, and made
// an engine in the frame that the cache chose.
#include <algorithm>
#include <memory>
#include <string_view>

#include "runtime/base/strings.h"
#include "runtime/engine/session_parts.h"
#include "runtime/io/file_record_reader.h"
#include "runtime/store/plan_checker.h"

namespace adapmoe {
namespace {

constexpr int kPlansAtOnce = 2;  // one is read while another becomes an engine

}  // namespace

Status check_arithmetic(const SessionConfig& config) {
  constexpr std::string_view kNames[] = {"auto", "w4a8", "w4a16", "tensorrt"};
  if (std::find(std::begin(kNames), std::end(kNames), config.arithmetic) == std::end(kNames)) {
    return invalid_argument(str_cat("arithmetic=\"", config.arithmetic,
                                    "\": expected one of auto, w4a8, w4a16, tensorrt"));
  }
  if (config.arithmetic != "tensorrt") return {};  // see choose_expert_path()
  if (config.backend != "cuda") {
    return invalid_argument(
        str_cat("arithmetic=\"tensorrt\" is a way of the GPU backend, not of backend=\"",
                config.backend, "\"; use backend=\"cuda\" or arithmetic=\"auto\""));
  }
  if (config.exact) {
    return invalid_argument(
        "arithmetic=\"tensorrt\" computes with fp16 activations and does not give the bits of the "
        "CPU; allow that with exact=False, or use arithmetic=\"w4a8\"");
  }
  return {};
}

Status Session::Parts::make_engines(const std::string& pack_dir, const BackendShape& shape) {
  auto device = engine_target();
  if (!device.ok()) return device.status();
  auto opened = EngineStore::open(pack_dir, pack->config(), device.value(), config.direct_io);
  if (!opened.ok()) return opened.status();
  plans.emplace(std::move(opened).value());
  auto largest = plans->read_largest();
  if (!largest.ok()) return largest.status();
  auto cpu = make_cpu_backend(config.kernels, config.threads, shape);
  if (!cpu.ok()) return cpu.status();
  record_experts.emplace(*pack, std::move(cpu).value());
  const auto cpu_fallback = [this](uint64_t expert, Rows x, std::span<const int32_t> rows,
                                   int64_t first_output, Rows out) {
    const int64_t per_layer = pack->config().num_local_experts;
    const auto number = static_cast<int64_t>(expert);
    return record_experts->run(
        {static_cast<int32_t>(number / per_layer), static_cast<int32_t>(number % per_layer)}, x,
        rows, first_output, out);
  };
  auto made = make_expert_engines(std::move(backend), shape,
                                  {plans->version(), plans->built_by(), plans->rebuild()},
                                  largest.value(), cpu_fallback);
  if (!made.ok()) return made.status();
  engines = std::move(made).value();
  backend = std::move(engines.backend);
  return {};
}

int64_t Session::Parts::plan_staging_bytes() const {
  return plans ? kPlansAtOnce * align_up(plans->largest_bytes(), kPageBytes) : 0;
}

int64_t Session::Parts::engine_host_bytes() const {
  return plans ? plan_staging_bytes() + engines.host_bytes + record_experts->bytes() : 0;
}

Result<std::unique_ptr<AsyncReader>> Session::Parts::make_expert_reader(
    std::span<std::byte> frames) {
  const File& file = plans ? plans->file(0) : pack->expert_file();
  if (plans) {
    auto reserved = Arena::reserve(plan_staging_bytes() + record_experts->bytes());
    if (!reserved.ok()) return reserved.status();
    engine_host.emplace(std::move(reserved).value());
    record_experts->use_memory(engine_host->carve(record_experts->bytes()));
  }
  const std::span<std::byte> places =
      plans ? engine_host->carve(plan_staging_bytes()) : std::span<std::byte>();
  auto chosen =
      make_reader(config.reader, file,
                  {.depth = plans ? std::max(kPlansAtOnce, config.read_depth) : config.read_depth,
                   .request_bytes = config.request_bytes,
                   .timeline = timeline.get(),
                   .progress = &progress,
                   .frames = plans ? FrameRegion{places, plan_staging_bytes() / kPlansAtOnce}
                                   : read_into(frames),
                   .register_frames = config.register_buffers});
  if (!chosen.ok()) return chosen.status();
  reader = chosen.value().name;
  if (!chosen.value().note.empty()) notes.push_back(chosen.value().note);
  if (!plans) return staged(std::move(chosen.value().reader));
  const auto checker = std::make_shared<PlanChecker>(*plans, config.verify == VerifyTiles::kAlways);
  const auto place = [this, checker](uint64_t expert, std::span<const std::byte> plan,
                                     std::span<std::byte> frame) -> Status {
    Status made = checker->check(expert, plan);
    if (made.ok()) {
      made = engines.place(expert, plan, frame.data());
      if (made.code() == StatusCode::kEngineError) made = plans->refused(expert, made.message());
    }
    if (made.code() != StatusCode::kEngineError) return made;
    engines.fall_back(expert, frame.data(), made.message());  // and the session goes on
    return {};
  };
  return make_file_record_reader(
      std::move(chosen.value().reader), places, kPlansAtOnce,
      {.file = [this](uint64_t expert) -> const File& { return plans->file(expert); },
       .place = place});
}

}  // namespace adapmoe
