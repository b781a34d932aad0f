// RNBD as a client sees it: messages of every kind, well-formed and not, over a session of RTRS.

#include "server/device_session.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "common/rnbd_messages.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "testing/device_server.h"
#include "testing/device_session_fixture.h"
#include "testing/session_harness.h"

namespace rnbd::server {
namespace {

using rtrs::Eventually;
using rtrs::kPatience;
using ::testing::Each;
using testing::Fault;
using testing::MakeRequest;
using testing::TestDisk;
using testing::UserRequest;

class DeviceSessionTest : public testing::DeviceSessionFixture {};

// ---- SESS_INFO ----------------------------------------------------------------------------------

TEST_F(DeviceSessionTest, SessInfoAgreesOnTheLowerVersionAndSendsNothingElse) {
  for (uint8_t version : {0, 1, 2, 3, 255}) {
    SessInfoMessage message;
    message.ver = version;
    absl::Span<uint8_t> reply = client_->data(4096);
    std::fill(reply.begin(), reply.end(), 0xee);
    ASSERT_EQ(client_->Send(Direction::kRead, MessageBytes(message), reply), 0);
    EXPECT_EQ(*ParseSessInfoResponse(reply), std::min<uint8_t>(version, 2));
    EXPECT_THAT(reply.subspan(5), Each(0));
  }
}

TEST_F(DeviceSessionTest, SessInfoMustComeAsReadWithRoomForTheReply) {
  SessInfoMessage message;
  EXPECT_EQ(client_->Send(Direction::kWrite, MessageBytes(message)), EINVAL);
  EXPECT_EQ(client_->Send(Direction::kRead, MessageBytes(message)), EINVAL);
  EXPECT_EQ(client_->Send(Direction::kRead, MessageBytes(message), client_->data(35)), EINVAL);
  EXPECT_EQ(client_->Send(Direction::kRead, MessageBytes(message).first(35), client_->data(36)),
            EINVAL);
  EXPECT_EQ(client_->SessInfo(), 0);
}

TEST_F(DeviceSessionTest, RefusesMessagesThatClientsDoNotSend) {
  for (uint8_t type : {1, 3, 6, 77, 255}) {
    std::vector<uint8_t> message(64);
    message[0] = type;
    for (Direction direction : {Direction::kRead, Direction::kWrite}) {
      EXPECT_EQ(client_->Send(direction, message), EINVAL) << int{type};
      EXPECT_EQ(client_->Send(direction, message, client_->data(4096)), EINVAL) << int{type};
    }
  }
  EXPECT_EQ(client_->Open("disk0"), 0u);
}

// ---- OPEN ---------------------------------------------------------------------------------------

TEST_F(DeviceSessionTest, OpenTellsTheGeometryAndNothingElse) {
  Geometry geometry = TestDisk::DefaultGeometry(kDiskBytes);
  geometry.logical_block_size = 4096;
  geometry.physical_block_size = 16384;
  geometry.max_discard = 8192;
  geometry.discard_granularity = 4096;
  geometry.max_write_zeroes = 12288;
  geometry.fua = false;
  geometry.disk_id = 0x123456789abc;
  disk_.set_geometry(geometry);
  const OpenMessage message = *MakeOpen("disk0", AccessMode::kReadWrite);
  absl::Span<uint8_t> reply = client_->data(4096);
  std::fill(reply.begin(), reply.end(), 0xee);
  ASSERT_EQ(client_->Send(Direction::kRead, MessageBytes(message), reply), 0);
  rnbd::OpenedDevice opened;
  ASSERT_TRUE(ParseOpenResponse(reply, &opened).ok());
  EXPECT_EQ(opened.device_id, 0u);
  EXPECT_EQ(opened.geometry.nsectors, kDiskBytes / 512);
  EXPECT_EQ(opened.geometry.logical_block_size, 4096u);
  EXPECT_EQ(opened.geometry.physical_block_size, 16384u);
  EXPECT_EQ(opened.geometry.max_discard_sectors, 16u);
  EXPECT_EQ(opened.geometry.discard_granularity, 4096u);
  EXPECT_EQ(opened.geometry.max_write_zeroes_sectors, 24u);
  EXPECT_EQ(opened.geometry.max_hw_sectors, (64u << 10) / 512);
  EXPECT_TRUE(opened.geometry.writeback);
  EXPECT_FALSE(opened.geometry.fua);
  // Behind it what a client of ours looks for: the start of the host, and the disk's identity.
  EXPECT_NE(opened.identity.host_start, 0u);
  EXPECT_EQ(opened.identity.disk, 0x123456789abcu);
  EXPECT_THAT(reply.subspan(56), Each(0));
}

TEST_F(DeviceSessionTest, OpenMustBeWellFormed) {
  OpenMessage message = *MakeOpen("disk0", AccessMode::kReadWrite);
  absl::Span<uint8_t> room = client_->data(sizeof(OpenResponse));
  EXPECT_EQ(client_->Send(Direction::kWrite, MessageBytes(message)), EINVAL);
  EXPECT_EQ(client_->Send(Direction::kRead, MessageBytes(message)), EINVAL);
  EXPECT_EQ(client_->Send(Direction::kRead, MessageBytes(message), client_->data(55)), EINVAL);
  EXPECT_EQ(client_->Send(Direction::kRead, MessageBytes(message).first(263), room), EINVAL);
  OpenMessage mode = message;
  mode.access_mode = 3;
  EXPECT_EQ(client_->Send(Direction::kRead, MessageBytes(mode), room), EINVAL);
  OpenMessage endless = message;
  std::memset(endless.dev_name, 'x', sizeof(endless.dev_name));
  EXPECT_EQ(client_->Send(Direction::kRead, MessageBytes(endless), room), EINVAL);
  OpenMessage empty = message;
  std::memset(empty.dev_name, 0, sizeof(empty.dev_name));
  EXPECT_EQ(client_->Send(Direction::kRead, MessageBytes(empty), room), EINVAL);
  EXPECT_EQ(server_.opens(), 0);
  // Garbage where the kernel's client leaves some.
  message.header.padding[0] = 0xaa;
  message.reserved1 = 0xbb;
  std::memset(message.dev_name + 6, 0xcc, sizeof(message.dev_name) - 6);
  std::memset(message.reserved2, 0xdd, sizeof(message.reserved2));
  EXPECT_EQ(client_->Send(Direction::kRead, MessageBytes(message), room), 0);
}

TEST_F(DeviceSessionTest, OpenPassesTheErrnoOfARefusal) {
  rnbd::OpenedDevice opened;
  EXPECT_EQ(client_->Open("nothing", AccessMode::kReadOnly, &opened), ENOENT);
  auto second = NewClient("other");
  EXPECT_EQ(second->Open("disk0"), 0u);
  EXPECT_EQ(client_->Open("disk0", AccessMode::kReadWrite, &opened), EPERM);
  EXPECT_EQ(client_->Open("disk0", AccessMode::kReadOnly, &opened), 0);
}

// Whatever an image on the server may look like.
TEST_F(DeviceSessionTest, RefusesADeviceThatRnbdCannotDescribe) {
  Geometry geometry = TestDisk::DefaultGeometry(kDiskBytes);
  geometry.logical_block_size = 65536;
  disk_.set_geometry(geometry);
  rnbd::OpenedDevice opened;
  EXPECT_EQ(client_->Open("disk0", AccessMode::kReadWrite, &opened), EINVAL);
  server_.device_thread()->RunAndWait([] {});
  EXPECT_EQ(disk_.opens(), 0);
}

TEST_F(DeviceSessionTest, TheSameNameGivesTheSameIdAndTheFirstMode) {
  EXPECT_EQ(client_->Open("disk0", AccessMode::kReadOnly), 0u);
  EXPECT_EQ(client_->Open("disk0", AccessMode::kReadWrite), 0u);
  EXPECT_EQ(disk_.opens(), 1);
  EXPECT_EQ(client_->Io(MakeRequest(0, Operation::kWrite, 0, 512), client_->data(512)), EROFS);
  EXPECT_EQ(client_->CloseDevice(0), 0);
  EXPECT_EQ(client_->Open("disk0", AccessMode::kReadWrite), 0u);
  EXPECT_EQ(client_->Io(MakeRequest(0, Operation::kWrite, 0, 512), client_->data(512)), 0);
}

TEST_F(DeviceSessionTest, TwoNamesOfOneDiskAreTwoDevices) {
  server_.AddDisk("alias", &disk_);
  EXPECT_EQ(client_->Open("disk0", AccessMode::kReadOnly), 0u);
  EXPECT_EQ(client_->Open("alias", AccessMode::kMigration), 1u);
  absl::Span<uint8_t> data = client_->data(512);
  std::fill(data.begin(), data.end(), 0x77);
  EXPECT_EQ(client_->Io(MakeRequest(1, Operation::kWrite, 4, 512), data), 0);
  std::fill(data.begin(), data.end(), 0);
  EXPECT_EQ(client_->Io(MakeRequest(0, Operation::kRead, 4, 512), data), 0);
  EXPECT_THAT(data, Each(0x77));
  EXPECT_EQ(client_->CloseDevice(1), 0);
  EXPECT_EQ(client_->Io(MakeRequest(0, Operation::kRead, 4, 512), data), 0);
}

TEST_F(DeviceSessionTest, IdsAreTheLowestFree) {
  for (const char* name : {"a", "b", "c", "d"}) server_.AddDisk(name, &other_disk_);
  EXPECT_EQ(client_->Open("a", AccessMode::kReadOnly), 0u);
  EXPECT_EQ(client_->Open("b", AccessMode::kReadOnly), 1u);
  EXPECT_EQ(client_->Open("c", AccessMode::kReadOnly), 2u);
  EXPECT_EQ(client_->CloseDevice(1), 0);
  EXPECT_EQ(client_->Open("d", AccessMode::kReadOnly), 1u);
  EXPECT_EQ(client_->Open("b", AccessMode::kReadOnly), 3u);
  auto second = NewClient("other");
  EXPECT_EQ(second->Open("c", AccessMode::kReadOnly), 0u) << "ids are a session's own";
}

TEST_F(DeviceSessionTest, AThousandDevicesAndALateOne) {
  constexpr uint32_t kDevices = 1000;
  for (uint32_t i = 0; i < kDevices; ++i) server_.AddDisk(absl::StrCat("disk-", i), &other_disk_);
  for (uint32_t i = 0; i < kDevices; ++i) {
    ASSERT_EQ(client_->Open(absl::StrCat("disk-", i), AccessMode::kReadOnly), i);
  }
  EXPECT_EQ(other_disk_.opens(), static_cast<int>(kDevices));
  absl::Span<uint8_t> data = client_->data(4096);
  EXPECT_EQ(client_->Io(MakeRequest(kDevices - 1, Operation::kRead, 0, 4096), data), 0);
  EXPECT_EQ(client_->Io(MakeRequest(kDevices, Operation::kRead, 0, 4096), data), ENOTCONN);
  EXPECT_EQ(client_->Open("disk-500", AccessMode::kReadOnly), 500u);
  client_->Close();
  EXPECT_TRUE(Eventually([&] { return other_disk_.opens() == 0; }));
}

// ---- CLOSE --------------------------------------------------------------------------------------

TEST_F(DeviceSessionTest, CloseEndsADevice) {
  const uint32_t id = client_->Open("disk0");
  EXPECT_EQ(client_->CloseDevice(id), 0);
  EXPECT_EQ(disk_.opens(), 0);
  EXPECT_EQ(disk_.writers(), 0);
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kRead, 0, 512), client_->data(512)), ENOTCONN);
  EXPECT_EQ(client_->CloseDevice(id), 0) << "what is not open is closed";
  EXPECT_EQ(client_->CloseDevice(4711), 0);
}

