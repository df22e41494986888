// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "runtime/base/strings.h"

namespace adapmoe {
namespace {

std::string errno_text() { return std::generic_category().message(errno); }

}  // namespace

Result<File> File::open(const std::string& path, bool direct) {
  int fd = direct ? ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT) : -1;
  const bool got_direct = fd >= 0;
  if (fd < 0) {
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  }
  if (fd < 0) {
    return pack_error(str_cat(path, ": cannot open: ", errno_text()));
  }
  struct stat info{};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    return pack_error(str_cat(path, ": not a regular file"));
  }
  return File(fd, path, info.st_size, got_direct);
}

File::File(File&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      path_(std::move(other.path_)),
      size_(other.size_),
      direct_(other.direct_) {}

File::~File() {
  if (fd_ >= 0) {
    ::close(fd_);
  }
}

Status File::read_at(int64_t offset, std::span<std::byte> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n =
        pread(fd_, out.data() + done, out.size() - done, offset + static_cast<int64_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return read_error(str_cat(path_, ": read of ", out.size(), " bytes at offset ", offset,
                                " failed: ", errno_text()));
    }
    if (n == 0) {
      return read_error(str_cat(path_, ": ends at byte ", offset + static_cast<int64_t>(done),
                                ", expected ", out.size(), " bytes at offset ", offset,
                                "; the file was truncated, export or copy the pack again"));
    }
    done += static_cast<size_t>(n);
  }
  return {};
}

void File::drop_page_cache() const { (void)posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED); }

}  // namespace adapmoe
