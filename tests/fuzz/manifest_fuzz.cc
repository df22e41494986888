// SPDX-License-Identifier: Apache-2.0
// parse_manifest() on any text: a typed error, or a manifest whose sizes hang together.
// An input is a manifest without its last two lines; they are put back with the right checksum,
// which random changes would never hit.
#include <cstdio>
#include <string>

#include "runtime/base/check.h"
#include "runtime/base/crc32c.h"
#include "runtime/store/manifest.h"

namespace adapmoe {
namespace {

std::string with_checksum(const std::string& body) {
  char line[40];
  std::snprintf(line, sizeof(line), "  \"~crc32c\": \"%08x\"\n}\n",
                crc32c(body.data(), body.size()));
  return body + line;
}

void check(const Manifest& m) {
  const ModelConfig& c = m.config;
  const int64_t experts = c.num_hidden_layers * c.num_local_experts;
  ADAPMOE_CHECK(static_cast<int64_t>(m.tile_crc32c.size()) == experts * m.experts.tiles);
  ADAPMOE_CHECK(m.experts.tiles * m.experts.tile_width >= c.intermediate_size);
  ADAPMOE_CHECK(m.experts.tile_bytes > 0 && m.experts.tile_bytes % kPageBytes == 0);
  ADAPMOE_CHECK(m.experts.expert_bytes == m.experts.tiles * m.experts.tile_bytes);
  ADAPMOE_CHECK(m.experts.data_offset % kPageBytes == 0);
  ADAPMOE_CHECK(c.router.top_k >= 1 && c.router.top_k <= c.num_local_experts);
  for (const auto& [name, tensor] : m.dense) {
    ADAPMOE_CHECK(tensor.bytes > 0 && tensor.offset >= 0 && tensor.offset % 64 == 0);
  }
}

}  // namespace
}  // namespace adapmoe

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string body(reinterpret_cast<const char*>(data), size);
  for (const std::string& text : {body, adapmoe::with_checksum(body)}) {
    const auto manifest = adapmoe::parse_manifest(text, "manifest.json");
    if (manifest.ok()) adapmoe::check(manifest.value());
    ADAPMOE_CHECK(manifest.ok() || manifest.status().message().size() < 1000);
  }
  return 0;
}
