// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>
#include <utility>

#include "runtime/base/packed_layout.h"  // kPageBytes
#include "runtime/base/strings.h"

namespace adapmoe {
namespace {

constexpr int kAttempts = 3;  // a disk may answer at the second try
constexpr auto kRetryDelay = std::chrono::milliseconds(10);
// O_NONBLOCK: opening a FIFO does not wait for a writer. Regular files do not
// notice it.
constexpr int kOpenFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

std::string errno_text() { return std::generic_category().message(errno); }

// Why a read that returned `n` gave less than was asked for.
std::string shortfall(ssize_t n) {
  if (n < 0) return errno_text();
  return n == 0 ? "the file ends there" : str_cat("only ", n, " bytes came");
}

}  // namespace

Result<File> File::open(const std::string& path, bool direct) {
  int fd = direct ? ::open(path.c_str(), kOpenFlags | O_DIRECT) : -1;
  const bool got_direct = fd >= 0;
  if (fd < 0) {
    fd = ::open(path.c_str(), kOpenFlags);
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
  int attempts = 0;  // without progress
  while (done < out.size()) {
    const ssize_t n =
        pread(fd_, out.data() + done, out.size() - done, offset + static_cast<int64_t>(done));
    if (n < 0 && errno == EINTR) continue;
    const std::string reason =
        n < 0 || static_cast<size_t>(n) < out.size() - done ? shortfall(n) : std::string();
    // O_DIRECT continues on a page boundary: what a short read left of a page
    // is read again.
    size_t now = done + static_cast<size_t>(n > 0 ? n : 0);
    if (direct_ && now < out.size()) now = now / kPageBytes * kPageBytes;
    if (now > done) {
      done = now;
      attempts = 0;
    } else if (++attempts == kAttempts) {
      return read_error(str_cat(path_, ": cannot read ", out.size() - done, " bytes at offset ",
                                offset + static_cast<int64_t>(done), ": ", reason, " (", kAttempts,
                                " attempts); check the disk, or copy or export the pack again"));
    } else {
      std::this_thread::sleep_for(kRetryDelay);
    }
  }
  return {};
}

void File::drop_page_cache() const { (void)posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED); }

}  // namespace adapmoe
