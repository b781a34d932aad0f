// Devices that do not answer: what is waited for, and what is left to others.

#include <fcntl.h>
#include <linux/falloc.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "client/device_requests.h"
#include "gtest/gtest.h"
#include "testing/fuse/device_requests_fixture.h"
#include "testing/fuse/fake_block_device.h"

namespace rnbd::client {
namespace {

using testing::FakeBlockDevice;

constexpr uint32_t kPunchHole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

// ---- io_timeout
// -----------------------------------------------------------------------------------

class DeviceRequestsTimeoutTest : public DeviceRequestsFixture {
 protected:
  DeviceRequestsTimeoutTest() : DeviceRequestsFixture(kCapacity, Memory()) {
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

class DeviceRequestsShareTest : public DeviceRequestsFixture {
 protected:
  static constexpr size_t kBuffers = 32;

  DeviceRequestsShareTest() : DeviceRequestsFixture(256, Memory()) {
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
    Turn();
    EXPECT_EQ(size, Expect().data.size());
    EXPECT_TRUE(StartWrite(0, Pattern(size)));
    Turn();
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

}  // namespace
}  // namespace rnbd::client
