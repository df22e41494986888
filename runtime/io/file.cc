// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
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

std::string error_text(int64_t error) {
  return std::generic_category().message(static_cast<int>(error));
}

std::string open_problem(int error) {
  std::string text = error_text(error);
  if (error == EMFILE) text += "; let this process have more of them open: ulimit -n";
  if (error == EACCES) text += "; let this user read it";
  return text;
}

// Why a read that returned `n` gave less than was asked for.
std::string shortfall(int64_t n) {
  if (n < 0) return error_text(-n);
  return n == 0 ? "the file ends there" : str_cat("only ", n, " bytes came");
}

// Bytes, or -errno.
int64_t try_read(int fd, std::span<std::byte> out, int64_t offset) {
  const ssize_t n = pread(fd, out.data(), out.size(), offset);
  return n < 0 ? -errno : n;
}

}  // namespace

Result<File> File::open(const std::string& path, bool direct) {
  int fd = direct ? ::open(path.c_str(), kOpenFlags | O_DIRECT) : -1;
  const bool got_direct = fd >= 0;
  if (fd < 0) {
    fd = ::open(path.c_str(), kOpenFlags);
  }
  if (fd < 0) {
    return pack_error(str_cat(path, ": cannot open: ", open_problem(errno)));
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
  return out.empty() ? Status() : finish_read(offset, out, try_read(fd_, out, offset));
}

Status File::finish_read(int64_t offset, std::span<std::byte> out, int64_t first) const {
  const int64_t beyond = offset + static_cast<int64_t>(out.size()) - size_;
  const bool ends_there = beyond > 0 && beyond < kPageBytes;  // in the last page of `out`
  const size_t wanted = out.size() - (ends_there ? static_cast<size_t>(beyond) : 0);
  size_t done = 0;
  int attempts = 0;  // without progress
  int64_t n = first;
  while (true) {
    // O_DIRECT continues on a page boundary: what a short read left of a page is read again.
    size_t now = done + static_cast<size_t>(std::max<int64_t>(n, 0));
    if (now >= wanted) return {};
    if (direct_) now = now / kPageBytes * kPageBytes;
    if (now > done) {
      done = now;
      attempts = 0;
    } else if (n != -EINTR && ++attempts == kAttempts) {
      return read_error(str_cat(path_, ": cannot read ", wanted - done, " bytes at offset ",
                                offset + static_cast<int64_t>(done), ": ", shortfall(n), " (",
                                kAttempts,
                                " attempts); check the disk, or copy or export the pack again"));
    } else if (n != -EINTR) {
      std::this_thread::sleep_for(kRetryDelay);
    }
    n = try_read(fd_, out.subspan(done), offset + static_cast<int64_t>(done));
  }
}

void File::drop_page_cache() const { (void)posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED); }

void expect_open_files(size_t files) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || files <= limit.rlim_cur / 2) return;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, limit.rlim_cur + files);
  (void)setrlimit(RLIMIT_NOFILE, &limit);  // where it fails, opening says so
}

}  // namespace adapmoe
