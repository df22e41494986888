// SPDX-License-Identifier: Apache-2.0
// Runs every operator on the CPU with one kernel table and one thread pool. Work is split by output
// rows only.
#pragma once
#include <memory>
#include <span>
#include <string>

#include "runtime/backend/act_buffer.h"
#include "runtime/backend/backend.h"
#include "runtime/backend/cpu/kernel_table.h"
#include "runtime/backend/cpu/thread_pool.h"
#include "runtime/memory/bump.h"

namespace adapmoe {

class CpuBackend final : public Backend {
 public:
  CpuBackend(const KernelTable& kernels, int threads, const BackendShape& shape);

  std::string_view name() const override { return name_; }
  int64_t scratch_bytes() const override;
  void set_scratch(std::span<std::byte> scratch) override;

  void embed(const Matrix& table, std::span<const int32_t> ids, Rows out) override;
  void rms_norm(const float* weight, Rows x, Rows y) override;
  void linear(Rows x, std::span<const LinearOp> ops) override;
  void attention(const AttentionOp& op) override;
  void add(Rows x, Rows into) override;
  void begin_experts(Rows x) override;
  void gate_up_proj(std::span<const ExpertOp> ops) override;
  void down_proj(std::span<const ExpertOp> ops, Rows out) override;
  void combine(const CombineOp& op) override;

 private:
  struct Scratch {
    ActBuffer input;          // of linear()
    ActBuffer expert_input;   // of begin_experts()
    ActBuffer expert_act;     // [max_rows * top_k][tiles * tile_width]: silu(gate) * up
    float* angles = nullptr;  // [max_rows][head_dim]: cosines, then sines
    float* thread = nullptr;  // [threads][thread_floats]
  };
  Scratch layout(Bump& bump) const;
  int64_t thread_floats() const;
  float* thread_scratch(int thread) const { return scratch_.thread + thread * thread_floats(); }

  // Rows of a work item where a row is little work: decoding must not pay for a hand-off.
  static constexpr int64_t kRowsAtOnce = 4;
  // A grain that gives every thread several chunks to balance with.
  int64_t grain(int64_t items) const;
  void run_blocks(DType dtype, const BlockArgs& args) const;
  void quantize(Rows x, int64_t cols, int64_t group, ActBuffer& into);
  void store_kv_row(const AttentionOp& op, int64_t row);
  void attend_head(const AttentionOp& op, int64_t row, int64_t kv_head, float* scratch);
  // One group of intermediate columns of one tile: products, SwiGLU, quantization.
  void gate_up_group(const ExpertOp& op, int64_t tile, int64_t group, float* scratch);

  const KernelTable& kernels_;
  BackendShape shape_;
  std::string name_;
  ThreadPool pool_;
  Scratch scratch_;
};

}  // namespace adapmoe
