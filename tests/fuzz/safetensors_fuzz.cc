// SPDX-License-Identifier: Apache-2.0
// read_safetensors_header() on any file: a typed error, or extents that lie inside the file.
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "runtime/base/check.h"
#include "runtime/store/safetensors_header.h"

namespace adapmoe {
namespace {

void check(const SafetensorsHeader& header, int64_t file_bytes) {
  ADAPMOE_CHECK(header.data_offset >= 8 && header.data_offset <= file_bytes);
  for (const auto& [name, extent] : header.tensors) {
    ADAPMOE_CHECK(extent.offset >= 0 && extent.bytes >= 0);
    ADAPMOE_CHECK(extent.offset + extent.bytes <= file_bytes - header.data_offset);
  }
}

}  // namespace
}  // namespace adapmoe

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const int descriptor = memfd_create("safetensors_fuzz", 0);
  static const std::string path = "/proc/self/fd/" + std::to_string(descriptor);
  ADAPMOE_CHECK(ftruncate(descriptor, 0) == 0);
  ADAPMOE_CHECK(pwrite(descriptor, data, size, 0) == static_cast<ssize_t>(size));
  const auto file = adapmoe::File::open(path, /*direct=*/false);
  ADAPMOE_CHECK(file.ok());
  const auto header = adapmoe::read_safetensors_header(file.value());
  if (header.ok()) adapmoe::check(header.value(), file.value().size());
  ADAPMOE_CHECK(header.ok() || header.status().message().size() < 1000);
  return 0;
}
