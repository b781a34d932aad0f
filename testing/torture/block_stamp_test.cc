#include "testing/torture/block_stamp.h"

#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace rnbd::testing {
namespace {

constexpr BlockStamp kStamp = {7, 123, 2, 99};

std::vector<uint8_t> Block(const BlockStamp& stamp, size_t bytes = 512) {
  std::vector<uint8_t> block(bytes, 0xaa);
  FillBlock(stamp, absl::MakeSpan(block));
  return block;
}

bool Contains(const absl::Status& status, const std::string& text) {
  return std::string(status.message()).find(text) != std::string::npos;
}

TEST(BlockStampTest, ComesBack) {
  for (const size_t bytes : {512, 4096}) {
    auto stamp = ReadBlock(Block(kStamp, bytes));
    ASSERT_TRUE(stamp.ok()) << stamp.status();
    EXPECT_EQ(*stamp, kStamp);
  }
}

TEST(BlockStampTest, ZeroesAreNeverWritten) {
  auto stamp = ReadBlock(std::vector<uint8_t>(512));
  ASSERT_TRUE(stamp.ok());
  EXPECT_EQ(*stamp, BlockStamp());
}

TEST(BlockStampTest, WhatIsNoStampIsFound) {
  EXPECT_TRUE(Contains(ReadBlock(std::vector<uint8_t>(512, 1)).status(), "neither"));
  std::vector<uint8_t> late_zeroes(512);
  late_zeroes.back() = 1;
  EXPECT_TRUE(Contains(ReadBlock(late_zeroes).status(), "neither"));
  // A block of another size, that begins well.
  std::vector<uint8_t> cut = Block(kStamp, 4096);
  cut.resize(512);
  EXPECT_TRUE(Contains(ReadBlock(cut).status(), "neither"));
}

TEST(BlockStampTest, EveryFlippedByteIsFound) {
  const std::vector<uint8_t> good = Block(kStamp);
  for (size_t at = 0; at < good.size(); ++at) {
    std::vector<uint8_t> bad = good;
    bad[at] ^= 1;
    EXPECT_FALSE(ReadBlock(bad).ok()) << at;
  }
}

TEST(BlockStampTest, AMixtureOfTwoWritesIsFoundAndItsBorderNamed) {
  std::vector<uint8_t> mixture = Block({7, 123, 2, 100});
  std::memcpy(mixture.data(), Block(kStamp).data(), 256);
  const absl::Status status = ReadBlock(mixture).status();
  EXPECT_TRUE(Contains(status, "begins as write 99")) << status;
  EXPECT_TRUE(Contains(status, "from byte 256")) << status;
}

TEST(BlockStampTest, EveryFieldChangesThePattern) {
  const std::vector<uint8_t> good = Block(kStamp);
  for (const BlockStamp& other : {BlockStamp{8, 123, 2, 99}, BlockStamp{7, 124, 2, 99},
                                  BlockStamp{7, 123, 3, 99}, BlockStamp{7, 123, 2, 98}}) {
    EXPECT_NE(std::memcmp(Block(other).data() + 48, good.data() + 48, 512 - 48), 0);
  }
}

}  // namespace
}  // namespace rnbd::testing
