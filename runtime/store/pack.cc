// SPDX-License-Identifier: Apache-2.0
#include "runtime/store/pack.h"

#include <fstream>
#include <iterator>
#include <utility>

#include "runtime/base/strings.h"
#include "runtime/store/safetensors_header.h"

namespace adapmoe {
namespace {

constexpr int64_t kMaxManifestBytes = 64 << 20;

Status check_size(const File& file, const Manifest& manifest, const std::string& name) {
  const auto listed = manifest.file_bytes.find(name);
  if (listed == manifest.file_bytes.end()) {
    return pack_error(str_cat(file.path(), ": not listed in the manifest's files"));
  }
  if (file.size() != listed->second) {
    return pack_error(str_cat(file.path(), ": ", file.size(), " bytes, the manifest says ",
                              listed->second, "; copy or export the pack again"));
  }
  return {};
}

Status mismatch(const File& file, const std::string& tensor) {
  return pack_error(str_cat(file.path(), ": tensor ", tensor,
                            " is not where the manifest says; the file belongs to another pack, "
                            "export or copy the pack again"));
}

Status check_dense(const File& file, const Manifest& m) {
  auto header = read_safetensors_header(file);
  if (!header.ok()) return header.status();
  if (header.value().data_offset != m.dense_data_offset) return mismatch(file, "data");
  for (const auto& [name, tensor] : m.dense) {
    const auto found = header.value().tensors.find(name);
    if (found == header.value().tensors.end() || found->second.offset != tensor.offset ||
        found->second.bytes != tensor.bytes) {
      return mismatch(file, name);
    }
  }
  return {};
}

Status check_experts(const File& file, const Manifest& m) {
  auto header = read_safetensors_header(file);
  if (!header.ok()) return header.status();
  if (header.value().data_offset != m.experts.data_offset) return mismatch(file, "data");
  int64_t offset = 0;
  for (int64_t layer = 0; layer < m.config.num_hidden_layers; ++layer) {
    for (int64_t expert = 0; expert < m.config.num_local_experts; ++expert) {
      const std::string name =
          str_cat("model.layers.", layer, ".block_sparse_moe.experts.", expert);
      const auto found = header.value().tensors.find(name);
      if (found == header.value().tensors.end() || found->second.offset != offset ||
          found->second.bytes != m.experts.expert_bytes) {
        return mismatch(file, name);
      }
      offset += m.experts.expert_bytes;
    }
  }
  return {};
}

}  // namespace

Result<std::string> read_manifest_text(const std::string& dir) {
  const std::string path = dir + "/manifest.json";
  auto file = File::open(path, /*direct=*/false);
  if (!file.ok()) {
    return pack_error(str_cat(file.status().message(),
                              "; expected a pack, made by: adapmoe export CHECKPOINT OUT"));
  }
  if (file.value().size() > kMaxManifestBytes) {
    return pack_error(str_cat(path, ": ", file.value().size(), " bytes, at most ",
                              kMaxManifestBytes, " expected"));
  }
  std::string text(static_cast<size_t>(file.value().size()), '\0');
  ADAPMOE_RETURN_IF_ERROR(file.value().read_at(0, std::as_writable_bytes(std::span(text))));
  return text;
}

Result<Pack> Pack::open(const std::string& dir, bool direct_io) {
  auto text = read_manifest_text(dir);
  if (!text.ok()) return text.status();
  auto manifest = parse_manifest(text.value(), dir + "/manifest.json");
  if (!manifest.ok()) return manifest.status();
  const Manifest& m = manifest.value();

  auto dense = File::open(dir + "/dense.safetensors", /*direct=*/false);
  if (!dense.ok()) return dense.status();
  ADAPMOE_RETURN_IF_ERROR(check_size(dense.value(), m, "dense.safetensors"));
  ADAPMOE_RETURN_IF_ERROR(check_dense(dense.value(), m));

  {  // the header is not page-aligned, so it is checked through a buffered descriptor
    auto header = File::open(dir + "/experts.safetensors", /*direct=*/false);
    if (!header.ok()) return header.status();
    ADAPMOE_RETURN_IF_ERROR(check_size(header.value(), m, "experts.safetensors"));
    ADAPMOE_RETURN_IF_ERROR(check_experts(header.value(), m));
  }
  auto experts = File::open(dir + "/experts.safetensors", direct_io);
  if (!experts.ok()) return experts.status();
  return Pack(std::move(manifest).value(), std::move(dense).value(), std::move(experts).value());
}

int64_t Pack::dense_bytes() const {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : manifest_.dense) bytes += tensor.bytes;
  return align_up(bytes, kPageBytes);
}

Status Pack::read_dense(std::span<std::byte> into) const {
  const int64_t bytes = dense_file_.size() - manifest_.dense_data_offset;
  ADAPMOE_CHECK(static_cast<int64_t>(into.size()) >= bytes);
  const Status status =
      dense_file_.read_at(manifest_.dense_data_offset, into.first(static_cast<size_t>(bytes)));
  dense_file_.drop_page_cache();  // the arena holds the only copy that counts
  return status;
}

}  // namespace adapmoe
