#include "client/device_requests.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "common/ring.h"
#include "common/unique_fd.h"
#include "gtest/gtest.h"
#include "testing/fuse/fake_block_device.h"

namespace rnbd::client {
namespace {

using testing::FakeBlockDevice;

constexpr uint64_t kSize = (4 << 20) + 512;
constexpr uint32_t kPunchHole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
constexpr uint32_t kZeroRange = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

struct Answer {
  uint64_t unique = 0;
  int error = 0;
  std::string data;
};

// One worker with tiny limits, turned by hand.
class DeviceRequestsTest : public ::testing::Test {
 protected:
  static constexpr size_t kCapacity = 4;

  DeviceRequestsTest() : DeviceRequestsTest(kCapacity, TinyMemory()) {}
  DeviceRequestsTest(size_t capacity, RequestMemory::Options sizes)
      : sizes_(sizes), ring_(Ring::Create(Ring::Options()).value()), table_({ring_.get()}) {
    int ends[2];
    EXPECT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
    ours_.reset(ends[0]);
    theirs_.reset(ends[1]);
    // Room for the largest reply; needs root outside of a user namespace.
    constexpr int kBytes = 4 << 20;
    EXPECT_EQ(0, setsockopt(ours_.get(), SOL_SOCKET, SO_SNDBUFFORCE, &kBytes, sizeof(kBytes)));

    memory_ = RequestMemory::Create(sizes).value();
    replies_ = std::make_unique<FuseReplies>(ours_.get());
    requests_ = std::make_unique<DeviceRequests>(0, capacity, ring_.get(), memory_->pool(0),
                                                 &table_, replies_.get());
    UseDevice(FakeBlockDevice::Options());
  }

  ~DeviceRequestsTest() override {
    device_->Finish();
    Turn();
    Turn();
    // Every buffer is back, whatever the test did.
    EXPECT_EQ(sizes_.small_buffers, memory_->pool(0)->small.free());
    EXPECT_EQ(sizes_.large_buffers, memory_->pool(0)->large.free());
    EXPECT_EQ(0U, requests_->in_flight());
  }

  static RequestMemory::Options TinyMemory() {
    RequestMemory::Options sizes;
    sizes.small_buffers = 3;
    sizes.large_buffers = 2;
    return sizes;
  }

  void UseDevice(FakeBlockDevice::Options options) {
    options.size = kSize;
    device_ = std::make_unique<FakeBlockDevice>(options, std::vector<Ring*>{ring_.get()});
    device_->Record(true);
    inode_ = table_.Add(device_.get()).value();
  }

  void Turn() { ring_->Turn(absl::ZeroDuration()); }

  // As the reader does. False where it could not have read the request.
  bool Handle(const FuseHead& head, const std::string& payload = "") {
    BufferPool* pool = memory_->pool(0);
    FuseMessage message;
    message.head = &head;
    message.bytes = sizeof(head) + payload.size();
    message.small = pool->small.Take();
    message.large = pool->large.Take();
    const bool possible = message.small != nullptr && message.large != nullptr;
    if (possible) {
      const size_t first = std::min(payload.size(), RequestMemory::kSmallBytes);
      memcpy(message.small, payload.data(), first);
      memcpy(message.large, payload.data() + first, payload.size() - first);
      EXPECT_TRUE(DeviceRequests::Handles(message));
      requests_->Start(&message);
    }
    if (message.small != nullptr) pool->small.Return(message.small);
    if (message.large != nullptr) pool->large.Return(message.large);
    return possible;
  }

  FuseHead Head(uint32_t opcode) {
    FuseHead head = {};
    head.header.opcode = opcode;
    head.header.nodeid = inode_;
    head.header.unique = ++last_unique_;
    return head;
  }
  bool StartRead(uint64_t offset, uint32_t size) {
    FuseHead head = Head(FUSE_READ);
    head.read.offset = offset;
    head.read.size = size;
    return Handle(head);
  }
  bool StartWrite(uint64_t offset, const std::string& data, uint32_t flags = 0) {
    FuseHead head = Head(FUSE_WRITE);
    head.write.offset = offset;
    head.write.size = static_cast<uint32_t>(data.size());
    head.write.flags = flags;
    return Handle(head, data);
  }
  bool StartFallocate(uint64_t offset, uint64_t length, uint32_t mode) {
    FuseHead head = Head(FUSE_FALLOCATE);
    head.fallocate.offset = offset;
    head.fallocate.length = length;
    head.fallocate.mode = mode;
    return Handle(head);
  }

