// SPDX-License-Identifier: Apache-2.0
#include "runtime/store/manifest.h"

#include <charconv>
#include <limits>
#include <string_view>

#include "runtime/base/crc32c.h"
#include "runtime/base/strings.h"
#include "runtime/store/json_fields.h"

namespace adapmoe {
namespace {

constexpr int64_t kMaxBytes = int64_t{1}
                              << 50;  // sizes beyond this are nonsense and could overflow

uint32_t read_hex32(const std::string& field, const std::string& digits) {
  uint32_t value = 0;
  const char* end = digits.data() + digits.size();
  const auto parsed = std::from_chars(digits.data(), end, value, 16);
  if (digits.size() != 8 || parsed.ec != std::errc() || parsed.ptr != end) {
    throw FieldError(
        str_cat(field, ": expected 8 hexadecimal digits, found ", shown(nlohmann::json(digits))));
  }
  return value;
}

// The manifest's last field is the CRC-32C of all bytes before its line, which
// has one form only.
void check_checksum(std::string_view text) {
  constexpr std::string_view kBegin = "  \"~crc32c\": \"";
  constexpr std::string_view kEnd = "\"\n}\n";
  constexpr size_t kLine = kBegin.size() + 8 + kEnd.size();
  const std::string_view line = text.size() < kLine ? "" : text.substr(text.size() - kLine);
  if (!line.starts_with(kBegin) || !line.ends_with(kEnd)) {
    throw FieldError("~crc32c: the last line is not this checksum");
  }
  const uint32_t expected = read_hex32("~crc32c", std::string(line.substr(kBegin.size(), 8)));
  const uint32_t found = crc32c(text.data(), text.size() - kLine);
  if (found != expected) {
    throw FieldError(str_cat("~crc32c: the text before it has CRC32C ", std::hex, found,
                             ", expected ", expected, ": the file was changed or damaged"));
  }
}

// What only the Python side uses is checked here too, so that it can rely on
// it.
void check_token_fields(const Fields& f, int64_t vocab_size) {
  if (!f.at("bos_token_id").is_null()) f.integer("bos_token_id", 0, vocab_size - 1);
  const nlohmann::json& eos = f.at("eos_token_id");
  bool fits = eos.is_array();
  for (const nlohmann::json& id : eos) {
    fits = fits && id.is_number_unsigned() && id < vocab_size;
  }
  if (!fits) {
    throw FieldError(str_cat("config.eos_token_id: expected a list of token ids below ", vocab_size,
                             ", found ", shown(eos)));
  }
}

ModelConfig read_config(const Fields& f) {
  f.allow_only({"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "head_dim", "vocab_size", "num_local_experts",
                "num_experts_per_tok", "rms_norm_eps", "rope_theta", "sliding_window",
                "tie_word_embeddings", "max_position_embeddings", "hidden_act", "bos_token_id",
                "eos_token_id"});
  ModelConfig c;
  c.hidden_size = f.integer("hidden_size", 1, 1 << 20);
  c.intermediate_size = f.integer("intermediate_size", 1, 1 << 24);
  c.num_hidden_layers = f.integer("num_hidden_layers", 1, 4096);
  c.num_attention_heads = f.integer("num_attention_heads", 1, 4096);
  c.num_key_value_heads = f.integer("num_key_value_heads", 1, c.num_attention_heads);
  c.head_dim = f.integer("head_dim", 2, 1024);
  c.vocab_size = f.integer("vocab_size", 1, 1 << 26);
  c.num_local_experts = f.integer("num_local_experts", 1, 65536);
  c.max_position_embeddings = f.integer("max_position_embeddings", 1, 1 << 26);
  c.sliding_window = f.at("sliding_window").is_null() ? 0 : f.integer("sliding_window", 1, 1 << 30);
  c.rms_norm_eps = static_cast<float>(f.number("rms_norm_eps", 0.0, 1.0));
  c.tie_word_embeddings = f.boolean("tie_word_embeddings");
  f.require("hidden_act", "silu");
  f.number("rope_theta", 0.0, std::numeric_limits<double>::max());
  f.integer("num_experts_per_tok", 1, c.num_local_experts);
  check_token_fields(f, c.vocab_size);
  if (c.num_attention_heads % c.num_key_value_heads != 0 || c.head_dim % 2 != 0 ||
      c.q_rows() > (1 << 20)) {
    throw FieldError(
        "config: num_attention_heads must be a multiple of "
        "num_key_value_heads, head_dim even and "
        "their product at most 1048576");
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
    throw FieldError("router.score: this version reads only softmax and sigmoid, found " +
                     shown_name(score));
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
    throw FieldError(
        str_cat(f.name(), ".dtype: expected int4, int8, f16 or f32, found ", shown_name(name)));
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
      values.push_back(read_hex32("experts.crc32c", hex.substr(at, 8)));
    }
  }
  return values;
}

DenseTensor read_tensor(const Fields& f) {
  DenseTensor t;
  t.is_matrix = f.text("kind") == "matrix";
  t.crc32c = read_hex32(f.name() + ".crc32c", f.text("crc32c"));
  t.offset = f.integer("offset", 0, kMaxBytes);
  if (t.is_matrix) {
    f.allow_only({"kind", "dtype", "group_size", "rows", "cols", "offset", "bytes", "crc32c"});
    t.shape.dtype = read_dtype(f);
    t.shape.group_size = read_group_size(f, t.shape.dtype);
    t.shape.rows = f.integer("rows", 1, 1 << 26);
    t.shape.cols = f.integer("cols", 1, 1 << 26);
    t.bytes = t.shape.bytes();
  } else {
    f.allow_only({"kind", "dtype", "length", "offset", "bytes", "crc32c"});
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
  int64_t next = 0;  // ascending order of name, no gaps: items() of
                     // nlohmann::json is sorted by key
  for (const auto& item : tensors.json().items()) {
    const std::string name = "dense.tensors." + shown_name(item.key());
    const DenseTensor t = read_tensor(Fields(item.value(), name));
    expect_equal(name + ".offset", t.offset, next);
    next += t.bytes;
    m.dense.emplace(item.key(), t);
  }
}

// Files lie in the pack itself: a name is never a way out of it.
void read_files(const Fields& f, Manifest& m) {
  for (const auto& item : f.json().items()) {
    const std::string& name = item.key();
    const bool plain = !name.empty() && name.size() < 256 && name != "." && name != ".." &&
                       name != "manifest.json" &&
                       name.find_first_of(std::string_view("/\0", 2)) == std::string::npos;
    if (!plain) {
      throw FieldError("files." + shown_name(name) + ": expected the plain name of another file");
    }
    const Fields file(item.value(), "files." + shown_name(name));
    file.allow_only({"bytes", "sha256"});
    const std::string sha256 = file.text("sha256");
    if (sha256.size() != 64 || sha256.find_first_not_of("0123456789abcdef") != std::string::npos) {
      throw FieldError(file.name() + ".sha256: expected 64 lowercase hexadecimal digits");
    }
    m.file_bytes[name] = file.integer("bytes", 0, kMaxBytes);
  }
}

Manifest read_manifest(const Fields& f, std::string_view text) {
  f.require("format", "adapmoe-pack");
  f.require("format_version",
            1);  // before the checksum, which another version may do otherwise
  check_checksum(text);
  f.require("requires", nlohmann::json::array());
  f.require("architecture", "mixtral");
  f.require("expert_ffn", "swiglu");
  f.allow_only({"format", "format_version", "requires", "architecture", "config", "router",
                "expert_ffn", "quantization", "experts", "dense", "files", "quantization_error",
                "provenance", "~crc32c"});
  Manifest m;
  m.config = read_config(f.object("config"));
  m.config.router = read_router(f.object("router"), m.config);
  const Fields quantization = f.object("quantization");
  quantization.allow_only({"experts", "dense"});
  const Fields dense_quantization = quantization.object("dense");
  read_group_size(dense_quantization, read_dtype(dense_quantization));
  m.experts = read_experts(f.object("experts"), quantization.object("experts"), m.config);
  const int64_t experts = m.config.num_hidden_layers * m.config.num_local_experts;
  if (experts > (1 << 24) || experts * m.experts.tiles > (1 << 24)) {
    throw FieldError("experts: more than 16777216 tiles");
  }
  m.tile_crc32c = read_crc32c(f.object("experts"), experts, m.experts.tiles);
  read_dense(f.object("dense"), m);
  read_files(f.object("files"), m);
  return m;
}

}  // namespace

Result<Manifest> parse_manifest(const std::string& text, const std::string& path) {
  try {
    const nlohmann::json root = parse_json(text);
    return read_manifest(Fields(root, "manifest"), text);
  } catch (const FieldError& error) {
    return pack_error(str_cat(path, ": ", error.what(),
                              "; copy the pack again, or export it with this version of adapmoe"));
  }
}

}  // namespace adapmoe
