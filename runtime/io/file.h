// SPDX-License-Identifier: Apache-2.0
// A read-only file, with O_DIRECT where the file system takes it. Thread-safe: positional reads
// only.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "runtime/base/status.h"

namespace adapmoe {

class File {
 public:
  // Errors: kPackError when the file is missing or not a regular file, naming it. When `direct` is
  // wanted but refused (tmpfs, overlay), the file is opened buffered and direct() is false.
  static Result<File> open(const std::string& path, bool direct);
  File(File&& other) noexcept;
  File& operator=(File&&) = delete;
  ~File();

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }
  bool direct() const { return direct_; }
  int descriptor() const { return fd_; }

  // Fills `out` from `offset`; the page in which the file ends may be asked for whole. With
  // direct(), offset, size and address are multiples of 4 KiB. Short reads are continued, failed
  // ones tried again. Errors: kReadError naming file, offset and reason, also for a file that ends
  // early.
  Status read_at(int64_t offset, std::span<std::byte> out) const;

  // The same for a read whose first try was made elsewhere and gave `first` bytes, or -errno.
  Status finish_read(int64_t offset, std::span<std::byte> out, int64_t first) const;

  // Tells the kernel that what was read buffered is not needed again. Only advice.
  void drop_page_cache() const;

 private:
  File(int fd, std::string path, int64_t size, bool direct)
      : fd_(fd), path_(std::move(path)), size_(size), direct_(direct) {}

  int fd_;
  std::string path_;
  int64_t size_;
  bool direct_;
};

// Raises this process's limit on open files, as far as it may be raised, where `files` more would
// take over half of it.
void expect_open_files(size_t files);

}  // namespace adapmoe
