// SPDX-License-Identifier: Apache-2.0
#include "runtime/store/safetensors_header.h"

#include <cstring>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "runtime/base/strings.h"
#include "runtime/store/json_fields.h"

namespace adapmoe {
namespace {

SafetensorsHeader parse(const std::string& text, int64_t data_offset, int64_t file_size) {
  SafetensorsHeader header;
  header.data_offset = data_offset;
  const nlohmann::json root = parse_json(text);
  const Fields fields(root, "header");
  for (const auto& item : fields.json().items()) {
    if (item.key() == "__metadata__") continue;
    const Fields tensor(item.value(), "header." + shown_name(item.key()));
    const nlohmann::json& range = tensor.at("data_offsets");
    if (!range.is_array() || range.size() != 2 || !range[0].is_number_unsigned() ||
        !range[1].is_number_unsigned()) {
      throw FieldError(tensor.name() + ".data_offsets: expected two offsets");
    }
    const auto begin = range[0].get<uint64_t>();
    const auto end = range[1].get<uint64_t>();
    if (begin > end || end > static_cast<uint64_t>(file_size - data_offset)) {
      throw FieldError(str_cat(tensor.name(), ": bytes [", begin, ", ", end,
                               ") lie outside the file of ", file_size, " bytes"));
    }
    header.tensors[item.key()] = {static_cast<int64_t>(begin), static_cast<int64_t>(end - begin)};
  }
  return header;
}

}  // namespace

Result<SafetensorsHeader> read_safetensors_header(const File& file) {
  uint64_t header_bytes = 0;
  if (file.size() < 8) {
    return pack_error(str_cat(file.path(), ": ", file.size(),
                              " bytes, too short for a header; copy or export the pack again"));
  }
  ADAPMOE_RETURN_IF_ERROR(file.read_at(0, std::as_writable_bytes(std::span(&header_bytes, 1))));
  if (header_bytes > kMaxJsonBytes || header_bytes > static_cast<uint64_t>(file.size() - 8)) {
    return pack_error(str_cat(file.path(), ": header of ", header_bytes,
                              " bytes at offset 0, expected at most ", kMaxJsonBytes,
                              " within the file of ", file.size(),
                              " bytes; copy or export the pack again"));
  }
  std::string text(header_bytes, '\0');
  ADAPMOE_RETURN_IF_ERROR(file.read_at(8, std::as_writable_bytes(std::span(text))));
  try {
    return parse(text, static_cast<int64_t>(8 + header_bytes), file.size());
  } catch (const FieldError& error) {
    return pack_error(str_cat(file.path(), ": header at offset 8: ", error.what(),
                              "; copy or export the pack again"));
  }
}

}  // namespace adapmoe
