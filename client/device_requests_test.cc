#include "client/device_requests.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>
#include <vector>

#include "common/ring.h"
#include "common/unique_fd.h"
#include "gtest/gtest.h"
#include "testing/fuse/device_requests_fixture.h"
#include "testing/fuse/fake_block_device.h"

namespace rnbd::client {
namespace {

using testing::FakeBlockDevice;

constexpr uint32_t kPunchHole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
constexpr uint32_t kZeroRange = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

class DeviceRequestsTest : public DeviceRequestsFixture {};

TEST_F(DeviceRequestsTest, ReadReturnsWhatTheDeviceHolds) {
  const std::string data = Pattern(4096);
  memcpy(device_->memory() + 8192, data.data(), data.size());
  StartRead(8192, 4096);
  const Answer answer = Expect();
  EXPECT_EQ(last_unique_, answer.unique);
  EXPECT_EQ(0, answer.error);
  EXPECT_EQ(data, answer.data);
  EXPECT_EQ(std::vector<uint32_t>{4096}, OnlySeen().spans);
}

TEST_F(DeviceRequestsTest, ReadOfAnySizeIsOneSpan) {
  const std::string data = Pattern(1 << 20);
  memcpy(device_->memory(), data.data(), data.size());
  for (uint32_t size : {1U, 16384U, 16385U, 1U << 20}) {
    StartRead(0, size);
    EXPECT_EQ(data.substr(0, size), Expect().data) << size;
    EXPECT_EQ(std::vector<uint32_t>{size}, OnlySeen().spans);
  }
}

TEST_F(DeviceRequestsTest, ReadIsShortAtTheEndAndEmptyBehindIt) {
  StartRead(kSize - 512, 4096);
  EXPECT_EQ(512U, Expect().data.size());
  EXPECT_EQ(512U, OnlySeen().length);
  for (uint64_t offset : {kSize, kSize + 1, ~uint64_t{0}}) {
    StartRead(offset, 4096);
    const Answer answer = Expect();
    EXPECT_EQ(0, answer.error);
    EXPECT_EQ("", answer.data);
  }
  StartRead(0, 0);
  EXPECT_EQ("", Expect().data);
  EXPECT_TRUE(device_->TakeSeen().empty());
}

TEST_F(DeviceRequestsTest, WriteReachesTheDeviceFromWhereItLanded) {
  for (size_t size : {size_t{1}, size_t{4096}, size_t{16384}, size_t{16385}, size_t{1} << 20}) {
    const std::string data = Pattern(size);
    StartWrite(512, data);
    EXPECT_EQ(size, ExpectWritten());
    EXPECT_EQ(0, memcmp(device_->memory() + 512, data.data(), size));
    const std::vector<uint32_t> spans =
        size <= 16384 ? std::vector<uint32_t>{static_cast<uint32_t>(size)}
                      : std::vector<uint32_t>{16384, static_cast<uint32_t>(size - 16384)};
    const FakeBlockDevice::Seen seen = OnlySeen();
    EXPECT_EQ(spans, seen.spans);
    EXPECT_FALSE(seen.fua);
  }
}

TEST_F(DeviceRequestsTest, WriteIsCutAtTheEndAsOnABlockDevice) {
  StartWrite(kSize - 512, Pattern(4096));
  EXPECT_EQ(512U, ExpectWritten());
  EXPECT_EQ(512U, OnlySeen().length);
  // Cut within the first and at the border of the second buffer.
  StartWrite(kSize - 16384, Pattern(32768));
  EXPECT_EQ(16384U, ExpectWritten());
  EXPECT_EQ(std::vector<uint32_t>{16384}, OnlySeen().spans);
  StartWrite(kSize - 20000, Pattern(32768));
  EXPECT_EQ(20000U, ExpectWritten());
  EXPECT_EQ((std::vector<uint32_t>{16384, 3616}), OnlySeen().spans);
}

TEST_F(DeviceRequestsTest, WriteBehindTheEndFindsNoSpace) {
  for (uint64_t offset : {kSize, kSize + 512, ~uint64_t{0}}) {
    StartWrite(offset, Pattern(512));
    EXPECT_EQ(ENOSPC, Expect().error);
  }
  EXPECT_TRUE(device_->TakeSeen().empty());
}

TEST_F(DeviceRequestsTest, EmptyWriteSucceeds) {
  StartWrite(0, "");
  EXPECT_EQ(0U, ExpectWritten());
  EXPECT_TRUE(device_->TakeSeen().empty());
}

TEST_F(DeviceRequestsTest, SynchronousWritesForceUnitAccess) {
  for (uint32_t flags : {O_DSYNC, O_SYNC}) {
    StartWrite(0, Pattern(512), flags | O_RDWR | O_DIRECT);
    EXPECT_EQ(512U, ExpectWritten());
    EXPECT_TRUE(OnlySeen().fua);
  }
  StartWrite(0, Pattern(512), O_RDWR | O_DIRECT);
  EXPECT_EQ(512U, ExpectWritten());
  EXPECT_FALSE(OnlySeen().fua);
}

TEST_F(DeviceRequestsTest, LengthsThatDoNotFitTheMessageAreRefused) {
  FuseHead head = Head(FUSE_WRITE);
  head.write.size = 8192;
  Handle(head, Pattern(4096));
  EXPECT_EQ(EINVAL, Expect().error);
  StartRead(0, (1 << 20) + 1);
  EXPECT_EQ(EINVAL, Expect().error);
  EXPECT_TRUE(device_->TakeSeen().empty());
}

TEST_F(DeviceRequestsTest, FsyncFlushes) {
  Handle(Head(FUSE_FSYNC));
  EXPECT_EQ(0, Expect().error);
  EXPECT_EQ(BlockOperation::kFlush, OnlySeen().operation);
}

TEST_F(DeviceRequestsTest, PunchedHolesAndZeroedRangesReadAsZeroes) {
  for (uint32_t mode : {kPunchHole, kZeroRange, uint32_t{FALLOC_FL_ZERO_RANGE}}) {
    memset(device_->memory(), 0xff, 8192);
    StartFallocate(4096, 4096, mode);
    EXPECT_EQ(0, Expect().error);
    EXPECT_EQ(0xff, device_->memory()[4095]);
    EXPECT_EQ(0, device_->memory()[4096]);
    EXPECT_EQ(0, device_->memory()[8191]);
    const FakeBlockDevice::Seen seen = OnlySeen();
    EXPECT_EQ(BlockOperation::kWriteZeroes, seen.operation);
    EXPECT_EQ(mode != kPunchHole, seen.no_unmap);
    EXPECT_TRUE(seen.spans.empty());
  }
}

TEST_F(DeviceRequestsTest, FallocateIsCutAtTheEnd) {
  StartFallocate(kSize - 512, uint64_t{1} << 62, kPunchHole);
  EXPECT_EQ(0, Expect().error);
  EXPECT_EQ(512U, OnlySeen().length);
  StartFallocate(kSize, 4096, kPunchHole);
  EXPECT_EQ(0, Expect().error);
  StartFallocate(kSize + 4096, 4096, kZeroRange);
  EXPECT_EQ(0, Expect().error);
  EXPECT_TRUE(device_->TakeSeen().empty());
}

TEST_F(DeviceRequestsTest, FallocateNeverGrowsTheFile) {
  StartFallocate(kSize - 512, 1024, FALLOC_FL_ZERO_RANGE);
  EXPECT_EQ(ENOSPC, Expect().error);
  StartFallocate(512, ~uint64_t{0}, FALLOC_FL_ZERO_RANGE);
  EXPECT_EQ(ENOSPC, Expect().error);
  EXPECT_TRUE(device_->TakeSeen().empty());
}

TEST_F(DeviceRequestsTest, OtherKindsOfFallocateAreNotSupported) {
  for (uint32_t mode : {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_COLLAPSE_RANGE,
                        FALLOC_FL_INSERT_RANGE, FALLOC_FL_UNSHARE_RANGE}) {
    StartFallocate(0, 4096, mode);
    EXPECT_EQ(EOPNOTSUPP, Expect().error) << mode;
  }
  EXPECT_TRUE(device_->TakeSeen().empty());
}

TEST_F(DeviceRequestsTest, ErrorsOfTheDeviceReachTheCaller) {
  device_->FailWith(ENOSPC);
  StartWrite(0, Pattern(4096));
  EXPECT_EQ(ENOSPC, Expect().error);
  StartRead(0, 4096);
  EXPECT_EQ(ENOSPC, Expect().error);
  device_->FailWith(ENOSYS);  // for FUSE it would mean that no fsync is ever needed again
  Handle(Head(FUSE_FSYNC));
  EXPECT_EQ(EOPNOTSUPP, Expect().error);
}

TEST_F(DeviceRequestsTest, NoDeviceIsNoCrash) {
  inode_ += 1 << 16;
  StartRead(0, 4096);
  EXPECT_EQ(ENODEV, Expect().error);
  StartWrite(0, Pattern(4096));
  EXPECT_EQ(ENODEV, Expect().error);
  Handle(Head(FUSE_FSYNC));
  EXPECT_EQ(ENODEV, Expect().error);
  StartFallocate(0, 4096, kPunchHole);
  EXPECT_EQ(ENODEV, Expect().error);
}

TEST_F(DeviceRequestsTest, RepliesWhenTheDeviceIsDoneAndNotBefore) {
  device_->SetCompletion(FakeBlockDevice::Completion::kHeld);
  const std::string data = Pattern(4096);
  StartWrite(4096, data);
  EXPECT_FALSE(Next().has_value());
  EXPECT_EQ(1U, requests_->in_flight());
  device_->Finish();
  Turn();
  EXPECT_EQ(4096U, ExpectWritten());
  EXPECT_EQ(0, memcmp(device_->memory() + 4096, data.data(), data.size()));
}

TEST_F(DeviceRequestsTest, ReadsWithoutABufferWaitInOrder) {
  device_->SetCompletion(FakeBlockDevice::Completion::kHeld);
  // Two of three small buffers; the third one stays with the reader.
  BufferPool* pool = memory_->pool(0);
  uint8_t* landing = pool->small.Take();
  StartWrite(0, Pattern(512));
  uint8_t* last = pool->small.Take();
  ASSERT_NE(nullptr, last);
  ASSERT_EQ(0U, pool->small.free());
  pool->small.Return(landing);
  StartRead(512, 512);  // with the landing buffer given back, waits: see below
  StartRead(1024, 512);
  device_->SetCompletion(FakeBlockDevice::Completion::kAtOnce);
  size_t waiting = 0;
  requests_->ForEachUnanswered([&](const DeviceRequests::Unanswered& one) {
    waiting += one.place == RequestPlace::kBuffer ? 1 : 0;
  });
  EXPECT_EQ(2U, waiting);
  device_->TakeSeen();
  pool->small.Return(last);
  device_->Finish();
  Turn();
  Turn();
  EXPECT_EQ(512U, ExpectWritten());
  const uint64_t first = Expect().unique;
  EXPECT_EQ(first + 1, Expect().unique);
  std::vector<FakeBlockDevice::Seen> seen = device_->TakeSeen();
  ASSERT_EQ(2U, seen.size());
  EXPECT_EQ(512U, seen[0].offset);
  EXPECT_EQ(1024U, seen[1].offset);
}

TEST_F(DeviceRequestsTest, TellsWhenRoomComesBack) {
  class Flag final : public Ring::Hook {
   public:
    void OnTurn() override { ++count; }
    int count = 0;
  } flag;
  device_->SetCompletion(FakeBlockDevice::Completion::kHeld);
  for (size_t i = 0; i < kCapacity; ++i) {
    EXPECT_TRUE(requests_->HasRoom());
    Handle(Head(FUSE_FSYNC));
  }
  EXPECT_FALSE(requests_->HasRoom());
  requests_->CallWhenFreed(&flag);
  Turn();
  EXPECT_EQ(0, flag.count);
  device_->Finish();
  Turn();
  Turn();  // in which the answers have been written
  EXPECT_EQ(1, flag.count);
  EXPECT_TRUE(requests_->HasRoom());
  for (size_t i = 0; i < kCapacity; ++i) EXPECT_EQ(0, Expect().error);
}

TEST_F(DeviceRequestsTest, ListsWhatIsUnanswered) {
  device_->SetCompletion(FakeBlockDevice::Completion::kHeld);
  StartWrite(4096, Pattern(512));
  int count = 0;
  requests_->ForEachUnanswered([&](const DeviceRequests::Unanswered& one) {
    ++count;
    EXPECT_EQ(BlockOperation::kWrite, one.operation);
    EXPECT_EQ(device_.get(), one.device);
    EXPECT_EQ(4096U, one.offset);
    EXPECT_EQ(512U, one.length);
    EXPECT_EQ(RequestPlace::kServer, one.place);
    EXPECT_GE(one.age_ns, 0);
  });
  EXPECT_EQ(1, count);
}

// ---- Many answers -------------------------------------------------------------------------------

class DeviceRequestsAnswersTest : public DeviceRequestsTest {
 protected:
  // Three in flight, so that what is answered now is answered together with others.
  DeviceRequestsAnswersTest() {
    device_->SetCompletion(FakeBlockDevice::Completion::kHeld);
    for (size_t i = 0; i < kHeld; ++i) Handle(Head(FUSE_FSYNC));
    device_->SetCompletion(FakeBlockDevice::Completion::kAtOnce);
    device_->TakeSeen();
  }

