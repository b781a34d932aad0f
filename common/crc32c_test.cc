#include "common/crc32c.h"

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "gtest/gtest.h"

namespace rnbd {
namespace {

absl::Span<const uint8_t> Bytes(absl::string_view text) {
  return absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

// The definition, bit by bit.
uint32_t BitwiseCrc32c(uint32_t crc, absl::Span<const uint8_t> data) {
  crc = ~crc;
  for (uint8_t byte : data) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? crc >> 1 ^ 0x82F63B78 : crc >> 1;
  }
  return ~crc;
}

std::vector<uint8_t> RandomBytes(size_t size) {
  std::mt19937 random(static_cast<uint32_t>(size) + 1);
  std::vector<uint8_t> bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

using Function = uint32_t (*)(uint32_t, absl::Span<const uint8_t>);

class Crc32cTest : public testing::TestWithParam<Function> {};

INSTANTIATE_TEST_SUITE_P(Implementations, Crc32cTest, testing::Values(&Crc32c, &Crc32cPortable),
                         [](const auto& info) {
                           return info.param == &Crc32c ? std::string("Best") : "Portable";
                         });

// From RFC 3720, B.4, and the check value of the CRC catalogue.
TEST_P(Crc32cTest, KnownVectors) {
  const Function crc = GetParam();
  EXPECT_EQ(crc(0, {}), 0u);
  EXPECT_EQ(crc(0, Bytes("123456789")), 0xE3069283u);
  std::vector<uint8_t> bytes(32, 0x00);
  EXPECT_EQ(crc(0, bytes), 0x8A9136AAu);
  bytes.assign(32, 0xFF);
  EXPECT_EQ(crc(0, bytes), 0x62A8AB43u);
  for (uint8_t i = 0; i < 32; ++i) bytes[i] = i;
  EXPECT_EQ(crc(0, bytes), 0x46DD794Eu);
  for (uint8_t i = 0; i < 32; ++i) bytes[i] = static_cast<uint8_t>(31 - i);
  EXPECT_EQ(crc(0, bytes), 0x113FDB5Cu);
}

// Every length around the borders of words (8), short triples (504) and long triples (4080), at
// every alignment.
TEST_P(Crc32cTest, AgreesWithTheDefinition) {
  const std::vector<uint8_t> bytes = RandomBytes(10'000);
  const auto check = [&](size_t start, size_t size) {
    const auto part = absl::MakeConstSpan(bytes).subspan(start, size);
    ASSERT_EQ(GetParam()(0x12345678, part), BitwiseCrc32c(0x12345678, part))
        << size << " bytes at " << start;
  };
  for (size_t size = 0; size < 80; ++size) {
    for (size_t start = 0; start < 8; ++start) check(start, size);
  }
  for (size_t border : {504u, 1008u, 1512u, 4080u, 4096u, 4584u, 8160u, 8664u}) {
    for (size_t size = border - 9; size <= border + 9; ++size) check(size % 8, size);
  }
}

TEST_P(Crc32cTest, PiecesGiveTheCrcOfTheWhole) {
  const std::vector<uint8_t> bytes = RandomBytes(9'000);
  const auto whole = absl::MakeConstSpan(bytes);
  const uint32_t expected = BitwiseCrc32c(0, whole);
  for (size_t cut : {0u, 1u, 7u, 8u, 503u, 504u, 4079u, 4080u, 4096u, 8999u, 9000u}) {
    const uint32_t first = GetParam()(0, whole.first(cut));
    EXPECT_EQ(GetParam()(first, whole.subspan(cut)), expected) << cut;
  }
  uint32_t crc = 0;
  for (size_t at = 0, size = 1; at < whole.size(); at += size, size = size * 3 % 1021) {
    crc = GetParam()(crc, whole.subspan(at, size));
  }
  EXPECT_EQ(crc, expected);
}

TEST(Crc32cBestTest, AcceleratedAgreesWithPortableOnLargeBuffers) {
  if (!Crc32cIsAccelerated()) GTEST_SKIP() << "this CPU has no instructions for it";
  const std::vector<uint8_t> bytes = RandomBytes((1 << 20) + 4099);
  EXPECT_EQ(Crc32c(0, bytes), Crc32cPortable(0, bytes));
}

TEST(Crc32cBestTest, NoticesEveryFlippedBitOfAFrameHeader) {
  std::vector<uint8_t> bytes = RandomBytes(48);
  const uint32_t crc = Crc32c(0, bytes);
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    EXPECT_NE(Crc32c(0, bytes), crc) << bit;
    bytes[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
  }
}

}  // namespace
}  // namespace rnbd
