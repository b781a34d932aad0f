// Reads and writes of a device, well-formed and not, over a session of RTRS.

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "common/rnbd_messages.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/device_session.h"
#include "testing/device_server.h"
#include "testing/device_session_fixture.h"

namespace rnbd::server {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using testing::Fault;
using testing::MakeRequest;
using testing::TestDisk;

class DeviceSessionIoTest : public testing::DeviceSessionFixture {};

TEST_F(DeviceSessionIoTest, ReadsAndWritesGoWhereTheySay) {
  const uint32_t id = client_->Open("disk0");
  absl::Span<uint8_t> data = client_->data(64 << 10);
  ASSERT_EQ(client_->Io(MakeRequest(id, Operation::kRead, 8, 64 << 10), data), 0);
  EXPECT_EQ(std::memcmp(data.data(), Disk() + 4096, 64 << 10), 0);
  std::fill(data.begin(), data.end(), 0x5a);
  ASSERT_EQ(client_->Io(MakeRequest(id, Operation::kWrite, 1, 512), data.first(512), 1), 0);
  EXPECT_EQ(Disk()[511], static_cast<uint8_t>(511));
  EXPECT_EQ(Disk()[512], 0x5a);
  EXPECT_EQ(Disk()[1023], 0x5a);
  EXPECT_EQ(Disk()[1024], static_cast<uint8_t>(1024 / 512 + 1024));
  // The very last sector.
  ASSERT_EQ(
      client_->Io(MakeRequest(id, Operation::kWrite, kDiskBytes / 512 - 1, 512), data.first(512)),
      0);
  EXPECT_EQ(Disk()[kDiskBytes - 1], 0x5a);
}

// The answers come out of the disk's memory where they can be sent from there, and out of the chunk
// where they cannot.
TEST_F(DeviceSessionIoTest, WhatADiskLendsIsSent) {
  rtrs::StreamFabric with_checksum(rtrs::StreamOptions{.payload_checksum = true});
  testing::RnbdClient checking(&with_checksum, &server_, "checking");
  disk_.Lend();
  for (testing::RnbdClient* client : {client_.get(), &checking}) {
    const uint32_t id = client->Open("disk0", AccessMode::kReadOnly);
    absl::Span<uint8_t> data = client->data(64 << 10);
    for (uint64_t sector : {0, 9, 1000}) {
      ASSERT_EQ(client->Io(MakeRequest(id, Operation::kRead, sector, 64 << 10), data), 0);
      EXPECT_EQ(std::memcmp(data.data(), Disk() + sector * 512, 64 << 10), 0);
    }
  }
}

TEST_F(DeviceSessionIoTest, EveryOperationComesToTheBackendAsItWasMeant) {
  const uint32_t id = client_->Open("disk0");
  disk_.Record(true);
  absl::Span<uint8_t> data = client_->data(1024);
  using Seen = TestDisk::Seen;
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kRead, 2, 1024, kIoSync), data), 0);
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kWrite, 4, 1024, kIoSync | kIoFua), data), 0);
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kWrite, 4, 512, kIoPreflush), data.first(512)),
            0);
  // As kernels before and after 7.0 send it.
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kFlush, ~uint64_t{0}, 0, kIoSync | kIoFua)), 0);
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kFlush, 7, 0, 0x700)), 0);
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kDiscard, 16, 8192, kIoSync)), 0);
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kWriteZeroes, 32, 4096, kIoNoUnmap)), 0);
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kWriteZeroes, 40, 4096)), 0);
  std::vector<Seen> seen = disk_.TakeSeen();
  // Where a FLUSH is has no meaning.
  for (Seen& request : seen) {
    if (request.operation == BlockOperation::kFlush) request.offset = 0;
  }
  EXPECT_THAT(seen,
              ElementsAre(Seen{BlockOperation::kRead, 1024, 1024},
                          Seen{BlockOperation::kWrite, 2048, 1024, true},
                          Seen{BlockOperation::kWrite, 2048, 512, false, true},
                          Seen{BlockOperation::kFlush, 0, 0}, Seen{BlockOperation::kFlush, 0, 0},
                          Seen{BlockOperation::kDiscard, 8192, 8192},
                          Seen{BlockOperation::kWriteZeroes, 16384, 4096, false, false, true},
                          Seen{BlockOperation::kWriteZeroes, 20480, 4096}));
}