TEST_F(DeviceSessionTest, CloseMustBeWellFormed) {
  const uint32_t id = client_->Open("disk0");
  const CloseMessage message = MakeClose(id);
  EXPECT_EQ(client_->Send(Direction::kRead, MessageBytes(message)), EINVAL);
  EXPECT_EQ(client_->Send(Direction::kRead, MessageBytes(message), client_->data(64)), EINVAL);
  EXPECT_EQ(client_->Send(Direction::kWrite, MessageBytes(message), client_->data(64)), EINVAL);
  EXPECT_EQ(client_->Send(Direction::kWrite, MessageBytes(message).first(7)), EINVAL);
  EXPECT_EQ(disk_.opens(), 1);
}

// A disk that does not answer, and all that goes on beside it: other devices of the session,
// opening and closing, other sessions. Closing the device waits for its request, and so does its
// id.
TEST_F(DeviceSessionTest, ADiskThatHangsHoldsUpNothingElse) {
  server_.AddDisk("other", &other_disk_);
  server_.AddDisk("third", &other_disk_);
  const uint32_t hanging = client_->Open("disk0");
  const uint32_t other = client_->Open("other", AccessMode::kReadOnly);
  Fault fault;
  fault.kind = Fault::Kind::kHang;
  const int fault_id = disk_.faults().Add(fault);
  auto write = client_->BeginIo(MakeRequest(hanging, Operation::kWrite, 0, 512),
                                client_->data(512, 8192), 0);
  auto read = client_->BeginIo(MakeRequest(hanging, Operation::kRead, 8, 512),
                               client_->data(512, 12288), 1);
  ASSERT_TRUE(disk_.faults().AwaitHung(2, kPatience));
  disk_.faults().Remove(fault_id);

  const CloseMessage close_message = MakeClose(hanging);
  auto close = client_->Begin(0, Direction::kWrite, MessageBytes(close_message));
  // From here on nobody gets the device any more.
  ASSERT_TRUE(Eventually([&] {
    return client_->Io(MakeRequest(hanging, Operation::kRead, 0, 512), client_->data(512)) ==
           ENOTCONN;
  }));
  auto second = NewClient("second");
  for (int i = 0; i < 10; ++i) {
    for (size_t lane : {0, 1}) {
      EXPECT_EQ(
          client_->Io(MakeRequest(other, Operation::kRead, 0, 4096), client_->data(4096), lane), 0);
    }
    const uint32_t third = client_->Open("third", AccessMode::kReadOnly);
    EXPECT_NE(third, hanging);
    EXPECT_EQ(client_->CloseDevice(third), 0);
    EXPECT_EQ(second->Open("other", AccessMode::kReadOnly), 0u);
    EXPECT_EQ(second->Io(MakeRequest(0, Operation::kRead, 0, 4096), second->data(4096)), 0);
    EXPECT_EQ(second->CloseDevice(0), 0);
  }
  // A CLOSE of what is being closed is a CLOSE of what is not open.
  EXPECT_EQ(client_->CloseDevice(hanging), 0);
  rnbd::OpenedDevice opened;
  EXPECT_EQ(client_->Open("disk0", AccessMode::kReadWrite, &opened), EPERM)
      << "its writer is still at work";
  EXPECT_FALSE(close->done());
  EXPECT_FALSE(write->done());
  EXPECT_EQ(disk_.opens(), 1);

  disk_.faults().ReleaseHung();
  EXPECT_EQ(write->Wait(), 0);
  EXPECT_EQ(read->Wait(), 0);
  EXPECT_EQ(close->Wait(), 0);
  EXPECT_EQ(disk_.opens(), 0);
  EXPECT_EQ(client_->Open("disk0"), hanging);
}

