#include "testing/torture/block_history.h"

#include <string>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace rnbd::testing {
namespace {

class BlockHistoryTest : public ::testing::Test {
 protected:
  void Write(uint64_t sequence, bool fua = false) {
    history_.BeginWrite(0, sequence);
    history_.Acknowledge(0, sequence, fua);
  }
  void FailedWrite(uint64_t sequence) {
    history_.BeginWrite(0, sequence);
    history_.Fail(0, sequence);
  }
  void Flush(bool succeeded = true) { history_.EndFlush(history_.BeginFlush(), succeeded); }
  // Without a check's effect on what is possible afterwards.
  bool Allows(uint64_t sequence) const {
    BlockHistory copy = history_;
    return copy.Check(0, sequence).ok();
  }
  // The versions up to 9 that are allowed, as "1 4".
  std::string Allowed() const {
    std::string text;
    for (uint64_t sequence = 0; sequence <= 9; ++sequence) {
      if (Allows(sequence)) text += (text.empty() ? "" : " ") + std::to_string(sequence);
    }
    return text;
  }

  BlockHistory history_{1};
};

TEST_F(BlockHistoryTest, ADiskBeginsEmpty) { EXPECT_EQ(Allowed(), "0"); }

TEST_F(BlockHistoryTest, WhatIsAcknowledgedIsThere) {
  Write(1);
  EXPECT_EQ(Allowed(), "1");
  Write(2);
  EXPECT_EQ(Allowed(), "2");
}

TEST_F(BlockHistoryTest, AViolationSaysWhatItIs) {
  Write(3);
  Flush();
  Write(4);
  EXPECT_EQ(history_.Check(0, 3).message(),
            "block 0 holds write 3, which a later acknowledged write had replaced; its history: "
            "3 durable, 4 acknowledged (possible)");
  EXPECT_NE(std::string(history_.Check(0, 5).message()).find("never sent to it"),
            std::string::npos);
}

TEST_F(BlockHistoryTest, AFailedWriteMayBeThereUntilALaterOneIsAcknowledged) {
  Write(1);
  FailedWrite(2);
  EXPECT_EQ(Allowed(), "1 2");
  FailedWrite(3);
  EXPECT_EQ(Allowed(), "1 2 3");
  Write(4);
  EXPECT_EQ(Allowed(), "4");
}

TEST_F(BlockHistoryTest, AFailedWriteMayComeAfterItWasNotSeen) {
  Write(1);
  FailedWrite(2);
  EXPECT_TRUE(history_.Check(0, 1).ok());
  EXPECT_EQ(Allowed(), "1 2");
}

TEST_F(BlockHistoryTest, ButDoesNotGoAgain) {
  Write(1);
  FailedWrite(2);
  EXPECT_TRUE(history_.Check(0, 2).ok());
  EXPECT_EQ(Allowed(), "2");
}

TEST_F(BlockHistoryTest, ALostHostKeepsWhatWasFlushed) {
  Write(1);
  Write(2);
  Flush();
  Write(3);
  Write(4);
  history_.HostLost();
  EXPECT_EQ(Allowed(), "2 3 4");
}

TEST_F(BlockHistoryTest, ALostHostKeepsFua) {
  Write(1);
  Write(2, /*fua=*/true);
  Write(3);
  history_.HostLost();
  EXPECT_EQ(Allowed(), "2 3");
}

TEST_F(BlockHistoryTest, AFailedFlushKeepsNothing) {
  Write(1);
  Flush(/*succeeded=*/false);
  history_.HostLost();
  EXPECT_EQ(Allowed(), "0 1");
}

TEST_F(BlockHistoryTest, AFlushCoversNoWriteThatWasInFlightBesideIt) {
  Write(1);
  history_.BeginWrite(0, 2);
  const uint64_t flush = history_.BeginFlush();
  history_.Acknowledge(0, 2, false);
  history_.EndFlush(flush, true);
  history_.HostLost();
  EXPECT_EQ(Allowed(), "1 2");
}

TEST_F(BlockHistoryTest, WhatIsSeenAfterALostHostDecides) {
  Write(1);
  Flush();
  Write(2);
  Write(3);
  history_.HostLost();
  EXPECT_TRUE(history_.Check(0, 2).ok());
  EXPECT_EQ(Allowed(), "2");
  // Lost is lost, whatever is lost next.
  history_.HostLost();
  EXPECT_EQ(Allowed(), "1 2");
}

TEST_F(BlockHistoryTest, AfterALostHostAFlushHasToFail) {
  Write(1);
  Flush();
  Write(2);
  Write(3);
  history_.HostLost();
  Flush();  // a lie, unless all is there
  EXPECT_EQ(Allowed(), "3");
}

TEST_F(BlockHistoryTest, AFlushThatBeganBeforeTheHostWasLostIsHeldToo) {
  Write(1);
  const uint64_t flush = history_.BeginFlush();
  Write(2);
  history_.HostLost();
  history_.EndFlush(flush, true);
  EXPECT_EQ(Allowed(), "1 2");
}

TEST_F(BlockHistoryTest, AfterAFailedFlushLaterOnesCoverWhatWasSeenOnly) {
  Write(1);
  Flush();
  Write(2);
  history_.HostLost();
  Flush(/*succeeded=*/false);
  Flush();
  EXPECT_EQ(Allowed(), "1 2");
  EXPECT_TRUE(history_.Check(0, 2).ok());
  Flush();
  history_.HostLost();
  EXPECT_EQ(Allowed(), "2");
}

TEST_F(BlockHistoryTest, AWriteAfterALostHostSettlesTheBlock) {
  Write(1);
  history_.HostLost();
  Write(2);
  EXPECT_EQ(Allowed(), "2");
  history_.HostLost();
  EXPECT_EQ(Allowed(), "0 1 2");
}

TEST_F(BlockHistoryTest, BlocksAreApart) {
  BlockHistory history(2);
  history.BeginWrite(1, 5);
  history.Acknowledge(1, 5, false);
  EXPECT_TRUE(history.Check(0, 0).ok());
  EXPECT_TRUE(history.Check(1, 5).ok());
  EXPECT_FALSE(history.Check(0, 5).ok());
}

}  // namespace
}  // namespace rnbd::testing