  absl::optional<Answer> Next() {
    fuse_out_header header;
    const ssize_t bytes = recv(theirs_.get(), buffer_.data(), buffer_.size(), 0);
    if (bytes < static_cast<ssize_t>(sizeof(header))) return absl::nullopt;
    memcpy(&header, buffer_.data(), sizeof(header));
    return Answer{header.unique, -header.error,
                  std::string(buffer_.data() + sizeof(header), bytes - sizeof(header))};
  }
  Answer Expect() {
    absl::optional<Answer> answer = Next();
    EXPECT_TRUE(answer.has_value()) << "no reply";
    return answer.value_or(Answer());
  }
  uint32_t ExpectWritten() {
    const Answer answer = Expect();
    EXPECT_EQ(0, answer.error);
    fuse_write_out out = {};
    EXPECT_EQ(sizeof(out), answer.data.size());
    memcpy(&out, answer.data.data(), std::min(sizeof(out), answer.data.size()));
    return out.size;
  }
  FakeBlockDevice::Seen OnlySeen() {
    std::vector<FakeBlockDevice::Seen> seen = device_->TakeSeen();
    EXPECT_EQ(1U, seen.size());
    return seen.empty() ? FakeBlockDevice::Seen{} : seen[0];
  }

  const RequestMemory::Options sizes_;
  const std::unique_ptr<Ring> ring_;
  UniqueFd ours_;
  UniqueFd theirs_;
  std::unique_ptr<RequestMemory> memory_;
  DeviceTable table_;
  std::unique_ptr<FuseReplies> replies_;
  std::unique_ptr<FakeBlockDevice> device_;
  std::unique_ptr<DeviceRequests> requests_;
  uint64_t inode_ = 0;
  uint64_t last_unique_ = 0;
  std::vector<char> buffer_ = std::vector<char>(2 << 20);
};

std::string Pattern(size_t bytes) {
  std::string text(bytes, '\0');
  for (size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>(i * 7 + i / 251);
  return text;
}

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
  requests_->ForEachUnanswered(
      [&](const DeviceRequests::Unanswered& one) { waiting += one.waits_for_buffer ? 1 : 0; });
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
    EXPECT_FALSE(one.waits_for_buffer);
    EXPECT_GE(one.age_ns, 0);
  });
  EXPECT_EQ(1, count);
}

// ---- io_timeout
// -----------------------------------------------------------------------------------

class DeviceRequestsTimeoutTest : public DeviceRequestsTest {
 protected:
  DeviceRequestsTimeoutTest() : DeviceRequestsTest(kCapacity, Memory()) {
    FakeBlockDevice::Options options;
    options.io_timeout = absl::Milliseconds(200);
    UseDevice(options);
    device_->SetCompletion(FakeBlockDevice::Completion::kHeld);
  }

  static RequestMemory::Options Memory() {
    RequestMemory::Options sizes = TinyMemory();
    sizes.small_buffers = 8;
    return sizes;
  }

  void TurnFor(absl::Duration time) {
    const absl::Time end = absl::Now() + time;
    while (absl::Now() < end) ring_->Turn(absl::Milliseconds(20));
  }
  absl::optional<Answer> NextWithin(absl::Duration time) {
    const absl::Time end = absl::Now() + time;
    absl::optional<Answer> answer = Next();
    while (!answer.has_value() && absl::Now() < end) {
      ring_->Turn(absl::Milliseconds(20));
      answer = Next();
    }
    return answer;
  }
  void ExpectTimeout(uint64_t unique) {
    const absl::optional<Answer> answer = NextWithin(absl::Seconds(20));
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(unique, answer->unique);
    EXPECT_EQ(ETIMEDOUT, answer->error);
  }
};

