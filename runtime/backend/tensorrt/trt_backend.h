// SPDX-License-Identifier: Apache-2.0
// Runs experts by their engines on a stream of its own, and hands everything else to the GPU
// backend that it owns. The host rounds an expert's input rows to fp16, at most kEngineRows at a
// time, in memory that both see, and turns results back into floats in wait(), when the engines
// have finished. An expert whose engine cannot be had is computed by someone else.
#pragma once
#include <cuda_runtime.h>

#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/backend/expert_engines.h"
#include "runtime/backend/tensorrt/engine_memory.h"
#include "runtime/memory/arena.h"

namespace adapmoe::tensorrt {

class TrtBackend final : public Backend {
 public:
  // Makes an engine of `largest` in memory of its own, once, to measure. Errors: see
  // make_expert_engines().
  static Result<std::unique_ptr<TrtBackend>> make(std::unique_ptr<Backend> cuda,
                                                  const BackendShape& shape,
                                                  const TrtAdapter* adapter,
                                                  std::span<const std::byte> largest,
                                                  CpuFallback cpu_fallback);
  ~TrtBackend() override;

  int64_t frame_bytes() const { return frame_bytes_; }
  int64_t shared_bytes() const { return scratch_bytes_; }
  int64_t host_bytes() const { return rows_bytes(); }
  // See ExpertEngines.
  Result<std::span<std::byte>> reserve(int64_t frames);
  Status place(uint64_t expert, std::span<const std::byte> plan, std::byte* frame);
  void fall_back(uint64_t expert, std::byte* frame, const std::string& why);

  std::string_view name() const override { return name_; }
  int64_t scratch_bytes() const override { return cuda_->scratch_bytes(); }
  void set_scratch(std::span<std::byte> scratch) override { cuda_->set_scratch(scratch); }
  std::optional<int64_t> own_memory() const override { return cuda_->own_memory(); }
  Status use_memory(std::span<std::byte> memory) override { return cuda_->use_memory(memory); }
  Status share(std::span<std::byte> part) override { return cuda_->share(part); }
  Status upload(std::span<const std::byte> from, std::byte* to) override {
    return cuda_->upload(from, to);
  }
  Status download(const std::byte* from, std::span<std::byte> to) override {
    return cuda_->download(from, to);
  }
  bool pins_memory() const override { return true; }
  Status wait() override;
  void fetch_bytes(void* begin, int64_t bytes) override { cuda_->fetch_bytes(begin, bytes); }
  BackendCounts counts() const override;
  std::string take_note() override;
  void copy(const void* from, void* to, int64_t bytes) override { cuda_->copy(from, to, bytes); }

  void embed(const Matrix& table, std::span<const int32_t> ids, Rows out) override;
  void rms_norm(const float* weight, Rows x, Rows y) override { cuda_->rms_norm(weight, x, y); }
  void linear(Rows x, std::span<const LinearOp> ops) override { cuda_->linear(x, ops); }
  void attention(const AttentionOp& op) override { cuda_->attention(op); }
  void add(Rows x, Rows into) override { cuda_->add(x, into); }
  void combine(const CombineOp& op) override { cuda_->combine(op); }
  void begin_experts(Rows x) override;
  void gate_up_proj(std::span<const ExpertOp> /*ops*/) override {}  // down_proj() runs the expert
  void down_proj(std::span<const ExpertOp> ops, Rows out) override;

 private:
  static constexpr int64_t kChunks = 8;  // engine runs queued at most between two waits

  // One place of device memory and the engine in it.
  struct Slot {
    std::byte* place = nullptr;
    EngineMemory memory;
    TrtEngine* engine = nullptr;  // null: the expert has to do without
    uint64_t expert = 0;
  };
  // A result that is fp16, or on the host only.
  struct Pending {
    const uint16_t* y;  // null: it is there, as floats
    Rows into;
  };

  TrtBackend(std::unique_ptr<Backend> cuda, const BackendShape& shape, const TrtAdapter* adapter,
             CpuFallback cpu_fallback);
  Status measure(std::span<const std::byte> plan);
  TrtEngine* deserialise(std::span<const std::byte> plan, EngineMemory& memory,
                         int64_t* scratch_bytes) const;
  Slot& slot_of(const std::byte* frame);
  int64_t chunk_values() const;  // of x or y of one run
  int64_t rows_bytes() const;
  Status reserve_rows();
  Result<std::byte*> allocate(int64_t bytes);
  void remove_engine(Slot& slot);
  bool run(const ExpertOp& op, int64_t first, int64_t rows, Rows out);
  void run_on_cpu(const ExpertOp& op, int64_t first, Rows out);
  void drain();
  void note(const Status& status);
  void note(cudaError_t error);

  std::unique_ptr<Backend> cuda_;
  const TrtAdapter* adapter_;
  TrtExpertShape shape_;
  bool own_memory_;  // of the device: the host's rows are copies
  std::string name_;
  int device_ = 0;
  cudaStream_t stream_ = nullptr;
  int64_t frame_bytes_ = 0;
  int64_t scratch_bytes_ = 0;  // of the engines

  std::vector<std::byte*> device_memory_;  // every allocation
  std::byte* scratch_ = nullptr;           // in the first one, shared by all engines
  std::optional<Arena> names_;             // of frames: addresses without memory
  std::vector<Slot> slots_;                // one for each frame
  uint16_t* rows_ = nullptr;               // [kChunks][x, y][chunk_values()], fp16
  void* rows_of_device_ = nullptr;         // where the device finds them
  std::vector<Pending> pending_;
  CpuFallback cpu_fallback_;
  int64_t on_cpu_ = 0;
  std::mutex note_mutex_;
  std::string note_;          // not taken yet
  std::set<uint64_t> noted_;  // experts
  Rows expert_input_;
  Status error_;  // the first since the last wait()
};

}  // namespace adapmoe::tensorrt