// Operations that come the wrong way round touch nothing (protocol page, section 10, item 11).
TEST_F(DeviceSessionIoTest, OperationsMustComeTheirOwnWay) {
  const uint32_t id = client_->Open("disk0");
  const std::vector<uint8_t> before(Disk(), Disk() + kDiskBytes);
  disk_.Record(true);
  absl::Span<uint8_t> data = client_->data(4096);
  std::fill(data.begin(), data.end(), 0x66);
  for (Operation operation :
       {Operation::kRead, Operation::kWrite, Operation::kFlush, Operation::kDiscard,
        Operation::kSecureErase, Operation::kWriteZeroes}) {
    const Direction wrong =
        CarrierOf(operation) == Direction::kRead ? Direction::kWrite : Direction::kRead;
    const uint32_t size = operation == Operation::kFlush ? 0 : 4096;
    const IoMessage message = MakeIo(MakeRequest(id, operation, 0, size));
    EXPECT_EQ(client_->Send(wrong, MessageBytes(message), data), EINVAL)
        << OperationName(operation);
    EXPECT_EQ(client_->Send(wrong, MessageBytes(message)), EINVAL) << OperationName(operation);
    if (HasData(operation)) continue;
    // Data where none belongs.
    EXPECT_EQ(client_->Send(CarrierOf(operation), MessageBytes(message), data), EINVAL)
        << OperationName(operation);
  }
  EXPECT_THAT(disk_.TakeSeen(), ElementsAre());
  EXPECT_EQ(std::memcmp(before.data(), Disk(), kDiskBytes), 0);
  EXPECT_THAT(data, Each(0x66));
}

TEST_F(DeviceSessionIoTest, SizesMustAgree) {
  const uint32_t id = client_->Open("disk0");
  disk_.Record(true);
  for (Operation operation : {Operation::kRead, Operation::kWrite}) {
    for (uint32_t size : {0u, 512u, 1023u, 1536u, 1u << 20, UINT32_MAX}) {
      EXPECT_EQ(client_->Io(MakeRequest(id, operation, 0, size), client_->data(1024)), EINVAL)
          << OperationName(operation) << " of " << size;
    }
    EXPECT_EQ(client_->Io(MakeRequest(id, operation, 0, 1024)), EINVAL);
  }
  EXPECT_THAT(disk_.TakeSeen(), ElementsAre());
}

TEST_F(DeviceSessionIoTest, RangesMustLieOnTheDeviceAndConsistOfBlocks) {
  Geometry geometry = TestDisk::DefaultGeometry(kDiskBytes);
  geometry.logical_block_size = 4096;
  disk_.set_geometry(geometry);
  const uint32_t id = client_->Open("disk0");
  disk_.Record(true);
  absl::Span<uint8_t> data = client_->data(8192);
  const uint64_t sectors = kDiskBytes / 512;
  for (Operation operation : {Operation::kRead, Operation::kWrite}) {
    auto io = [&](uint64_t sector, uint32_t size) {
      return client_->Io(MakeRequest(id, operation, sector, size), data.first(size));
    };
    EXPECT_EQ(io(1, 4096), EINVAL);
    EXPECT_EQ(io(0, 512), EINVAL);
    EXPECT_EQ(io(sectors, 4096), EIO);
    EXPECT_EQ(io(sectors - 8, 8192), EIO);
    EXPECT_EQ(io(uint64_t{1} << 55, 4096), EIO);
    EXPECT_EQ(io(~uint64_t{7}, 4096), EIO);
    EXPECT_EQ(io(~uint64_t{7}, 8192), EIO) << "the end of the range wraps";
  }
  for (Operation operation : {Operation::kDiscard, Operation::kWriteZeroes}) {
    EXPECT_EQ(client_->Io(MakeRequest(id, operation, 4, 4096)), EINVAL);
    EXPECT_EQ(client_->Io(MakeRequest(id, operation, 8, 512)), EINVAL);
    EXPECT_EQ(client_->Io(MakeRequest(id, operation, sectors - 8, 8192)), EIO);
    EXPECT_EQ(client_->Io(MakeRequest(id, operation, 0, 0xfffff000)), EIO);
  }
  EXPECT_THAT(disk_.TakeSeen(), ElementsAre());
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kRead, sectors - 8, 4096), data.first(4096)), 0);
}