TEST_F(DeviceRequestsTimeoutTest, FailsARequestThatIsNotAnsweredInTime) {
  const absl::Time begin = absl::Now();
  StartRead(0, 4096);
  ExpectTimeout(last_unique_);
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(200));
  EXPECT_EQ(1U, requests_->in_flight()) << "its buffer is the device's until it answers";
  device_->Finish();
  Turn();
  EXPECT_EQ(0U, requests_->in_flight());
  EXPECT_FALSE(Next().has_value()) << "answered once";
}

TEST_F(DeviceRequestsTimeoutTest, LeavesAloneWhatIsAnsweredInTime) {
  device_->SetCompletion(FakeBlockDevice::Completion::kAtOnce);
  StartWrite(0, Pattern(512));
  EXPECT_EQ(512U, ExpectWritten());
  TurnFor(absl::Milliseconds(500));
  EXPECT_FALSE(Next().has_value());
}

// What may have been written may be written yet, over whatever came behind it.
TEST_F(DeviceRequestsTimeoutTest, NothingOvertakesAWriteThatTimedOut) {
  StartWrite(0, Pattern(512));
  ExpectTimeout(last_unique_);
  device_->SetCompletion(FakeBlockDevice::Completion::kAtOnce);
  device_->TakeSeen();
  StartWrite(0, Pattern(512));
  EXPECT_EQ(ETIMEDOUT, Expect().error);
  StartFallocate(0, 512, kPunchHole);
  EXPECT_EQ(ETIMEDOUT, Expect().error);
  Handle(Head(FUSE_FSYNC));
  EXPECT_EQ(ETIMEDOUT, Expect().error) << "it would promise too much";
  EXPECT_TRUE(device_->TakeSeen().empty());
  StartRead(0, 512);
  EXPECT_EQ(0, Expect().error);
  // From the moment of its answer on all is as before.
  device_->Finish();
  Turn();
  StartWrite(0, Pattern(512));
  EXPECT_EQ(512U, ExpectWritten());
  Handle(Head(FUSE_FSYNC));
  EXPECT_EQ(0, Expect().error);
}

TEST_F(DeviceRequestsTimeoutTest, AReadThatTimedOutStopsNoWrite) {
  StartRead(0, 512);
  ExpectTimeout(last_unique_);
  device_->SetCompletion(FakeBlockDevice::Completion::kAtOnce);
  StartWrite(0, Pattern(512));
  EXPECT_EQ(512U, ExpectWritten());
}

// How long that may take is what io_hold says.
TEST_F(DeviceRequestsTimeoutTest, TimeWithoutTheServerDoesNotCount) {
  device_->SetOpen(false);
  StartRead(0, 512);
  TurnFor(absl::Milliseconds(600));
  EXPECT_FALSE(Next().has_value());
  device_->SetOpen(true);
  ExpectTimeout(last_unique_);
}

TEST_F(DeviceRequestsTimeoutTest, AReadThatWaitsForABufferTimesOutWithThoseThatHaveThem) {
  EXPECT_TRUE(StartRead(0, 65536));
  EXPECT_TRUE(StartRead(0, 65536));
  // The device has one of two large buffers, its share; as the reader would, but for a message that
  // needs none.
  FuseHead head = Head(FUSE_READ);
  head.read.size = 65536;
  FuseMessage message;
  message.head = &head;
  message.bytes = sizeof(head);
  requests_->Start(&message);
  for (int i = 0; i < 3; ++i) {
    const absl::optional<Answer> answer = NextWithin(absl::Seconds(20));
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(ETIMEDOUT, answer->error);
  }
  EXPECT_EQ(1U, requests_->in_flight());
  EXPECT_EQ(1U, device_->held());
  device_->Finish();
  Turn();
  Turn();
  EXPECT_EQ(1U, device_->TakeSeen().size()) << "the others were never submitted";
}

TEST_F(DeviceRequestsTimeoutTest, AnotherDeviceGoesOn) {
  StartWrite(0, Pattern(512));
  const std::unique_ptr<FakeBlockDevice> wedged = std::move(device_);
  const uint64_t unique = last_unique_;
  UseDevice(FakeBlockDevice::Options());
  ExpectTimeout(unique);
  StartWrite(0, Pattern(512));
  EXPECT_EQ(512U, ExpectWritten());
  wedged->Finish();
  Turn();
}

