#include "common/timed_io.h"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "gtest/gtest.h"

namespace rnbd {
namespace {

class TimedIoTest : public ::testing::Test {
 protected:
  TimedIoTest() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    ours_ = UniqueFd(ends[0]);
    theirs_ = UniqueFd(ends[1]);
  }
  static WaitLimits Soon() { return {absl::Now() + absl::Milliseconds(50)}; }
  static WaitLimits Late() { return {absl::Now() + absl::Seconds(30)}; }

  UniqueFd ours_;
  UniqueFd theirs_;
};

TEST_F(TimedIoTest, BytesThatComeInPiecesAreTakenTogether) {
  std::thread peer([&] {
    for (const char* piece : {"ab", "c", "defg"}) {
      EXPECT_GT(write(theirs_.get(), piece, strlen(piece)), 0);
      absl::SleepFor(absl::Milliseconds(5));
    }
  });
  std::vector<uint8_t> bytes(7);
  EXPECT_TRUE(ReceiveAll(ours_.get(), absl::MakeSpan(bytes), Late()).ok());
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), "abcdefg");
  peer.join();
}

TEST_F(TimedIoTest, MoreThanTheSocketHoldsIsSentAsThePeerTakesIt) {
  std::vector<uint8_t> sent(4 << 20, 7);
  std::vector<uint8_t> received(sent.size());
  std::thread peer(
      [&] { EXPECT_TRUE(ReceiveAll(theirs_.get(), absl::MakeSpan(received), Late()).ok()); });
  EXPECT_TRUE(SendAll(ours_.get(), sent, Late()).ok());
  peer.join();
  EXPECT_EQ(received, sent);
}

TEST_F(TimedIoTest, APeerThatIsSilentOrTakesNothingIsLeftAtTheDeadline) {
  std::vector<uint8_t> bytes(4 << 20);
  EXPECT_EQ(StatusToErrno(ReceiveAll(ours_.get(), absl::MakeSpan(bytes), Soon())), ETIMEDOUT);
  EXPECT_EQ(StatusToErrno(SendAll(ours_.get(), bytes, Soon())), ETIMEDOUT);
}

TEST_F(TimedIoTest, APeerThatLeavesIsSeen) {
  std::vector<uint8_t> bytes(16);
  ASSERT_EQ(write(theirs_.get(), "half", 4), 4);
  theirs_.reset(-1);
  EXPECT_EQ(StatusToErrno(ReceiveAll(ours_.get(), absl::MakeSpan(bytes), Late())), ECONNRESET);
  EXPECT_EQ(StatusToErrno(SendAll(ours_.get(), bytes, Late())), ECONNRESET);
}

TEST_F(TimedIoTest, AWaitCanBeCancelled) {
  const UniqueFd event(eventfd(0, 0));
  WaitLimits limits = Late();
  limits.cancelled_by = event.get();
  std::thread other([&] {
    absl::SleepFor(absl::Milliseconds(20));
    EXPECT_EQ(eventfd_write(event.get(), 1), 0);
  });
  std::vector<uint8_t> bytes(1);
  EXPECT_EQ(StatusToErrno(ReceiveAll(ours_.get(), absl::MakeSpan(bytes), limits)), ECANCELED);
  other.join();
}

}  // namespace
}  // namespace rnbd
