// SPDX-License-Identifier: Apache-2.0
// Runs every operator on the GPU, on memory that it shares with the CPU, where an expert's tiles
// are read where the disk put them, or on its own, where they are uploaded. Operators are queued on
// one stream; wait() is where the host may look. Uploads have a stream of their own.
#pragma once
#include <cuda_runtime.h>

#include <memory>
#include <span>
#include <string>

#include "runtime/backend/act_buffer.h"
#include "runtime/backend/backend.h"
#include "runtime/backend/cuda/copy_lane.h"
#include "runtime/backend/cuda/kernels.h"
#include "runtime/backend/cuda/parameter_ring.h"
#include "runtime/backend/cuda/step_graph.h"
#include "runtime/memory/bump.h"
#include "runtime/memory/unified_arena.h"

namespace adapmoe::cuda {

// kUnavailable: what failed, and CUDA's reason.
Status failed(std::string_view what, cudaError_t error);

class CudaBackend final : public Backend {
 public:
  // Takes the thread's current device. Errors: kUnavailable with CUDA's reason.
  static Result<std::unique_ptr<Backend>> make(const BackendShape& shape, bool integrated_only);
  ~CudaBackend() override;

  std::string_view name() const override { return name_; }
  int64_t scratch_bytes() const override;
  void set_scratch(std::span<std::byte> scratch) override;
  std::optional<int64_t> own_memory() const override;
  Status use_memory(std::span<std::byte> memory) override;
  Status share(std::span<std::byte> part) override { return memory_.share(part).status(); }
  bool pins_memory() const override { return true; }
  bool shares_memory() const override {
    return integrated_ && shape_.expert_path == ExpertPath::kW4A8;
  }
  Status upload(std::span<const std::byte> from, std::byte* to) override;
  Status download(const std::byte* from, std::span<std::byte> to) override;
  Status wait() override;
  void fetch_bytes(void* begin, int64_t bytes) override;
  void copy(const void* from, void* to, int64_t bytes) override;

  void embed(const Matrix& table, std::span<const int32_t> ids, Rows out) override;
  void rms_norm(const float* weight, Rows x, Rows y) override;
  void linear(Rows x, std::span<const LinearOp> ops) override;
  void attention(const AttentionOp& op) override;
  void add(Rows x, Rows into) override;
  void begin_experts(Rows x) override;
  void gate_up_proj(std::span<const ExpertOp> ops) override;
  void down_proj(std::span<const ExpertOp> ops, Rows out) override;
  void combine(const CombineOp& op) override;

  int64_t max_resident_rows() const override;
  void run_resident(const ResidentStep& step, const std::function<void()>& operators) override;
  void routed_experts(const RoutedOp& op) override;
  BackendCounts counts() const override { return {waits_, graphs_.replays()}; }
  std::string take_note() override;

 private:
  // Rows of one expert between its gate/up products and SwiGLU: bounds those products' memory.
  static constexpr int64_t kRowsAtOnce = 64;
  static constexpr int64_t kMostResidentRows = 16;

  // What a resident step's kernels find in memory rather than in their arguments: the host fills it
  // before the step.
  struct StepTables {
    const std::byte** tiles = nullptr;  // [layers][experts][tiles]
    KVPlace* kv = nullptr;              // [layers][rows]
    GateRule* rules = nullptr;          // [layers]
  };
  struct Scratch {
    ActBuffer input;         // of linear()
    ActBuffer expert_input;  // of begin_experts(), where quantized_experts()
    ActBuffer expert_act;    // [max_rows * top_k][intermediate]: silu(gate) * up
    float* gate = nullptr;   // [kRowsAtOnce][intermediate]
    float* up = nullptr;     // the same
    std::byte* parameters = nullptr;
    StepTables step;
    RoutedPlan plan;           // of one layer after the other
    AttentionParts attention;  // of attention_places() blocks of positions
  };
  // Of one ExpertOp, as the device finds them.
  struct ExpertParameters {
    const std::byte* const* tiles;
    const int32_t* rows;
  };

  CudaBackend(const BackendShape& shape, int device, bool integrated, cudaStream_t stream,
              CopyLane copies, std::string name)
      : shape_(shape),
        device_(device),
        integrated_(integrated),
        stream_(stream),
        copies_(std::move(copies)),
        name_(std::move(name)) {}

  Scratch layout(Bump& bump) const;
  StepTables layout_tables(Bump& bump) const;
  RoutedPlan layout_plan(Bump& bump) const;
  AttentionParts layout_attention(Bump& bump) const;
  int64_t attention_places() const;
  int64_t table_bytes() const;
  int64_t ring_bytes() const;
  bool quantized_experts() const {  // whether their activations are
    return is_quantized(shape_.tile.gate_proj.dtype) && shape_.expert_path == ExpertPath::kW4A8;
  }
  int64_t intermediate() const { return shape_.tiles * shape_.tile.gate_proj.rows; }
  // Of whatever was queued. The first error stays, and is what the next wait() returns.
  void note(cudaError_t error);
  template <typename T>
  T* device(T* p) const {
    return memory_.device(p);
  }
  // Waits where `bytes` of parameters do not fit beside those in use.
  void make_room(int64_t bytes);
  // Where the device finds a copy of `values`. After make_room() for all of one operator.
  template <typename T>
  const T* parameter(std::span<const T> values) {
    return shared(ring_.copy(values));
  }
  // Where the device finds `p`, which points into the ring or a table.
  template <typename T>
  const T* shared(const T* p) const {
    const auto* at = reinterpret_cast<const std::byte*>(p);
    return reinterpret_cast<const T*>(parameters_on_device_ + (at - scratch_.parameters));
  }
  const KVPlace* places_of(std::span<const KVRow> rows);
  ExpertParameters parameters_of(const ExpertOp& op);
  ActRows device_act(const ActRows& act) const;
  void quantize(Rows x, int64_t cols, int64_t group, ActBuffer& into);
  PackedPieces pieces(const PackedShape& shape, int64_t offset) const;
  ProductArgs gate_up_args(const std::byte* const* tiles, int64_t count, int64_t rows) const;
  SwigluArgs swiglu_args(int64_t first_output, int64_t first_tile, int64_t tiles,
                         int64_t rows) const;
  ProductArgs down_args(const std::byte* const* tiles, int64_t count, int64_t first_output,
                        int64_t first_tile, int64_t rows, Rows out) const;
  void gate_up(const ExpertOp& op, const ExpertParameters& at, int64_t first, int64_t rows);
  void fill_tables(const ResidentStep& step);
  void routed_products(const RoutedOp& op, const RoutedPlan& plan);

  BackendShape shape_;
  int device_;
  bool integrated_;  // the GPU uses the CPU's memory
  cudaStream_t stream_;
  CopyLane copies_;
  std::string name_;
  UnifiedArena memory_;
  Scratch scratch_;
  ParameterRing ring_;
  std::byte* parameters_on_device_ = nullptr;  // where the device finds scratch_.parameters
  ActRows expert_input_;                       // as the device finds it
  Status error_;
  bool idle_ = true;  // nothing has been queued since the last wait
  int64_t waits_ = 0;
  StepGraphs graphs_;
  bool resident_ = false;  // the operators of a resident step are being queued
  bool tables_in_use_ = false;
  uint64_t placement_ = 0;  // of the tiles in the table; 0: none
  bool told_ = false;       // that steps are not recorded
};

}  // namespace adapmoe::cuda