// The order in which the kernel's client sends them when a device is unmapped and mapped at once.
TEST_F(DeviceSessionTest, OpenRightBehindCloseGetsTheDevice) {
  for (int i = 0; i < 50; ++i) {
    const uint32_t id = client_->Open("disk0");
    ASSERT_EQ(id, 0u);
    auto io = client_->BeginIo(MakeRequest(id, Operation::kRead, 0, 4096), client_->data(4096), 0);
    ASSERT_EQ(client_->CloseDevice(id), 0);
    const int error = io->Wait();
    EXPECT_TRUE(error == 0 || error == ENOTCONN) << error;
  }
}

// With a device "slow" whose opening waits for LetGo().
class SlowOpenTest : public DeviceSessionTest {
 protected:
  SlowOpenTest() {
    server_.Stop();
    server_.on_open = [this](absl::string_view name, AccessMode) {
      if (name != "slow") return absl::OkStatus();
      ++slow_opens_;
      blocked_.Notify();
      go_on_.WaitForNotification();
      return absl::OkStatus();
    };
    server_.AddDisk("slow", &other_disk_);
    client_.reset();
    server_.Start();
    client_ = NewClient("blya");
  }

  // The reply comes to `offset`.
  std::unique_ptr<UserRequest> BeginSlowOpen(size_t offset) {
    const OpenMessage message = *MakeOpen("slow", AccessMode::kReadWrite);
    auto open = client_->Begin(client_->control_lane(), Direction::kRead, MessageBytes(message),
                               client_->data(sizeof(OpenResponse), offset));
    blocked_.WaitForNotification();
    return open;
  }
  void LetGo() { go_on_.Notify(); }