TEST_F(DeviceSessionIoTest, UnknownDevicesAndOperations) {
  absl::Span<uint8_t> data = client_->data(512);
  EXPECT_EQ(client_->Io(MakeRequest(0, Operation::kRead, 0, 512), data), ENOTCONN);
  EXPECT_EQ(client_->Io(MakeRequest(0, Operation::kFlush, 0, 0)), ENOTCONN);
  const uint32_t id = client_->Open("disk0");
  EXPECT_EQ(client_->Io(MakeRequest(id + 1, Operation::kRead, 0, 512), data), ENOTCONN);
  EXPECT_EQ(client_->Io(MakeRequest(UINT32_MAX, Operation::kWrite, 0, 512), data), ENOTCONN);
  for (uint32_t operation : {6u, 9u, 200u, 255u}) {
    IoMessage message = MakeIo(MakeRequest(id, Operation::kRead, 0, 512));
    message.rw = operation;
    EXPECT_EQ(client_->Send(Direction::kRead, MessageBytes(message), data), EOPNOTSUPP);
    EXPECT_EQ(client_->Send(Direction::kWrite, MessageBytes(message), data), EOPNOTSUPP);
  }
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kSecureErase, 0, 4096)), EOPNOTSUPP);
  // Flags that are not known yet mean nothing.
  IoMessage future = MakeIo(MakeRequest(id, Operation::kRead, 0, 512));
  future.rw = uint32_t{future.rw} | 0xfffff000;
  EXPECT_EQ(client_->Send(Direction::kRead, MessageBytes(future), data), 0);
}

TEST_F(DeviceSessionIoTest, PriorityPassesFromVersionTwoOn) {
  const uint32_t id = client_->Open("disk0");
  disk_.Record(true);
  absl::Span<uint8_t> data = client_->data(512);
  const IoRequest io = MakeRequest(id, Operation::kRead, 0, 512, kIoSync, 0x4004);
  const IoMessage message = MakeIo(io);
  auto priority = [&](size_t message_bytes) {
    EXPECT_EQ(client_->Send(Direction::kRead, MessageBytes(message).first(message_bytes), data), 0);
    const std::vector<TestDisk::Seen> seen = disk_.TakeSeen();
    return seen.size() == 1 ? int{seen[0].priority} : -1;
  };
  EXPECT_EQ(priority(32), 0) << "before SESS_INFO";
  ASSERT_EQ(client_->SessInfo(2), 0);
  EXPECT_EQ(priority(32), 0x4004);
  EXPECT_EQ(priority(28), 0) << "a client whose messages are packed tighter";
  EXPECT_EQ(priority(26), 0);
  EXPECT_EQ(client_->Send(Direction::kRead, MessageBytes(message).first(25), data), EINVAL);
  ASSERT_EQ(client_->SessInfo(1), 0);
  EXPECT_EQ(priority(32), 0);
}

TEST_F(DeviceSessionIoTest, ReadOnlyIsEnforced) {
  const uint32_t id = client_->Open("disk0", AccessMode::kReadOnly);
  const std::vector<uint8_t> before(Disk(), Disk() + kDiskBytes);
  absl::Span<uint8_t> data = client_->data(4096);
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kWrite, 0, 4096), data), EROFS);
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kDiscard, 0, 4096)), EROFS);
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kWriteZeroes, 0, 4096)), EROFS);
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kSecureErase, 0, 4096)), EROFS);
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kRead, 0, 4096), data), 0);
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kFlush, 0, 0)), 0);
  EXPECT_EQ(std::memcmp(before.data(), Disk(), kDiskBytes), 0);
}

TEST_F(DeviceSessionIoTest, ErrorsOfTheBackendPass) {
  const uint32_t id = client_->Open("disk0");
  absl::Span<uint8_t> data = client_->data(4096);
  for (int error : {EIO, ENOSPC, ETIMEDOUT, EREMOTEIO, ENODATA}) {
    Fault fault;
    fault.error = error;
    const int fault_id = disk_.faults().Add(fault);
    EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kWrite, 0, 4096), data), error);
    EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kFlush, 0, 0)), error);
    std::fill(data.begin(), data.end(), 0x44);
    EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kRead, 0, 4096), data), error);
    EXPECT_THAT(data, Each(0x44)) << "a failed READ has no data";
    disk_.faults().Remove(fault_id);
  }
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kRead, 0, 4096), data), 0);
}

}  // namespace
}  // namespace rnbd::server
