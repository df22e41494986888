// SPDX-License-Identifier: Apache-2.0
#include "runtime/model/weights.h"

#include <string>
#include <utility>

#include "runtime/base/strings.h"

namespace adapmoe {
namespace {

// Looks tensors up by name and shape; the first one that does not fit becomes
// `status`.
class Lookup {
 public:
  Lookup(const Pack& pack, const std::byte* data) : pack_(pack), data_(data) {}

  Matrix matrix(const std::string& name, int64_t rows, int64_t cols) {
    const DenseTensor* t = find(name);
    if (t == nullptr) return {};
    if (!t->is_matrix || t->shape.rows != rows || t->shape.cols != cols) {
      fail(name, str_cat("a matrix [", rows, ", ", cols, "]"));
      return {};
    }
    return {t->shape, data_ + t->offset};
  }
  const float* vector(const std::string& name, int64_t length) {
    const DenseTensor* t = find(name);
    if (t == nullptr) return nullptr;
    if (t->is_matrix || t->length != length) {
      fail(name, str_cat("a vector of ", length));
      return nullptr;
    }
    return reinterpret_cast<const float*>(data_ + t->offset);
  }
  void fail(const std::string& name, const std::string& expected) {
    if (!status_.ok()) return;
    status_ = pack_error(str_cat(pack_.dense_file().path(), ": tensor ", name, ": expected ",
                                 expected, "; export the pack again"));
  }
  const Status& status() const { return status_; }

 private:
  const DenseTensor* find(const std::string& name) {
    const auto it = pack_.manifest().dense.find(name);
    if (it != pack_.manifest().dense.end()) return &it->second;
    fail(name, "it to be in the pack");
    return nullptr;
  }

  const Pack& pack_;
  const std::byte* data_;
  Status status_;
};

}  // namespace

Result<DenseWeights> load_dense_weights(const Pack& pack, std::span<std::byte> region,
                                        std::span<std::byte> staging, Backend& backend, bool verify,
                                        const Interrupt& interrupt) {
  const ModelConfig& c = pack.config();
  Lookup find(pack, region.data());
  DenseWeights w;
  w.embed_tokens = find.matrix("model.embed_tokens.weight", c.vocab_size, c.hidden_size);
  w.norm = find.vector("model.norm.weight", c.hidden_size);
  w.lm_head = c.tie_word_embeddings ? w.embed_tokens
                                    : find.matrix("lm_head.weight", c.vocab_size, c.hidden_size);
  w.rope_inv_freq = find.vector("rope.inv_freq", c.head_dim / 2);
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = str_cat("model.layers.", i, ".");
    LayerWeights l;
    l.input_layernorm = find.vector(layer + "input_layernorm.weight", c.hidden_size);
    l.q_proj = find.matrix(layer + "self_attn.q_proj.weight", c.q_rows(), c.hidden_size);
    l.k_proj = find.matrix(layer + "self_attn.k_proj.weight", c.kv_rows(), c.hidden_size);
    l.v_proj = find.matrix(layer + "self_attn.v_proj.weight", c.kv_rows(), c.hidden_size);
    l.o_proj = find.matrix(layer + "self_attn.o_proj.weight", c.hidden_size, c.q_rows());
    l.post_attention_layernorm =
        find.vector(layer + "post_attention_layernorm.weight", c.hidden_size);
    l.router =
        find.matrix(layer + "block_sparse_moe.gate.weight", c.num_local_experts, c.hidden_size);
    if (l.router.shape.dtype != DType::kF32) {
      find.fail(layer + "block_sparse_moe.gate.weight", "dtype f32");
    }
    w.layers.push_back(l);
  }
  ADAPMOE_RETURN_IF_ERROR(find.status());
  if (staging.empty()) {
    ADAPMOE_RETURN_IF_ERROR(pack.read_dense(region, verify, interrupt));
    return w;
  }
  const auto upload = [&](int64_t at, std::span<const std::byte> piece) {
    return backend.upload(piece, region.data() + at);
  };
  ADAPMOE_RETURN_IF_ERROR(pack.read_dense(staging, verify, interrupt, upload));
  return w;
}

}  // namespace adapmoe
