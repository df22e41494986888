// SPDX-License-Identifier: Apache-2.0
// Loaded with LD_PRELOAD: makes pread, and reads that liburing submits, fail for files whose path
// ends in a given name. Controlled by a small file, named by FAULT_CONTROL, that the test maps and
// writes (tests/support/faults.py).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#if __has_include(<liburing.h>)
#include <liburing.h>
#endif

enum { kNone, kError, kShortHalf, kShortSector, kFlip, kDelay };

struct Control {
  _Atomic int32_t mode;
  _Atomic int32_t remaining;  // reads to spoil; negative: all
  _Atomic int32_t delay_ms;
  _Atomic int32_t spoiled;  // reads that were spoiled so far
  char suffix[112];         // of the files' paths
};

typedef ssize_t (*ReadFunction)(int, void*, size_t, off_t);
static ReadFunction real_pread;
static struct Control* control;

__attribute__((constructor)) static void start(void) {
  real_pread = (ReadFunction)dlsym(RTLD_NEXT, "pread");
  const char* name = getenv("FAULT_CONTROL");
  const int fd = name == NULL ? -1 : open(name, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void* map = mmap(NULL, sizeof(struct Control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (map != MAP_FAILED) control = map;
}

static int is_target(int fd) {
  char link[64];
  char path[4096];
  snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof(path));
  const size_t suffix = strlen(control->suffix);
  return length >= (ssize_t)suffix && suffix > 0 &&
         memcmp(path + length - suffix, control->suffix, suffix) == 0;
}

// Takes one of the reads that are to be spoiled.
static int take(void) {
  int32_t left = atomic_load(&control->remaining);
  while (left > 0 && !atomic_compare_exchange_weak(&control->remaining, &left, left - 1)) {
  }
  if (left == 0) return 0;
  atomic_fetch_add(&control->spoiled, 1);
  return 1;
}

static void wait_ms(int32_t ms) {
  struct timespec rest = {ms / 1000, (ms % 1000) * 1000000L};
  while (nanosleep(&rest, &rest) != 0 && errno == EINTR) {
  }
}

ssize_t pread(int fd, void* data, size_t bytes, off_t offset) {
  const int32_t mode = control == NULL ? kNone : atomic_load(&control->mode);
  if (mode == kNone || !is_target(fd) || !take()) return real_pread(fd, data, bytes, offset);
  if (mode == kError) {
    errno = EIO;
    return -1;
  }
  if (mode == kDelay) wait_ms(atomic_load(&control->delay_ms));
  const ssize_t n = real_pread(fd, data, bytes, offset);
  if (mode == kFlip && n > 0) ((unsigned char*)data)[n / 2] ^= 0x10;
  if (mode == kShortHalf && n > 4096) return n / 2;
  if (mode == kShortSector && n > 512) return 512;
  return n;
}

ssize_t pread64(int fd, void* data, size_t bytes, off_t offset) {
  return pread(fd, data, bytes, offset);
}

#if __has_include(<liburing.h>)
// Changes what is asked for, so that the kernel itself gives the fault.
static void spoil(struct io_uring_sqe* entry, int32_t mode) {
  static int nowhere = -1;
  switch (mode) {
    case kError:  // memory at address 0 is not mapped: EIO
      if (nowhere < 0) nowhere = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
      entry->fd = nowhere;
      entry->off = 0;
      break;
    case kShortHalf: entry->len = entry->len / 2 / 512 * 512; break;
    case kShortSector: entry->len = 512; break;
    case kFlip: entry->off -= 4096; break;  // other bytes of the file
    case kDelay: wait_ms(atomic_load(&control->delay_ms)); break;
    default: break;
  }
}

// Only the submitting thread comes here. liburing is loaded privately by the extension module, so
// the next definition is found through its name.
int io_uring_submit_and_wait(struct io_uring* ring, unsigned wait) {
  static int (*real)(struct io_uring*, unsigned);
  if (real == NULL) {
    void* library = dlopen("liburing.so.2", RTLD_NOW);
    if (library == NULL) abort();
    real = (int (*)(struct io_uring*, unsigned))dlsym(library, "io_uring_submit_and_wait");
  }
  const int32_t mode = control == NULL ? kNone : atomic_load(&control->mode);
  for (unsigned at = ring->sq.sqe_head; mode != kNone && at != ring->sq.sqe_tail; ++at) {
    struct io_uring_sqe* entry = &ring->sq.sqes[at & (*ring->sq.kring_entries - 1)];
    if (entry->opcode == IORING_OP_READ && is_target(entry->fd) && take()) spoil(entry, mode);
  }
  return real(ring, wait);
}
#endif
