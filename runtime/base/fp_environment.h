// SPDX-License-Identifier: Apache-2.0
// Identical bits need one floating-point environment: round to nearest, no flush-to-zero, no
// denormals-are-zero.
#pragma once
#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace adapmoe {

// Sets the canonical environment for this thread and restores the caller's on destruction.
class FpEnvironment {
 public:
  FpEnvironment() : saved_(read()) { write(kCanonical); }
  ~FpEnvironment() { write(saved_); }
  FpEnvironment(const FpEnvironment&) = delete;
  FpEnvironment& operator=(const FpEnvironment&) = delete;

 private:
#if defined(__x86_64__)
  static constexpr uint64_t kCanonical = 0x1F80;  // all exceptions masked, nearest, FTZ and DAZ off
  static uint64_t read() { return _mm_getcsr(); }
  static void write(uint64_t value) { _mm_setcsr(static_cast<uint32_t>(value)); }
#elif defined(__aarch64__)
  static constexpr uint64_t kCanonical = 0;  // FPCR: nearest, FZ and FZ16 off
  static uint64_t read() {
    uint64_t value = 0;
    __asm__ volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void write(uint64_t value) { __asm__ volatile("msr fpcr, %0" : : "r"(value)); }
#else
#error "state the floating-point environment of this architecture"
#endif
  uint64_t saved_;
};

}  // namespace adapmoe
