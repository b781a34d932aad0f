#include "server/request_watch.h"

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::server {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kSecond = 1'000'000'000;
constexpr absl::Duration kAge = absl::Seconds(30);
constexpr RequestWatch::Place kDisk = RequestWatch::Place::kDisk;
constexpr RequestWatch::Place kLimit = RequestWatch::Place::kLimit;

class TestRequest final : public BackendRequest {
 public:
  TestRequest(BlockOperation what, uint64_t at, uint32_t bytes) {
    operation = what;
    offset = at;
    length = bytes;
  }
  void OnDone(int) override {}
};

TEST(RequestWatchTest, TellsOfADiskThatDoesNotAnswerUntilItDoes) {
  RequestWatch watch(4);
  watch.SetName(7, "disk0");
  watch.SetName(8, "disk1");
  const TestRequest write(BlockOperation::kWrite, 8192, 4096);
  const TestRequest read(BlockOperation::kRead, 0, 512);
  watch.Begin(0, 7, write, kDisk, 1 * kSecond);
  watch.Begin(1, 7, read, kDisk, 5 * kSecond);
  watch.Begin(2, 8, read, kDisk, 20 * kSecond);
  EXPECT_THAT(watch.Look(30 * kSecond, kAge), IsEmpty());
  EXPECT_THAT(watch.Look(31 * kSecond, kAge),
              ElementsAre("device disk0: the disk does not answer: 1 requests wait, the oldest for "
                          "30s, a WRITE of 4096 bytes at offset 8192"));
  // Again each time, as long as it lasts.
  EXPECT_THAT(watch.Look(40 * kSecond, kAge),
              ElementsAre("device disk0: the disk does not answer: 2 requests wait, the oldest for "
                          "39s, a WRITE of 4096 bytes at offset 8192"));
  watch.End(0);
  watch.End(1);
  watch.End(2);
  EXPECT_THAT(watch.Look(60 * kSecond, kAge), ElementsAre("device disk0: the disk answers again"));
  EXPECT_THAT(watch.Look(90 * kSecond, kAge), IsEmpty());
}

TEST(RequestWatchTest, ListsWhatIsAtTheDiskOfADevice) {
  RequestWatch watch(4);
  const TestRequest write(BlockOperation::kWriteZeroes, 8192, 4096);
  const TestRequest read(BlockOperation::kRead, 0, 512);
  watch.Begin(0, 7, write, kDisk, 1 * kSecond);
  watch.Begin(1, 8, read, kDisk, 2 * kSecond);
  watch.Begin(2, 7, read, kDisk, 3 * kSecond);
  watch.End(2);
  EXPECT_THAT(watch.InFlight(7, 4 * kSecond),
              ElementsAre(InFlightRequest{3 * kSecond, "disk", "write-zeroes", 8192, 4096}));
  EXPECT_THAT(watch.InFlight(9, 4 * kSecond), IsEmpty());
}

// However long that takes, the disk has nothing to do with it.
TEST(RequestWatchTest, WhatWaitsForALimitIsListedAndNotStuck) {
  RequestWatch watch(4);
  const TestRequest read(BlockOperation::kRead, 0, 512);
  watch.Begin(0, 7, read, kLimit, 1 * kSecond);
  EXPECT_THAT(watch.InFlight(7, 3 * kSecond),
              ElementsAre(InFlightRequest{2 * kSecond, "limit", "read", 0, 512}));
  EXPECT_THAT(watch.Look(90 * kSecond, kAge), IsEmpty());
  watch.Begin(0, 7, read, kDisk, 90 * kSecond);
  EXPECT_THAT(watch.InFlight(7, 91 * kSecond),
              ElementsAre(InFlightRequest{1 * kSecond, "disk", "read", 0, 512}));
}

}  // namespace
}  // namespace rnbd::server
