// SPDX-License-Identifier: Apache-2.0
#include "runtime/base/crc32c.h"

#include <array>
#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace adapmoe {
namespace {

static_assert(std::endian::native == std::endian::little,
              "words are folded in little-endian order");

constexpr uint32_t kPolynomial = 0x82f63b78u;
using Table = std::array<uint32_t, 256>;

// The register after `zero_bytes` zero bytes, for a register `crc`. Linear over
// GF(2).
constexpr uint32_t advance(uint32_t crc, size_t zero_bytes) {
  for (size_t bit = 0; bit < zero_bytes * 8; ++bit) {
    crc = (crc >> 1) ^ ((crc & 1u) ? kPolynomial : 0u);
  }
  return crc;
}

// table[k][b]: the effect of byte b followed by k zero bytes.
constexpr std::array<Table, 8> make_byte_tables() {
  std::array<Table, 8> tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    tables[0][b] = advance(b, 1);
    for (size_t k = 1; k < 8; ++k) tables[k][b] = advance(tables[k - 1][b], 1);
  }
  return tables;
}

constexpr std::array<Table, 8> kByteTables = make_byte_tables();

uint64_t load64(const uint8_t* p) {
  uint64_t word = 0;
  std::memcpy(&word, p, sizeof(word));
  return word;
}

uint32_t fold_table(uint32_t crc, const uint8_t* p, size_t bytes) {
  for (; bytes >= 8; p += 8, bytes -= 8) {
    const uint64_t word = load64(p) ^ crc;
    crc = 0;
    for (size_t k = 0; k < 8; ++k) crc ^= kByteTables[7 - k][(word >> (8 * k)) & 0xffu];
  }
  for (; bytes > 0; ++p, --bytes) crc = (crc >> 8) ^ kByteTables[0][(crc ^ *p) & 0xffu];
  return crc;
}

#if defined(__x86_64__)

// The instruction has a latency of three cycles and a throughput of one: three
// lanes hide it.
constexpr size_t kLaneBytes = 1024;

// table[k][b]: the register b << 8k moved past kLaneBytes zero bytes.
std::array<Table, 4> make_lane_tables() {
  std::array<uint32_t, 32> moved{};
  for (size_t bit = 0; bit < 32; ++bit) moved[bit] = advance(1u << bit, kLaneBytes);
  std::array<Table, 4> tables{};
  for (size_t k = 0; k < 4; ++k) {
    for (uint32_t b = 0; b < 256; ++b) {
      for (size_t bit = 0; bit < 8; ++bit) {
        if ((b >> bit) & 1u) tables[k][b] ^= moved[8 * k + bit];
      }
    }
  }
  return tables;
}

uint32_t skip_lane(const std::array<Table, 4>& tables, uint32_t crc) {
  return tables[0][crc & 0xffu] ^ tables[1][(crc >> 8) & 0xffu] ^ tables[2][(crc >> 16) & 0xffu] ^
         tables[3][crc >> 24];
}

__attribute__((target("sse4.2"))) uint32_t fold_sse42(uint32_t crc, const uint8_t* p,
                                                      size_t bytes) {
  static const std::array<Table, 4> tables = make_lane_tables();
  for (; bytes >= 3 * kLaneBytes; p += 3 * kLaneBytes, bytes -= 3 * kLaneBytes) {
    uint64_t a = crc;
    uint64_t b = 0;
    uint64_t c = 0;
    for (size_t i = 0; i < kLaneBytes; i += 8) {
      a = _mm_crc32_u64(a, load64(p + i));
      b = _mm_crc32_u64(b, load64(p + kLaneBytes + i));
      c = _mm_crc32_u64(c, load64(p + 2 * kLaneBytes + i));
    }
    crc = skip_lane(tables, static_cast<uint32_t>(a)) ^ static_cast<uint32_t>(b);
    crc = skip_lane(tables, crc) ^ static_cast<uint32_t>(c);
  }
  uint64_t wide = crc;
  for (; bytes >= 8; p += 8, bytes -= 8) wide = _mm_crc32_u64(wide, load64(p));
  crc = static_cast<uint32_t>(wide);
  for (; bytes > 0; ++p, --bytes) crc = _mm_crc32_u8(crc, *p);
  return crc;
}

uint32_t fold(uint32_t crc, const uint8_t* p, size_t bytes) {
  static const bool has_sse42 = __builtin_cpu_supports("sse4.2");
  return has_sse42 ? fold_sse42(crc, p, bytes) : fold_table(crc, p, bytes);
}

#elif defined(__aarch64__)

// Assembly, because compilers disagree on how to reach the instruction in a file for older CPUs.
uint32_t fold_crc(uint32_t crc, const uint8_t* p, size_t bytes) {
  for (; bytes >= 8; p += 8, bytes -= 8) {
    __asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(load64(p)));
  }
  for (; bytes > 0; ++p, --bytes) {
    __asm__(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1" : "+r"(crc) : "r"(uint32_t{*p}));
  }
  return crc;
}

uint32_t fold(uint32_t crc, const uint8_t* p, size_t bytes) {
  static const bool has_crc = (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
  return has_crc ? fold_crc(crc, p, bytes) : fold_table(crc, p, bytes);
}

#else

uint32_t fold(uint32_t crc, const uint8_t* p, size_t bytes) { return fold_table(crc, p, bytes); }

#endif

}  // namespace

uint32_t crc32c(const void* data, size_t bytes, uint32_t before) {
  return ~fold(~before, static_cast<const uint8_t*>(data), bytes);
}

uint32_t crc32c_portable(const void* data, size_t bytes) {
  return ~fold_table(~0u, static_cast<const uint8_t*>(data), bytes);
}

}  // namespace adapmoe
