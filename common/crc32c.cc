#include "common/crc32c.h"

#include <array>
#include <cstddef>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

// Arithmetic on polynomials over GF(2), reflected: bit 31 of a word is the coefficient of x^0. The
// CRC register after n more zero bytes is the register times x^(8n) modulo the CRC's polynomial;
// that is what joins the CRCs of pieces.

namespace rnbd {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78;

constexpr uint32_t TimesX(uint32_t a) { return (a & 1) != 0 ? (a >> 1) ^ kPolynomial : a >> 1; }

constexpr uint32_t Multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (; a != 0; a <<= 1, b = TimesX(b)) {
    if ((a & 0x80000000) != 0) product ^= b;
  }
  return product;
}

// x^(8 * bytes).
constexpr uint32_t PowerOfX(size_t bytes) {
  uint32_t result = 0x80000000;
  for (uint32_t square = 0x00800000; bytes != 0; bytes >>= 1, square = Multiply(square, square)) {
    if ((bytes & 1) != 0) result = Multiply(result, square);
  }
  return result;
}

using ByteTable = std::array<uint32_t, 256>;

// Element b: a register that holds b in byte `position` (0 is the lowest), times `factor`.
constexpr ByteTable MakeTable(uint32_t position, uint32_t factor) {
  ByteTable table{};
  for (uint32_t b = 0; b < 256; ++b) table[b] = Multiply(b << (8 * position), factor);
  return table;
}

// Element i: what a byte contributes that has i bytes of its word behind it.
constexpr std::array<ByteTable, 8> MakeWordTables() {
  std::array<ByteTable, 8> tables{};
  for (size_t i = 0; i < 8; ++i) tables[i] = MakeTable(0, PowerOfX(i + 1));
  return tables;
}

constexpr std::array<ByteTable, 8> kWordTables = MakeWordTables();

uint64_t LoadLittleEndian64(const uint8_t* bytes) {
  uint64_t value;
  std::memcpy(&value, bytes, sizeof(value));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  value = __builtin_bswap64(value);
#endif
  return value;
}

#if defined(__x86_64__) || defined(__aarch64__)

#if defined(__x86_64__)
#define RNBD_CRC32C_TARGET __attribute__((target("sse4.2")))
RNBD_CRC32C_TARGET inline uint64_t Step8(uint64_t reg, uint64_t word) {
  return _mm_crc32_u64(reg, word);
}
RNBD_CRC32C_TARGET inline uint64_t Step1(uint64_t reg, uint8_t byte) {
  return _mm_crc32_u8(static_cast<uint32_t>(reg), byte);
}
// Not __builtin_cpu_supports(): with link-time optimization its table in libgcc is not found.
bool HasInstructions() {
  static const bool has = [] {
    uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_SSE4_2) != 0;
  }();
  return has;
}
#else
#define RNBD_CRC32C_TARGET __attribute__((target("+crc")))
RNBD_CRC32C_TARGET inline uint64_t Step8(uint64_t reg, uint64_t word) {
  return __crc32cd(static_cast<uint32_t>(reg), word);
}
RNBD_CRC32C_TARGET inline uint64_t Step1(uint64_t reg, uint8_t byte) {
  return __crc32cb(static_cast<uint32_t>(reg), byte);
}
bool HasInstructions() {
  static const bool has = (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
  return has;
}
#endif

// Multiplies a register by x^(8 * kBytes) with four look-ups.
template <size_t kBytes>
uint64_t Shift(uint64_t reg) {
  static constexpr uint32_t kFactor = PowerOfX(kBytes);
  static constexpr ByteTable kTables[4] = {MakeTable(0, kFactor), MakeTable(1, kFactor),
                                           MakeTable(2, kFactor), MakeTable(3, kFactor)};
  return kTables[0][reg & 0xFF] ^ kTables[1][reg >> 8 & 0xFF] ^ kTables[2][reg >> 16 & 0xFF] ^
         kTables[3][reg >> 24 & 0xFF];
}

// The instruction takes one word per cycle but needs three cycles for each, so three pieces of
// kPiece bytes go side by side. Consumes `*data` as far as whole triples reach.
template <size_t kPiece>
RNBD_CRC32C_TARGET uint64_t Triples(uint64_t reg, const uint8_t** data, size_t* size) {
  static_assert(kPiece % 8 == 0);
  const uint8_t* bytes = *data;
  size_t left = *size;
  for (; left >= 3 * kPiece; left -= 3 * kPiece, bytes += 3 * kPiece) {
    uint64_t second = 0;
    uint64_t third = 0;
    for (size_t i = 0; i < kPiece; i += 8) {
      reg = Step8(reg, LoadLittleEndian64(bytes + i));
      second = Step8(second, LoadLittleEndian64(bytes + kPiece + i));
      third = Step8(third, LoadLittleEndian64(bytes + 2 * kPiece + i));
    }
    reg = Shift<kPiece>(Shift<kPiece>(reg) ^ second) ^ third;
  }
  *data = bytes;
  *size = left;
  return reg;
}

RNBD_CRC32C_TARGET uint32_t Accelerated(uint32_t crc, const uint8_t* bytes, size_t size) {
  uint64_t reg = ~crc;
  // Three of the first make 4080 bytes, three of the second 504: little is left of a 4 KiB block
  // and of a 512-byte sector.
  reg = Triples<1360>(reg, &bytes, &size);
  reg = Triples<168>(reg, &bytes, &size);
  for (; size >= 8; size -= 8, bytes += 8) reg = Step8(reg, LoadLittleEndian64(bytes));
  for (; size > 0; --size, ++bytes) reg = Step1(reg, *bytes);
  return ~static_cast<uint32_t>(reg);
}

#else

bool HasInstructions() { return false; }
uint32_t Accelerated(uint32_t crc, const uint8_t* bytes, size_t size) {
  return Crc32cPortable(crc, absl::MakeConstSpan(bytes, size));
}

#endif

}  // namespace

uint32_t Crc32c(uint32_t crc, absl::Span<const uint8_t> data) {
  if (!HasInstructions()) return Crc32cPortable(crc, data);
  return Accelerated(crc, data.data(), data.size());
}

uint32_t Crc32cPortable(uint32_t crc, absl::Span<const uint8_t> data) {
  uint32_t reg = ~crc;
  const uint8_t* bytes = data.data();
  size_t size = data.size();
  for (; size >= 8; size -= 8, bytes += 8) {
    const uint64_t word = LoadLittleEndian64(bytes) ^ reg;
    reg = 0;
    for (size_t i = 0; i < 8; ++i) reg ^= kWordTables[7 - i][word >> (8 * i) & 0xFF];
  }
  for (; size > 0; --size, ++bytes) reg = reg >> 8 ^ kWordTables[0][(reg ^ *bytes) & 0xFF];
  return ~reg;
}

bool Crc32cIsAccelerated() { return HasInstructions(); }

}  // namespace rnbd
