// The model must notice what it is there for.

#include "testing/torture/range_model.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"

namespace rnbd::testing {
namespace {

using Kind = RangeModel::Kind;

class RangeModelTest : public ::testing::Test {
 protected:
  static constexpr size_t kCells = 4;

  RangeModelTest() : disk_(model_.begin(kCells)) {}

  // Changes the disk as the write says, as far as `bytes` of it.
  void Apply(uint64_t write, size_t bytes = SIZE_MAX) {
    std::vector<uint8_t> data(disk_.size());
    model_.FillData(write, 0, kCells, data.data());
    std::memcpy(disk_.data(), data.data(), std::min(bytes, data.size()));
  }
  uint64_t Write() {
    const uint64_t write = model_.BeginWrite(Kind::kData, 0, kCells);
    Apply(write);
    model_.EndWrite(write, true);
    return write;
  }
  bool ReadIsPossible() { return model_.EndRead(model_.BeginRead(0, kCells), disk_.data()).ok(); }

  RangeModel model_{1 << 16, 300, 1};
  std::vector<uint8_t> disk_;
};

TEST_F(RangeModelTest, CellsCoverTheDiskAndBeginAtSectors) {
  EXPECT_EQ(model_.begin(0), 0u);
  EXPECT_EQ(model_.begin(model_.cells()), 1u << 16);
  size_t at_sectors = 0;
  for (size_t cell = 0; cell < model_.cells(); ++cell) {
    EXPECT_LT(model_.begin(cell), model_.begin(cell + 1));
    at_sectors += model_.begin(cell) % 512 == 0;
  }
  EXPECT_EQ(at_sectors, 128u);
  EXPECT_GT(model_.cells(), 250u);
}

TEST_F(RangeModelTest, BeginsWithZeroes) {
  EXPECT_TRUE(ReadIsPossible());
  disk_[3] = 1;
  EXPECT_FALSE(ReadIsPossible());
}

TEST_F(RangeModelTest, NoticesAWriteThatIsLost) {
  const std::vector<uint8_t> before = disk_;
  Write();
  EXPECT_TRUE(ReadIsPossible());
  disk_ = before;
  EXPECT_FALSE(ReadIsPossible());
}

TEST_F(RangeModelTest, NoticesAnOldWriteThatComesBack) {
  const uint64_t first = Write();
  Write();
  Apply(first);
  EXPECT_FALSE(ReadIsPossible());
}

TEST_F(RangeModelTest, NoticesOneWrongByte) {
  Write();
  disk_.back() ^= 1;
  EXPECT_FALSE(ReadIsPossible());
}

TEST_F(RangeModelTest, WritesAtTheSameTimeHaveNoOrderUntilOneIsSeen) {
  const uint64_t first = model_.BeginWrite(Kind::kData, 0, kCells);
  const uint64_t second = model_.BeginWrite(Kind::kData, 0, kCells);
  Apply(first);
  EXPECT_TRUE(ReadIsPossible());
  Apply(second);
  EXPECT_TRUE(ReadIsPossible());
  Apply(first, 5);
  EXPECT_TRUE(ReadIsPossible()) << "they may mix";
  model_.EndWrite(first, true);
  model_.EndWrite(second, true);
  EXPECT_TRUE(ReadIsPossible());
  Apply(second);
  EXPECT_FALSE(ReadIsPossible()) << "it was settled otherwise";
}

TEST_F(RangeModelTest, AReadMaySeeAWriteThatRunsBesideIt) {
  const uint64_t read = model_.BeginRead(0, kCells);
  Write();
  EXPECT_TRUE(model_.EndRead(read, disk_.data()).ok());
  const uint64_t old = model_.BeginRead(0, kCells);
  const std::vector<uint8_t> before = disk_;
  Write();
  EXPECT_TRUE(model_.EndRead(old, before.data()).ok());
  EXPECT_FALSE(model_.EndRead(model_.BeginRead(0, kCells), before.data()).ok());
}

TEST_F(RangeModelTest, AFailedWriteMayHaveHappenedOrNot) {
  Write();
  const std::vector<uint8_t> before = disk_;
  const uint64_t failed = model_.BeginWrite(Kind::kData, 0, kCells);
  Apply(failed, 100);
  model_.EndWrite(failed, false);
  const std::vector<uint8_t> torn = disk_;
  EXPECT_TRUE(ReadIsPossible());
  disk_ = before;
  EXPECT_FALSE(ReadIsPossible()) << "torn was seen";
  Write();
  EXPECT_TRUE(ReadIsPossible());
  disk_ = torn;
  EXPECT_FALSE(ReadIsPossible()) << "it came later";
}

TEST_F(RangeModelTest, ADiscardMayZero) {
  Write();
  const uint64_t discard = model_.BeginWrite(Kind::kDiscard, 0, kCells);
  model_.EndWrite(discard, true);
  std::fill(disk_.begin(), disk_.end(), 0);
  EXPECT_TRUE(ReadIsPossible());
  Write();
  std::fill(disk_.begin(), disk_.end(), 0);
  EXPECT_FALSE(ReadIsPossible());
}

TEST_F(RangeModelTest, AFailedReadSaysNothing) {
  EXPECT_TRUE(model_.EndRead(model_.BeginRead(0, kCells), nullptr).ok());
}

}  // namespace
}  // namespace rnbd::testing
