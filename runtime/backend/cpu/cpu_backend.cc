// SPDX-License-Identifier: Apache-2.0
#include "runtime/backend/cpu/cpu_backend.h"

#include <algorithm>
#include <thread>

#include "runtime/backend/cpu/cpu_features.h"
#include "runtime/backend/embedding.h"
#include "runtime/base/strings.h"

namespace adapmoe {

CpuBackend::CpuBackend(const KernelTable& kernels, int threads, const BackendShape& shape)
    : kernels_(kernels), shape_(shape), name_(str_cat("cpu/", kernels.name)), pool_(threads) {}

int64_t CpuBackend::thread_floats() const {
  const ModelConfig& c = shape_.config;
  const int64_t heads = c.num_attention_heads / c.num_key_value_heads;
  const int64_t attend = heads * (kAttentionBlock + 4 * c.head_dim_padded());
  const int64_t gate_up = 2 * shape_.max_rows * shape_.tile.gate_proj.group_size;
  return align_up(std::max(attend, gate_up), 16);
}

CpuBackend::Scratch CpuBackend::layout(Bump& bump) const {
  const ModelConfig& c = shape_.config;
  Scratch s;
  s.input.layout(bump, shape_.max_rows, std::max(c.hidden_size, c.q_rows()), true);
  const bool quantized = is_quantized(shape_.tile.gate_proj.dtype);
  s.expert_input.layout(bump, shape_.max_rows, c.hidden_size, quantized);
  s.expert_act.layout(bump, shape_.max_rows * c.router.top_k,
                      shape_.tiles * shape_.tile.gate_proj.rows, quantized);
  s.expert_act.group = quantized ? shape_.tile.down_proj.group_size : 0;
  s.angles = bump.take<float>(shape_.max_rows * c.head_dim);
  s.thread = bump.take<float>(pool_.threads() * thread_floats());
  return s;
}

int64_t CpuBackend::scratch_bytes() const {
  Bump count;
  layout(count);
  return count.used();
}

void CpuBackend::set_scratch(std::span<std::byte> scratch) {
  Bump bump(scratch);
  scratch_ = layout(bump);
}

int64_t CpuBackend::grain(int64_t items) const {
  return std::max<int64_t>(1, items / (int64_t{8} * pool_.threads()));
}

void CpuBackend::run_block(DType dtype, const BlockArgs& args) const {
  switch (dtype) {
    case DType::kInt4: return kernels_.block_int4(args);
    case DType::kInt8: return kernels_.block_int8(args);
    case DType::kF16: return kernels_.block_f16(args);
    case DType::kF32: return kernels_.block_f32(args);
  }
}

void CpuBackend::quantize(Rows x, int64_t cols, int64_t group, ActBuffer& into) {
  into.group = group;
  const int64_t groups = into.cols / group;
  pool_.run(x.rows, kRowsAtOnce, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      kernels_.quantize(x.row(i), cols, group, into.q + i * into.cols, into.scale + i * groups,
                        into.sum + i * groups);
    }
  });
}

void CpuBackend::embed(const Matrix& table, std::span<const int32_t> ids, Rows out) {
  const PackedShape& s = table.shape;
  for (size_t i = 0; i < ids.size(); ++i) {
    const PackedRow row{s.dtype, table.data + ids[i] / kBlockRows * s.block_bytes(),
                        s.scale_bytes(), s.group_size, ids[i] % kBlockRows};
    float* to = out.row(static_cast<int64_t>(i));
    for (int64_t k = 0; k < s.cols; ++k) to[k] = packed_value(row, k);
  }
}

void CpuBackend::rms_norm(const float* weight, Rows x, Rows y) {
  const ModelConfig& c = shape_.config;
  pool_.run(x.rows, kRowsAtOnce, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      kernels_.rms_norm(x.row(i), weight, c.hidden_size, c.rms_norm_eps, y.row(i));
    }
  });
}

void CpuBackend::linear(Rows x, std::span<const LinearOp> ops) {
  ActRows act{.x = x.data, .x_stride = x.stride};
  int64_t blocks = 0;
  bool done = false;
  for (const LinearOp& op : ops) {
    blocks += op.w->shape.blocks();
    if (is_quantized(op.w->shape.dtype) && !done) {
      quantize(x, op.w->shape.cols_padded(), op.w->shape.group_size, scratch_.input);
      const ActRows q = scratch_.input.view(0, 0);
      act.q = q.q;
      act.scale = q.scale;
      act.sum = q.sum;
      act.q_stride = q.q_stride;
      act.group_stride = q.group_stride;
      done = true;
    }
  }
  pool_.run(blocks, grain(blocks), [&](int64_t begin, int64_t end, int) {
    int64_t first = 0;  // of the op, in blocks
    for (const LinearOp& op : ops) {
      const PackedShape& s = op.w->shape;
      const int64_t from = std::max(begin, first);
      const int64_t to = std::min(end, first + s.blocks());
      for (int64_t b = from; b < to; ++b) {
        run_block(s.dtype, {.block = op.w->data + (b - first) * s.block_bytes(),
                            .cols = s.cols_padded(),
                            .group_size = s.group_size,
                            .scale_bytes = s.scale_bytes(),
                            .act = act,
                            .rows = x.rows,
                            .y = op.y.data + (b - first) * kBlockRows,
                            .y_stride = op.y.stride});
      }
      first += s.blocks();
    }
  });
}

void CpuBackend::add(Rows x, Rows into) {
  for (int64_t i = 0; i < x.rows; ++i) {
    const float* from = x.row(i);
    float* to = into.row(i);
    for (int64_t k = 0; k < shape_.config.hidden_size; ++k) to[k] += from[k];
  }
}

Result<std::unique_ptr<Backend>> make_cpu_backend(const std::string& kernels, int threads,
                                                  const BackendShape& shape) {
  auto table = select_kernels(kernels);
  if (!table.ok()) return table.status();
  return std::unique_ptr<Backend>(std::make_unique<CpuBackend>(*table.value(), threads, shape));
}

}  // namespace adapmoe