  std::atomic<int> slow_opens_ = 0;

 private:
  absl::Notification blocked_;
  absl::Notification go_on_;
};

TEST_F(SlowOpenTest, HoldsUpNoIo) {
  const uint32_t id = client_->Open("disk0");
  auto open = BeginSlowOpen(65536);
  for (size_t lane : {0, 1}) {
    EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kRead, 0, 4096), client_->data(4096), lane),
              0);
  }
  EXPECT_EQ(client_->SessInfo(), 0);
  EXPECT_FALSE(open->done());
  LetGo();
  EXPECT_EQ(open->Wait(), 0);
}

TEST_F(SlowOpenTest, HoldsUpNoOtherOpen) {
  auto first = BeginSlowOpen(65536);
  // The same device again, as a client does that has lost a path meanwhile: opened once.
  auto again = BeginSlowOpen(66560);
  const uint32_t id = client_->Open("disk0");
  EXPECT_NE(id, UINT32_MAX);
  EXPECT_EQ(client_->CloseDevice(id), 0);
  auto other_client = NewClient("other");
  EXPECT_NE(other_client->Open("disk0"), UINT32_MAX);
  EXPECT_FALSE(first->done() || again->done());
  LetGo();
  EXPECT_EQ(first->Wait(), 0);
  EXPECT_EQ(again->Wait(), 0);
  EXPECT_EQ(slow_opens_.load(), 1);
  EXPECT_EQ(other_disk_.opens(), 1);
}