  size_t CountUnanswered() {
    size_t count = 0;
    requests_->ForEachUnanswered([&count](const DeviceRequests::Unanswered&) { ++count; });
    return count;
  }

  static constexpr size_t kHeld = kCapacity - 1;
};

TEST_F(DeviceRequestsAnswersTest, GoOutAtTheEndOfTheTurn) {
  const std::string data = Pattern(4096);
  memcpy(device_->memory() + 8192, data.data(), data.size());
  StartRead(8192, 4096);
  EXPECT_FALSE(Next().has_value());
  Turn();
  const Answer answer = Expect();
  EXPECT_EQ(last_unique_, answer.unique);
  EXPECT_EQ(0, answer.error);
  EXPECT_EQ(data, answer.data);

  StartWrite(0, data);
  Turn();
  Turn();
  EXPECT_EQ(4096U, ExpectWritten());
  Handle(Head(FUSE_FSYNC));
  Turn();
  const Answer synced = Expect();
  EXPECT_EQ(last_unique_, synced.unique);
  EXPECT_EQ(0, synced.error);
  EXPECT_EQ("", synced.data);
}

TEST_F(DeviceRequestsAnswersTest, LeaveTheirBufferAndPlaceWhenTheyAreWritten) {
  const size_t free = memory_->pool(0)->small.free();
  StartRead(0, 4096);
  EXPECT_EQ(free - 1, memory_->pool(0)->small.free());
  EXPECT_FALSE(requests_->HasRoom());
  EXPECT_EQ(kHeld, CountUnanswered());
  Turn();
  Turn();
  EXPECT_EQ(free, memory_->pool(0)->small.free());
  EXPECT_TRUE(requests_->HasRoom());
  EXPECT_EQ(kHeld, requests_->in_flight());
  Expect();
}

TEST_F(DeviceRequestsAnswersTest, LargeOnesAndErrorsGoAtOnce) {
  StartRead(0, RequestMemory::kSmallBytes + 1);
  EXPECT_EQ(RequestMemory::kSmallBytes + 1, Expect().data.size());
  device_->SetCompletion(FakeBlockDevice::Completion::kHeld);
  StartWrite(0, Pattern(512));
  device_->Finish(EIO);
  Turn();
  for (size_t i = 0; i < kCapacity; ++i) EXPECT_EQ(EIO, Expect().error);
}

TEST_F(DeviceRequestsAnswersTest, ThatTheKernelDoesNotTakeAreCounted) {
  const UniqueFd unwritable(open("/dev/null", O_RDONLY | O_CLOEXEC));
  ASSERT_GE(dup2(unwritable.get(), ours_.get()), 0);
  StartRead(0, 4096);
  Turn();
  Turn();
  EXPECT_EQ(1U, replies_->failures());
  EXPECT_EQ(kHeld, requests_->in_flight());
}

TEST_F(DeviceRequestsAnswersTest, ThatNobodyWantsAnyMoreAreNotCounted) {
  signal(SIGPIPE, SIG_IGN);  // of sockets; /dev/fuse raises none
  theirs_.reset(-1);
  StartRead(0, 4096);
  Turn();
  Turn();
  EXPECT_EQ(0U, replies_->failures());
  EXPECT_EQ(kHeld, requests_->in_flight());
}

// ---- Load ---------------------------------------------------------------------------------------

// A device whose requests end within Submit() while others wait for buffers.
TEST_F(DeviceRequestsTest, ManyRequestsWithTinyLimitsAllEnd) {
  device_->SetCompletion(FakeBlockDevice::Completion::kInNextTurn);
  int sent = 0;
  int answered = 0;
  for (int round = 0; answered < 600 && round < 10000; ++round) {
    while (sent < 600 && requests_->HasRoom()) {
      const uint32_t size = sent % 3 == 0 ? 65536 : 4096;
      const bool started =
          sent % 2 == 0 ? StartRead(sent * 512, size) : StartWrite(sent * 512, Pattern(size));
      if (!started) break;
      ++sent;
    }
    Turn();
    while (Next().has_value()) ++answered;
  }
  EXPECT_EQ(600, answered);
}

}  // namespace
}  // namespace rnbd::client
