// SPDX-License-Identifier: Apache-2.0
#include "runtime/store/pack.h"

#include <algorithm>
#include <utility>

#include "runtime/base/check.h"
#include "runtime/base/crc32c.h"
#include "runtime/base/strings.h"
#include "runtime/store/json_fields.h"
#include "runtime/store/safetensors_header.h"

namespace adapmoe {
namespace {

constexpr char kRemedy[] = "; copy or export the pack again";
constexpr int64_t kPieceBytes = 1 << 20;  // read between two looks at the interrupt

// Opens file `name` of the pack, whose size must be what the manifest says.
Result<File> open_listed(const std::string& dir, const std::string& name, bool direct,
                         const Manifest& manifest) {
  const std::string path = dir + "/" + name;
  const auto listed = manifest.file_bytes.find(name);
  if (listed == manifest.file_bytes.end()) {
    return pack_error(str_cat(path, ": not listed in the manifest's files", kRemedy));
  }
  auto file = File::open(path, direct);
  if (!file.ok()) return pack_error(file.status().message() + kRemedy);
  if (file.value().size() != listed->second) {
    return pack_error(str_cat(path, ": ", file.value().size(), " bytes, the manifest says ",
                              listed->second, kRemedy));
  }
  return file;
}

// The data buffer ends with the file: nothing is read beyond what the manifest
// describes.
Status check_end(const File& file, int64_t expected) {
  if (file.size() == expected) return {};
  return pack_error(
      str_cat(file.path(), ": ", file.size(), " bytes, its tensors end at ", expected, kRemedy));
}

Status mismatch(const File& file, const std::string& tensor) {
  return pack_error(str_cat(file.path(), ": tensor ", tensor,
                            " is not where the manifest says; the file is damaged or belongs to "
                            "another pack",
                            kRemedy));
}

Status check_dense(const File& file, const Manifest& m) {
  auto header = read_safetensors_header(file);
  if (!header.ok()) return header.status();
  if (header.value().data_offset != m.dense_data_offset) return mismatch(file, "data");
  int64_t end = 0;
  for (const auto& [name, tensor] : m.dense) {
    const auto found = header.value().tensors.find(name);
    if (found == header.value().tensors.end() || found->second.offset != tensor.offset ||
        found->second.bytes != tensor.bytes) {
      return mismatch(file, name);
    }
    end = tensor.offset + tensor.bytes;
  }
  return check_end(file, m.dense_data_offset + end);
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
  return check_end(file, m.experts.data_offset + offset);
}

// The CRC32C of every dense tensor, from pieces of the buffer that come in ascending order.
class DenseChecksums {
 public:
  explicit DenseChecksums(const Manifest& manifest) : manifest_(manifest) {
    for (const auto& [name, tensor] : manifest.dense) found_.push_back({&name, &tensor, 0});
  }

  void add(int64_t at, std::span<const std::byte> piece) {
    const int64_t end = at + static_cast<int64_t>(piece.size());
    for (Found& f : found_) {
      const int64_t from = std::max(at, f.tensor->offset);
      const int64_t to = std::min(end, f.tensor->offset + f.tensor->bytes);
      if (from >= to) continue;
      f.crc = crc32c(piece.data() + (from - at), static_cast<size_t>(to - from), f.crc);
    }
  }

  // Errors: kPackError for the first tensor, by name, that is not what the manifest says.
  Status check(const std::string& path) const {
    for (const Found& f : found_) {
      if (f.crc == f.tensor->crc32c) continue;
      return pack_error(str_cat(path, ": tensor ", *f.name, " at offset ",
                                manifest_.dense_data_offset + f.tensor->offset, ": CRC32C is ",
                                std::hex, f.crc, ", expected ", f.tensor->crc32c,
                                "; the file is damaged", kRemedy));
    }
    return {};
  }

 private:
  struct Found {
    const std::string* name;
    const DenseTensor* tensor;
    uint32_t crc;
  };
  const Manifest& manifest_;
  std::vector<Found> found_;
};

}  // namespace

Result<std::string> read_manifest_text(const std::string& dir) {
  const std::string path = dir + "/manifest.json";
  auto file = File::open(path, /*direct=*/false);
  if (!file.ok()) {
    return pack_error(str_cat(file.status().message(),
                              "; expected a pack, made by: adapmoe export CHECKPOINT OUT"));
  }
  if (file.value().size() > kMaxJsonBytes) {
    return pack_error(str_cat(path, ": ", file.value().size(), " bytes, at most ", kMaxJsonBytes,
                              " expected", kRemedy));
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

  auto dense = open_listed(dir, "dense.safetensors", /*direct=*/false, m);
  if (!dense.ok()) return dense.status();
  ADAPMOE_RETURN_IF_ERROR(check_dense(dense.value(), m));

  {  // the header is not page-aligned, so it is checked through a buffered
    // descriptor
    auto header = open_listed(dir, "experts.safetensors", /*direct=*/false, m);
    if (!header.ok()) return header.status();
    ADAPMOE_RETURN_IF_ERROR(check_experts(header.value(), m));
  }
  for (const auto& [name, bytes] : m.file_bytes) {
    auto file = open_listed(dir, name, /*direct=*/false, m);
    if (!file.ok()) return file.status();
  }
  auto experts = open_listed(dir, "experts.safetensors", direct_io, m);
  if (!experts.ok()) return experts.status();
  return Pack(std::move(manifest).value(), std::move(dense).value(), std::move(experts).value());
}

int64_t Pack::dense_bytes() const {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : manifest_.dense) bytes += tensor.bytes;
  return align_up(bytes, kPageBytes);
}

Status Pack::check_tile(ExpertId id, int64_t tile, std::span<const std::byte> data) const {
  const auto at = static_cast<size_t>(flat(id) * manifest_.experts.tiles + tile);
  const uint32_t expected = manifest_.tile_crc32c[at];
  const uint32_t found = crc32c(data.data(), data.size());
  if (found == expected) return {};
  return pack_error(str_cat(expert_file_.path(), ": expert ", id.expert, " of layer ", id.layer,
                            ", tile ", tile, " at offset ", tile_offset(id, tile), ": CRC32C is ",
                            std::hex, found, ", expected ", expected,
                            "; the file is damaged, copy or export the pack again"));
}

Status Pack::read_dense(std::span<std::byte> into, bool verify, const Interrupt& interrupt,
                        const DenseSink& sink) const {
  const int64_t bytes = dense_file_.size() - manifest_.dense_data_offset;
  const auto room = static_cast<int64_t>(into.size());
  ADAPMOE_CHECK(sink ? room > 0 : room >= bytes);
  const int64_t longest = sink ? std::min(kPieceBytes, room) : kPieceBytes;
  DenseChecksums checksums(manifest_);
  for (int64_t at = 0; at < bytes; at += longest) {
    if (interrupt && interrupt()) return cancelled("interrupted while reading the dense weights");
    const auto size = static_cast<size_t>(std::min(longest, bytes - at));
    const auto piece = into.subspan(sink ? 0 : static_cast<size_t>(at), size);
    ADAPMOE_RETURN_IF_ERROR(dense_file_.read_at(manifest_.dense_data_offset + at, piece));
    if (verify) checksums.add(at, piece);
    if (sink) ADAPMOE_RETURN_IF_ERROR(sink(at, piece));
  }
  dense_file_.drop_page_cache();  // the only copy that counts is where the pieces went
  return verify ? checksums.check(dense_file_.path()) : Status();
}

}  // namespace adapmoe