// ---- Devices that do not answer, and others ----------------------------------------------------

class DeviceRequestsShareTest : public DeviceRequestsTest {
 protected:
  static constexpr size_t kBuffers = 32;

  DeviceRequestsShareTest() : DeviceRequestsTest(256, Memory()) {
    device_->SetCompletion(FakeBlockDevice::Completion::kHeld);
    wedged_ = std::move(device_);
    wedged_inode_ = inode_;
    UseDevice(FakeBlockDevice::Options());
    other_inode_ = inode_;
  }
  ~DeviceRequestsShareTest() override {
    // The last large ones have no buffer before the first are done.
    for (int i = 0; i < 100 && requests_->in_flight() > 0; ++i) {
      wedged_->Finish();
      device_->Finish();
      Turn();
    }
  }

  static RequestMemory::Options Memory() {
    RequestMemory::Options sizes;
    sizes.small_buffers = kBuffers;
    sizes.large_buffers = kBuffers;
    return sizes;
  }

  bool ReadWedged(uint32_t size) {
    inode_ = wedged_inode_;
    const bool possible = StartRead(0, size);
    inode_ = other_inode_;
    return possible;
  }

  std::unique_ptr<FakeBlockDevice> wedged_;
  uint64_t wedged_inode_ = 0;
  uint64_t other_inode_ = 0;
};

TEST_F(DeviceRequestsShareTest, LeavesBuffersOfEachSizeToOthers) {
  for (int i = 0; i < 64; ++i) {
    ASSERT_TRUE(ReadWedged(65536)) << i;
    ASSERT_TRUE(ReadWedged(4096)) << i;
  }
  // Four fifths of what is not with the reader.
  EXPECT_EQ(2 * ((kBuffers - 1) * 4 / 5), wedged_->held());
  for (uint32_t size : {4096U, 65536U, 1U << 20}) {
    EXPECT_TRUE(StartRead(0, size));
    EXPECT_EQ(size, Expect().data.size());
    EXPECT_TRUE(StartWrite(0, Pattern(size)));
    EXPECT_EQ(size, ExpectWritten());
  }
}

TEST_F(DeviceRequestsShareTest, WaitingReadsOfOthersPassThoseOfADeviceThatHangs) {
  for (int i = 0; i < 64; ++i) ASSERT_TRUE(ReadWedged(65536));
  device_->SetCompletion(FakeBlockDevice::Completion::kHeld);
  // More than there are buffers, so that some wait behind those of the other device.
  constexpr int kReads = 12;
  for (int i = 0; i < kReads; ++i) ASSERT_TRUE(StartRead(0, 65536));
  EXPECT_LT(device_->held(), size_t{kReads});
  for (int i = 0; i < kReads; ++i) {
    device_->Finish();
    Turn();
  }
  int answered = 0;
  while (Next().has_value()) ++answered;
  EXPECT_EQ(kReads, answered);
}

TEST_F(DeviceRequestsShareTest, WhatWaitedGoesOnWhenTheDeviceAnswersAgain) {
  constexpr int kReads = 100;
  for (int i = 0; i < kReads; ++i) ASSERT_TRUE(ReadWedged(65536));
  wedged_->SetCompletion(FakeBlockDevice::Completion::kInNextTurn);
  wedged_->Finish();
  int answered = 0;
  for (int i = 0; i < 1000 && answered < kReads; ++i) {
    Turn();
    while (Next().has_value()) ++answered;
  }
  EXPECT_EQ(kReads, answered);
}

TEST_F(DeviceRequestsShareTest, WritesCountAsWell) {
  inode_ = wedged_inode_;
  for (int i = 0; i < 24; ++i) ASSERT_TRUE(StartWrite(0, Pattern(65536)));
  inode_ = other_inode_;
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(ReadWedged(65536));
  EXPECT_EQ(24U, wedged_->held());
  EXPECT_TRUE(StartRead(0, 65536));
  EXPECT_EQ(65536U, Expect().data.size());
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
