// SPDX-License-Identifier: Apache-2.0
#include "runtime/store/manifest.h"

#include <charconv>
#include <limits>

#include "runtime/base/strings.h"
#include "runtime/store/json_fields.h"

namespace adapmoe {
namespace {

constexpr int64_t kMaxBytes = int64_t{1}
                              << 50;  // sizes beyond this are nonsense and could overflow

ModelConfig read_config(const Fields& f) {
  ModelConfig c;
  c.hidden_size = f.integer("hidden_size", 1, 1 << 20);
  c.intermediate_size = f.integer("intermediate_size", 1, 1 << 24);
  c.num_hidden_layers = f.integer("num_hidden_layers", 1, 4096);
  c.num_attention_heads = f.integer("num_attention_heads", 1, 4096);
  c.num_key_value_heads = f.integer("num_key_value_heads", 1, c.num_attention_heads);
  c.head_dim = f.integer("head_dim", 2, 1024);
  c.vocab_size = f.integer("vocab_size", 1, 1 << 26);
  c.num_local_experts = f.integer("num_local_experts", 1, 65536);
  c.max_position_embeddings = f.integer("max_position_embeddings", 1, 1 << 30);
  c.sliding_window = f.at("sliding_window").is_null() ? 0 : f.integer("sliding_window", 1, 1 << 30);
  c.rms_norm_eps = static_cast<float>(f.number("rms_norm_eps", 0.0, 1.0));
  c.tie_word_embeddings = f.boolean("tie_word_embeddings");
  f.require("hidden_act", "silu");
  if (c.num_attention_heads % c.num_key_value_heads != 0 || c.head_dim % 2 != 0) {
    throw FieldError(
        "config: num_attention_heads must be a multiple of num_key_value_heads and head_dim even");
  }
  return c;
}

RouterSpec read_router(const Fields& f, const ModelConfig& config) {
  f.allow_only({"score", "top_k", "renormalize", "select_bias", "scale", "shared_experts"});
  f.require("select_bias", false);
  f.require("shared_experts", 0);
  RouterSpec r;
  const std::string score = f.text("score");
  if (score != "softmax" && score != "sigmoid") {
    throw FieldError("router.score: this version reads only softmax and sigmoid, found " + score);
  }
  r.score = score == "softmax" ? RouterScore::kSoftmax : RouterScore::kSigmoid;
  r.top_k =
      static_cast<int32_t>(f.integer("top_k", 1, std::min<int64_t>(config.num_local_experts, 256)));
  r.renormalize = f.boolean("renormalize");
  r.scale = static_cast<float>(f.number("scale", 0.0, 1e6));
  return r;
}

DType read_dtype(const Fields& f) {
  const std::string name = f.text("dtype");
  const auto dtype = parse_dtype(name);
  if (!dtype) {
    throw FieldError(str_cat(f.name(), ".dtype: expected int4, int8, f16 or f32, found ", name));
  }
  return *dtype;
}

int64_t read_group_size(const Fields& f, DType dtype) {
  const int64_t group = f.integer("group_size", 16, 128);
  const bool fits = is_quantized(dtype) ? group == 32 || group == 64 || group == 128 : group == 16;
  if (!fits) {
    throw FieldError(str_cat(f.name(), ".group_size: ", group, " does not go with ",
                             dtype_name(dtype), " (32, 64, 128 for int4 and int8, else 16)"));
  }
  return group;
}

void expect_equal(const std::string& what, int64_t found, int64_t expected) {
  if (found != expected) {
    throw FieldError(str_cat(what, ": ", found, ", expected ", expected));
  }
}

ExpertGeometry read_experts(const Fields& f, const Fields& quantization, const ModelConfig& c) {
  f.allow_only(
      {"file", "data_offset", "tiles", "tile_width", "tile_bytes", "expert_bytes", "crc32c"});
  f.require("file", "experts.safetensors");
  ExpertGeometry g;
  g.dtype = read_dtype(quantization);
  g.group_size = read_group_size(quantization, g.dtype);
  g.data_offset = f.integer("data_offset", kPageBytes, kMaxBytes);
  g.tiles = f.integer("tiles", 1, 1 << 20);
  g.tile_width = f.integer("tile_width", 16, 1 << 24);
  expect_equal("experts.data_offset modulo 4096", g.data_offset % kPageBytes, 0);
  expect_equal("experts.tile_width modulo its unit", g.tile_width % g.group_size, 0);
  const int64_t covered = g.tiles * g.tile_width;
  if (covered < c.intermediate_size || covered - g.tile_width >= c.intermediate_size) {
    throw FieldError(str_cat("experts: ", g.tiles, " tiles of ", g.tile_width,
                             " columns do not cut intermediate_size ", c.intermediate_size));
  }
  g.tile_bytes = TileLayout::make(g.dtype, g.group_size, c.hidden_size, g.tile_width).tile_bytes();
  g.expert_bytes = g.tiles * g.tile_bytes;
  expect_equal("experts.tile_bytes", f.integer("tile_bytes", 1, kMaxBytes), g.tile_bytes);
  expect_equal("experts.expert_bytes", f.integer("expert_bytes", 1, kMaxBytes), g.expert_bytes);
  return g;
}

std::vector<uint32_t> read_crc32c(const Fields& f, int64_t experts, int64_t tiles) {
  const nlohmann::json& list = f.at("crc32c");
  if (!list.is_array()) throw FieldError("experts.crc32c: expected a list of hex strings");
  expect_equal("experts.crc32c entries", static_cast<int64_t>(list.size()), experts);
  std::vector<uint32_t> values;
  values.reserve(static_cast<size_t>(experts * tiles));
  for (const nlohmann::json& item : list) {
    const std::string hex = item.is_string() ? item.get<std::string>() : "";
    expect_equal("experts.crc32c digits per expert", static_cast<int64_t>(hex.size()), 8 * tiles);
    for (size_t at = 0; at < hex.size(); at += 8) {
      uint32_t value = 0;
      const char* begin = hex.data() + at;
      const auto parsed = std::from_chars(begin, begin + 8, value, 16);
      if (parsed.ec != std::errc() || parsed.ptr != begin + 8) {
        throw FieldError("experts.crc32c: not hexadecimal: " + hex.substr(at, 8));
      }
      values.push_back(value);
    }
  }
  return values;
}

DenseTensor read_tensor(const Fields& f) {
  DenseTensor t;
  t.is_matrix = f.text("kind") == "matrix";
  t.offset = f.integer("offset", 0, kMaxBytes);
  if (t.is_matrix) {
    t.shape.dtype = read_dtype(f);
    t.shape.group_size = read_group_size(f, t.shape.dtype);
    t.shape.rows = f.integer("rows", 1, 1 << 26);
    t.shape.cols = f.integer("cols", 1, 1 << 26);
    t.bytes = t.shape.bytes();
  } else {
    f.require("kind", "vector");
    f.require("dtype", "f32");
    t.length = f.integer("length", 1, 1 << 26);
    t.bytes = align_up(t.length, 16) * 4;
  }
  expect_equal(f.name() + ".bytes", f.integer("bytes", 1, kMaxBytes), t.bytes);
  return t;
}

void read_dense(const Fields& f, Manifest& m) {
  f.allow_only({"file", "data_offset", "tensors"});
  f.require("file", "dense.safetensors");
  m.dense_data_offset = f.integer("data_offset", kPageBytes, kMaxBytes);
  expect_equal("dense.data_offset modulo 4096", m.dense_data_offset % kPageBytes, 0);
  const Fields tensors = f.object("tensors");
  int64_t next = 0;  // ascending order of name, no gaps: items() of nlohmann::json is sorted by key
  for (const auto& item : tensors.json().items()) {
    const DenseTensor t = read_tensor(Fields(item.value(), "dense.tensors." + item.key()));
    expect_equal("dense.tensors." + item.key() + ".offset", t.offset, next);
    next += t.bytes;
    m.dense.emplace(item.key(), t);
  }
}

Manifest read_manifest(const Fields& f) {
  f.require("format", "adapmoe-pack");
  f.require("format_version", 1);
  f.require("requires", nlohmann::json::array());
  f.require("architecture", "mixtral");
  f.require("expert_ffn", "swiglu");
  f.allow_only({"format", "format_version", "requires", "architecture", "config", "router",
                "expert_ffn", "quantization", "experts", "dense", "files", "quantization_error",
                "provenance"});
  Manifest m;
  m.config = read_config(f.object("config"));
  m.config.router = read_router(f.object("router"), m.config);
  m.experts =
      read_experts(f.object("experts"), f.object("quantization").object("experts"), m.config);
  const int64_t experts = m.config.num_hidden_layers * m.config.num_local_experts;
  if (experts > (1 << 24) || experts * m.experts.tiles > (1 << 24)) {
    throw FieldError("experts: more than 16777216 tiles");
  }
  m.tile_crc32c = read_crc32c(f.object("experts"), experts, m.experts.tiles);
  read_dense(f.object("dense"), m);
  const Fields files = f.object("files");
  for (const auto& item : files.json().items()) {
    const Fields file(item.value(), "files." + item.key());
    m.file_bytes[item.key()] = file.integer("bytes", 0, kMaxBytes);
  }
  return m;
}

}  // namespace

Result<Manifest> parse_manifest(const std::string& text, const std::string& path) {
  try {
    const nlohmann::json root = nlohmann::json::parse(text);
    return read_manifest(Fields(root, "manifest"));
  } catch (const FieldError& error) {
    return pack_error(
        str_cat(path, ": ", error.what(), "; export the pack again with this version of adapmoe"));
  } catch (const nlohmann::json::exception& error) {
    return pack_error(
        str_cat(path, ": not valid JSON: ", error.what(), "; copy or export the pack again"));
  }
}

}  // namespace adapmoe
