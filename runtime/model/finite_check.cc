// SPDX-License-Identifier: Apache-2.0
#include "runtime/model/finite_check.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "runtime/base/finite.h"
#include "runtime/base/strings.h"

namespace adapmoe {
namespace {

constexpr uint16_t kHalfInfinity = 0x7c00;

Status first_in(const std::string& where) {
  return non_finite(str_cat("the model computed NaN or infinity, first in ", where,
                            "; look for damage with `adapmoe verify`, and into the checkpoint that "
                            "the pack was made from"));
}

}  // namespace

Result<bool> FiniteCheck::finite(Rows rows, int64_t width) {
  backend_.fetch(rows);
  ADAPMOE_RETURN_IF_ERROR(backend_.wait());
  for (int64_t i = 0; i < rows.rows; ++i) {
    if (!all_finite({rows.row(i), static_cast<size_t>(width)})) return false;
  }
  return true;
}

// Whether keys or values of this layer became infinite as halves.
Result<bool> FiniteCheck::cache_overflowed(int32_t layer, std::span<const TokenRow> rows) {
  if (!kv_f16_) return false;
  const int64_t per_position = config_.num_key_value_heads * config_.head_dim_padded();
  for (const TokenRow& row : rows) {
    const KVRow first = row.kv->row(layer, 0);
    std::vector<uint16_t> values(static_cast<size_t>((row.position + 1) * per_position));
    for (const std::byte* half : {first.k, first.v}) {
      ADAPMOE_RETURN_IF_ERROR(backend_.download(half, std::as_writable_bytes(std::span(values))));
      if (std::any_of(values.begin(), values.end(),
                      [](uint16_t v) { return (v & 0x7fff) == kHalfInfinity; })) {
        return true;
      }
    }
  }
  return false;
}

Status FiniteCheck::after_embedding(const Workspace& work, int64_t rows) {
  const auto good = finite(work.hidden.first(rows), config_.hidden_size);
  if (!good.ok()) return good.status();
  return good.value() ? Status() : first_in("the embedding");
}

Status FiniteCheck::after_attention(const Workspace& work, int32_t layer,
                                    std::span<const TokenRow> rows) {
  const auto n = static_cast<int64_t>(rows.size());
  const std::pair<Rows, int64_t> products[] = {{work.q.first(n), config_.q_rows()},
                                               {work.k.first(n), config_.kv_rows()},
                                               {work.v.first(n), config_.kv_rows()}};
  for (const auto& [product, width] : products) {
    const auto good = finite(product, width);
    if (!good.ok()) return good.status();
    if (!good.value()) return first_in(str_cat("queries, keys and values of layer ", layer));
  }
  const auto attended = finite(work.attended.first(n), config_.q_rows());
  if (!attended.ok()) return attended.status();
  if (!attended.value()) {
    const auto overflowed = cache_overflowed(layer, rows);
    if (!overflowed.ok()) return overflowed.status();
    if (!overflowed.value()) return first_in(str_cat("the attention of layer ", layer));
    return non_finite(str_cat("keys or values of layer ", layer,
                              " are larger than kv_dtype=\"f16\" can hold (65504); "
                              "use kv_dtype=\"f32\""));
  }
  const auto hidden = finite(work.hidden.first(n), config_.hidden_size);
  if (!hidden.ok()) return hidden.status();
  return hidden.value() ? Status() : first_in(str_cat("the output projection of layer ", layer));
}

Status FiniteCheck::after_experts(const Workspace& work, int32_t layer, int64_t rows) {
  const auto router = finite(work.router_logits.first(rows), config_.num_local_experts);
  if (!router.ok()) return router.status();
  if (!router.value()) return first_in(str_cat("the router of layer ", layer));
  const auto hidden = finite(work.hidden.first(rows), config_.hidden_size);
  if (!hidden.ok()) return hidden.status();
  return hidden.value() ? Status() : first_in(str_cat("the experts of layer ", layer));
}

Status FiniteCheck::in_head() { return first_in("the last norm or the output head"); }

}  // namespace adapmoe
