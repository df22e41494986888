// SPDX-License-Identifier: Apache-2.0
// What the model asks of a processor. Rows are token rows; buffers are row-major floats in the
// session's arena, zero-padded to their stride. Every implementation follows the canonical
// arithmetic (runtime/README.md), but for an ExpertPath that the user asked for. Thread-compatible:
// one step at a time.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "runtime/base/check.h"
#include "runtime/base/model_config.h"
#include "runtime/base/packed_layout.h"
#include "runtime/base/status.h"

namespace adapmoe {

// A float matrix in memory. `stride` is in floats.
struct Rows {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t stride = 0;
  float* row(int64_t i) const { return data + i * stride; }
  Rows first(int64_t n) const { return {data, n, stride}; }
};

// A packed matrix in memory.
struct Matrix {
  PackedShape shape;
  const std::byte* data = nullptr;
};

// One of several products that share their input: y = w x.
struct LinearOp {
  const Matrix* w;
  Rows y;
};

// One token row's view of its sequence's KV cache, in one layer.
// [position][num_key_value_heads][head_dim_padded], f16 or f32.
struct KVRow {
  std::byte* k = nullptr;
  std::byte* v = nullptr;
  int64_t position = 0;
};

struct AttentionOp {
  Rows q, k, v;               // [rows][heads * head_dim], before RoPE
  std::span<const KVRow> kv;  // one per row; rows of one sequence in ascending position
  int64_t layer = 0;
  const float* inv_freq = nullptr;  // [head_dim / 2]
  int64_t sliding_window = 0;       // 0: all positions
  Rows out;                         // [rows][num_attention_heads * head_dim]
};

// Some tiles of one expert and the token rows routed to it.
struct ExpertOp {
  std::span<const std::byte* const> tiles;  // consecutive tiles
  int64_t first_tile = 0;
  std::span<const int32_t> rows;  // rows of the expert input
  int64_t first_output = 0;       // row i writes output row first_output + i
};

// Adds to every hidden row the weighted outputs of its experts, in ascending expert order.
// expert_out is used up.
struct CombineOp {
  std::span<const int32_t>
      outputs;  // [rows][top_k] rows of expert_out, -1 after the last expert used; at least one
  std::span<const float> weights;  // [rows][top_k]
  Rows expert_out;
  Rows hidden;
};

// A decode step in which routing, too, is the backend's, because every tile of every expert is
// ready. Only what is said here differs from one such step to the next.
struct ResidentStep {
  int64_t rows = 0;                         // at most max_resident_rows()
  std::span<const KVRow> kv;                // [layers][rows]
  std::span<const std::byte* const> tiles;  // [layers][experts][tiles]
  uint64_t placement = 0;                   // another number when any of `tiles` is elsewhere
  std::span<const float> sensitivity;       // [layers], of the gate; empty: gating is off
  float threshold = 0.0F;                   // of the gate
};

// What was decided for the token rows of one layer, as by gate/gate.h.
struct RoutedRows {
  int32_t* experts = nullptr;      // [rows][top_k] ascending; ~expert of those left out
  float* weights = nullptr;        // [rows][top_k]
  float* dropped_share = nullptr;  // [rows]
};

// One MoE block from its router logits on: routes, and adds to every hidden row the weighted
// outputs of its experts, in ascending expert order.
struct RoutedOp {
  int64_t layer = 0;
  Rows input;          // [rows][hidden_size]
  Rows router_logits;  // [rows][num_local_experts]
  RoutedRows decided;
  Rows expert_out;  // [rows * top_k][hidden_size], used up
  Rows hidden;
};

// Counted since the backend was made.
struct BackendCounts {
  int64_t waits = 0;    // of the host for a device that had work to do
  int64_t replays = 0;  // resident steps that were queued as one recorded graph
  int64_t on_cpu = 0;   // experts that a device left to the CPU
};

// How quantized experts meet their input. kW4A8: the canonical arithmetic. kW4A16: activations stay
// floats; nearer to the exact product, but other bits, and on the GPU only.
enum class ExpertPath : uint8_t { kW4A8, kW4A16 };

// Sizes fixed at open, from which a backend computes its scratch.
struct BackendShape {
  ModelConfig config;
  TileLayout tile;
  int64_t tiles = 0;        // per expert
  int64_t max_rows = 0;     // token rows per step
  int64_t max_context = 0;  // positions that a row may attend to
  bool kv_f16 = true;
  ExpertPath expert_path = ExpertPath::kW4A8;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;  // "cpu/avx2"
  virtual int64_t scratch_bytes() const = 0;
  // Gives the backend its scratch: zeroed, page-aligned, scratch_bytes() long. Before anything
  // below.
  virtual void set_scratch(std::span<std::byte> scratch) = 0;

