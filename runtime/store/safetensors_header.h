// SPDX-License-Identifier: Apache-2.0
// The header of a safetensors file: enough to hold it against the manifest.
#pragma once
#include <cstdint>
#include <map>
#include <string>

#include "runtime/base/status.h"
#include "runtime/io/file.h"

namespace adapmoe {

struct SafetensorsHeader {
  struct Extent {
    int64_t offset = 0;  // in the data buffer
    int64_t bytes = 0;
  };
  int64_t data_offset = 0;  // of the data buffer in the file
  std::map<std::string, Extent> tensors;
};

// Errors: kPackError for a header that is cut off, not JSON, or points outside the file;
// kReadError.
Result<SafetensorsHeader> read_safetensors_header(const File& file);

}  // namespace adapmoe
