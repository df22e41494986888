// SPDX-License-Identifier: Apache-2.0
// Records that cannot be used as they are on the disk: each is a file of its own, read whole into
// one of a few staging buffers, from which `place` fills the memory that the request names.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "runtime/io/async_reader.h"

namespace adapmoe {

struct FileRecords {
  // The file of a request; outlives the reader.
  std::function<const File&(uint64_t tag)> file;
  // Called on the reader's threads, for different records at the same time. The status is the
  // completion's.
  std::function<Status(uint64_t tag, std::span<const std::byte> record, std::span<std::byte> into)>
      place;
};

// `reader` has at least `places` lanes, and only this reader uses it. `staging`, page-aligned, is
// cut into `places` buffers, each of which holds the largest file, rounded up to a page. The offset
// of a request is ignored.
std::unique_ptr<AsyncReader> make_file_record_reader(std::unique_ptr<AsyncReader> reader,
                                                     std::span<std::byte> staging, int places,
                                                     FileRecords records);

}  // namespace adapmoe