  // Bytes free in the device's own memory; empty where it uses the CPU's.
  virtual std::optional<int64_t> own_memory() const { return std::nullopt; }
  // Called with the memory that everything below is in, before any of it is used. A device with
  // memory of its own allocates as much there, zeroed: addresses in `memory` then only stand for
  // the device's, and the host touches none but those that it shares. Errors: kUnavailable if the
  // device cannot see the memory, kBudgetError if it does not have as much.
  virtual Status use_memory(std::span<std::byte> /*memory*/) { return {}; }
  // The host uses `part` (page-aligned, zeroed): rows that it fetches, or what it uploads from.
  virtual Status share(std::span<std::byte> /*part*/) { return {}; }
  // Whether that memory is pinned: it cannot be given back to the system, nor can more be had.
  virtual bool pins_memory() const { return false; }

  // Whether the CPU may meanwhile compute on the same memory, and give the same bits.
  virtual bool shares_memory() const { return false; }

  // Where the device has memory of its own, these two copy between shared memory and the rest, and
  // return when that is done. Thread-safe. Errors: kUnavailable where the device failed.
  virtual Status upload(std::span<const std::byte> from, std::byte* to) {
    std::memcpy(to, from.data(), from.size());
    return {};
  }
  virtual Status download(const std::byte* from, std::span<std::byte> to) {
    std::memcpy(to.data(), from, to.size());
    return {};
  }

  // Operators may still run when their call has returned. After wait() the host may read what they
  // wrote and reuse what they read. Errors: kUnavailable where the device failed.
  virtual Status wait() { return {}; }
  // An operator: lets the host read `bytes` at `begin`, in shared memory, after the next wait().
  virtual void fetch_bytes(void* /*begin*/, int64_t /*bytes*/) {}
  void fetch(Rows rows) {
    fetch_bytes(rows.data, rows.rows * rows.stride * static_cast<int64_t>(sizeof(float)));
  }
  // An operator: copies `bytes`, a multiple of 16, as both addresses are.
  virtual void copy(const void* from, void* to, int64_t bytes) {
    std::memcpy(to, from, static_cast<size_t>(bytes));
  }

  virtual void embed(const Matrix& table, std::span<const int32_t> ids, Rows out) = 0;
  virtual void rms_norm(const float* weight, Rows x, Rows y) = 0;
  virtual void linear(Rows x, std::span<const LinearOp> ops) = 0;
  virtual void attention(const AttentionOp& op) = 0;
  virtual void add(Rows x, Rows into) = 0;

  // Expert FFN: begin_experts fixes the input rows; gate_up_proj computes silu(gate) * up of the
  // given tiles; down_proj adds the given tiles to the outputs, tiles ascending, starting from zero
  // at tile 0.
  virtual void begin_experts(Rows x) = 0;
  virtual void gate_up_proj(std::span<const ExpertOp> ops) = 0;
  virtual void down_proj(std::span<const ExpertOp> ops, Rows out) = 0;
  virtual void combine(const CombineOp& op) = 0;

  // Rows of the largest resident step; 0: the backend does not route.
  virtual int64_t max_resident_rows() const { return 0; }
  // Calls `operators`, which queues the operators of a step, routed_experts() among them: the same
  // ones on the same memory in every step of as many rows, so they may be recorded instead and
  // repeated without a call. REQUIRES: step.rows <= max_resident_rows().
  virtual void run_resident(const ResidentStep& /*step*/,
                            const std::function<void()>& /*operators*/) {
    ADAPMOE_CHECK(false);
  }
  // REQUIRES: called by `operators`.
  virtual void routed_experts(const RoutedOp& /*op*/) { ADAPMOE_CHECK(false); }

  virtual BackendCounts counts() const { return {}; }
  // A fact that came up while running and the user should see, once; mostly empty.
  virtual std::string take_note() { return {}; }
};

// Errors: kUnavailable when this build or machine cannot run it, kInvalidArgument for an unknown
// name. `backend`: "auto", "cpu" or "cuda"; `kernels`: see select_kernels(). `note` receives one
// line when "auto" leaves a GPU unused. "auto" takes a GPU only where it shares the CPU's memory (a
// Jetson).
Result<std::unique_ptr<Backend>> make_backend(const std::string& backend,
                                              const std::string& kernels, int threads,
                                              const BackendShape& shape, std::string* note);

// Defined by backend/cuda, or by backend/no_gpu where there is none.
bool built_with_cuda();

// Whether this machine has no GPU, or no driver for one, as far as this build can tell.
bool without_gpu();
Result<std::unique_ptr<Backend>> make_cuda_backend(const BackendShape& shape, bool integrated_only);
Result<std::unique_ptr<Backend>> make_cpu_backend(const std::string& kernels, int threads,
                                                  const BackendShape& shape);

}  // namespace adapmoe
