// SPDX-License-Identifier: Apache-2.0
#include "runtime/tools/operator_bench.h"

#include <algorithm>

#include "runtime/base/half.h"

namespace adapmoe {

BackendShape operator_shape(DType experts, int64_t group, bool kv_f16, int64_t head_dim) {
  BackendShape shape;
  shape.config.hidden_size = 144;
  shape.config.num_attention_heads = 4;
  shape.config.num_key_value_heads = 2;
  shape.config.head_dim = head_dim;
  shape.config.vocab_size = 50;
  shape.config.num_local_experts = 4;
  shape.config.rms_norm_eps = 1e-5F;
  shape.config.router.top_k = 2;
  shape.tile = TileLayout::make(experts, group, shape.config.hidden_size, /*tile_width=*/128);
  shape.tiles = 3;
  shape.max_rows = 70;
  shape.max_context = kPositions;
  shape.kv_f16 = kv_f16;
  return shape;
}

Result<OperatorBench> OperatorBench::make(const std::string& backend, const BackendShape& shape,
                                          bool plain) {
  std::string note;
  auto made = make_backend(backend, "scalar", /*threads=*/1, shape, &note);
  if (!made.ok()) return made.status();
  const int64_t scratch = made.value()->scratch_bytes();
  auto arena = Arena::reserve(align_up(scratch, kPageBytes) + kBytes);
  if (!arena.ok()) return arena.status();
  const std::span<std::byte> memory = arena.value().first(arena.value().remaining());
  ADAPMOE_RETURN_IF_ERROR(made.value()->use_memory(memory));
  made.value()->set_scratch(arena.value().carve(scratch));
  ADAPMOE_RETURN_IF_ERROR(made.value()->share(memory.last(kBytes)));
  return OperatorBench(shape, std::move(arena).value(), std::move(made).value(), plain);
}

Backend& OperatorBench::backend() {
  if (backend_->own_memory() && !drawn_.empty()) check(backend_->upload(drawn_, drawn_.data()));
  drawn_ = {};
  return *backend_;
}

void OperatorBench::check(const Status& status) {
  if (!status.ok() && status_.ok()) status_ = status;
}

Rows OperatorBench::rows(int64_t count, int64_t width) {
  const int64_t stride = align_up(width, 128);
  const Rows rows{take<float>(count * stride).data(), count, stride};
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t k = 0; k < width; ++k) rows.row(i)[k] = draw(random_, Spread::kPlain);
  }
  return rows;
}

void OperatorBench::fill(const PackedShape& shape, std::span<std::byte> data) {
  const auto half = [this] { return float_to_half(random_.between_powers(-12, -6)); };
  for (int64_t block = 0; block < shape.blocks(); ++block) {
    std::byte* at = data.data() + block * shape.block_bytes();
    if (shape.dtype == DType::kF32) {
      auto* weights = reinterpret_cast<float*>(at);
      std::generate_n(weights, shape.block_bytes() / 4,
                      [this] { return random_.between_powers(-12, -6); });
      continue;
    }
    auto* halves = reinterpret_cast<uint16_t*>(at);
    if (shape.dtype == DType::kF16) {
      std::generate_n(halves, shape.block_bytes() / 2, half);
      continue;
    }
    std::generate_n(halves, shape.groups() * kBlockRows, [&half] {
      return static_cast<uint16_t>(half() & 0x7fffU);  // scales are positive
    });
    const int64_t low = shape.dtype == DType::kInt4 ? 0 : -127;
    const int64_t high = shape.dtype == DType::kInt4 ? 255 : 127;
    for (int64_t i = shape.scale_bytes(); i < shape.block_bytes(); ++i) {
      at[i] = static_cast<std::byte>(random_.between(low, high) & 255);
    }
  }
}

Matrix OperatorBench::matrix(const PackedShape& shape) {
  const std::span<std::byte> data = take<std::byte>(shape.bytes());
  fill(shape, data);
  return {shape, data.data()};
}

std::span<std::byte> OperatorBench::tile() {
  const TileLayout& t = shape_.tile;
  const std::span<std::byte> data = take<std::byte>(t.tile_bytes());
  fill(t.gate_proj, data);
  fill(t.up_proj, data.subspan(static_cast<size_t>(t.up_offset())));
  fill(t.down_proj, data.subspan(static_cast<size_t>(t.down_offset())));
  return data;
}

void OperatorBench::fetch(std::span<std::byte> bytes) {
  backend().fetch_bytes(bytes.data(), static_cast<int64_t>(bytes.size()));
  check(backend_->wait());
}

void OperatorBench::keep(Rows rows) {
  keep(std::span(rows.data, static_cast<size_t>(rows.rows * rows.stride)));
}

}  // namespace adapmoe