// ---- The end of a session -----------------------------------------------------------------------

TEST_F(DeviceSessionTest, TheEndOfTheSessionClosesItsDevices) {
  server_.AddDisk("other", &other_disk_);
  client_->Open("disk0");
  client_->Open("other");
  EXPECT_EQ(disk_.writers() + other_disk_.writers(), 2);
  client_->Close();
  EXPECT_TRUE(Eventually([&] { return disk_.opens() + other_disk_.opens() == 0; }));
  EXPECT_EQ(disk_.writers() + other_disk_.writers(), 0);
  // The same session comes again and gets everything, at the first attempt.
  for (int i = 0; i < 20; ++i) {
    client_ = NewClient("blya");
    EXPECT_EQ(client_->Open("disk0"), 0u);
    client_->Close();
  }
}

// A write that still runs keeps its disk from the next writer (DESIGN: fence before replay).
TEST_F(DeviceSessionTest, AWriteAtWorkKeepsTheDiskWhenItsSessionIsLost) {
  const uint32_t id = client_->Open("disk0");
  Fault fault;
  fault.kind = Fault::Kind::kHang;
  fault.count = 1;
  disk_.faults().Add(fault);
  absl::Span<uint8_t> data = client_->data(512, 4096);
  std::fill(data.begin(), data.end(), 0x99);
  auto write = client_->BeginIo(MakeRequest(id, Operation::kWrite, 0, 512), data, 0);
  ASSERT_TRUE(disk_.faults().AwaitHung(1, kPatience));
  client_->Close();
  EXPECT_EQ(write->Wait(), ECONNABORTED);
  auto second = NewClient("second");
  rnbd::OpenedDevice opened;
  EXPECT_EQ(second->Open("disk0", AccessMode::kReadWrite, &opened), EPERM);
  disk_.faults().ReleaseHung();
  EXPECT_TRUE(
      Eventually([&] { return second->Open("disk0", AccessMode::kReadWrite, &opened) == 0; }));
  EXPECT_EQ(Disk()[0], 0x99) << "what was in the chunk was written";
}

TEST_F(DeviceSessionTest, OpensUnderWayWhenTheSessionIsLostAreUndone) {
  server_.Stop();
  client_.reset();
  server_.on_open = [](absl::string_view, AccessMode) {
    absl::SleepFor(absl::Milliseconds(20));
    return absl::OkStatus();
  };
  server_.Start();
  for (int i = 0; i < 5; ++i) {
    client_ = NewClient(absl::StrCat("blya", i));
    const OpenMessage message = *MakeOpen("disk0", AccessMode::kReadOnly);
    auto open = client_->Begin(client_->control_lane(), Direction::kRead, MessageBytes(message),
                               client_->data(sizeof(OpenResponse)));
    absl::SleepFor(absl::Milliseconds(5));
    client_->Close();
    open->Wait();
  }
  EXPECT_TRUE(Eventually([&] { return server_.session_count() == 0 && disk_.opens() == 0; }));
}

TEST_F(DeviceSessionTest, RefusalsAreLoggedWithoutFloodingTheLog) {
  rtrs::LogCapture log;
  rnbd::OpenedDevice opened;
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(client_->Open("no\nsuch", AccessMode::kReadOnly, &opened), ENOENT);
  }
  EXPECT_EQ(log.Lines("refused to open device").size(), 1u);
}

}  // namespace
}  // namespace rnbd::server
