// A session with its devices through all that can become of it: servers that refuse, go away, come
// back with other disks, or do not answer.

#include "client/mapped_session.h"

#include <atomic>
#include <cerrno>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/stream_fabric.h"
#include "testing/device_server.h"
#include "testing/mapped_client.h"
#include "testing/mapped_session_fixture.h"
#include "testing/session_harness.h"

namespace rnbd::client {
namespace {

using rtrs::Eventually;
using rtrs::kPatience;
using server::Geometry;
using testing::DeviceServer;
using testing::Fault;
using ::testing::HasSubstr;
using testing::MappedClient;
using testing::TestDisk;
using testing::TestSessionConfig;

using Kind = server::BlockOperation;

class MappedSessionTest : public testing::MappedSessionFixture {
 protected:
  // Closes and checks that it takes no longer than about `bound`.
  absl::Status CloseWithin(absl::Duration bound) {
    const absl::Time begin = absl::Now();
    absl::Status status = client_->Close(bound);
    EXPECT_LT(absl::Now() - begin, bound + absl::Seconds(5));
    return status;
  }
};

// ---- Opening ------------------------------------------------------------------------------------

TEST_F(MappedSessionTest, OpensEveryDeviceAndTellsOnce) {
  server_.Start();
  StartClient();
  EXPECT_EQ(Read(client_->WaitOpen("disk0")), 0);
  EXPECT_EQ(Read(client_->WaitOpen("disk1")), 0);
  EXPECT_EQ(client_->opened("disk0"), 1);
  EXPECT_EQ(client_->failed("disk0"), 0);
  EXPECT_EQ(disk0_.writers(), 1);
  EXPECT_TRUE(client_->Close().ok());
  EXPECT_EQ(disk0_.opens(), 0) << "not closed at the server when Close() is done";
  EXPECT_EQ(disk1_.opens(), 0);
}

TEST_F(MappedSessionTest, ASessionWithoutDevicesConnectsAndCloses) {
  config_.devices.clear();
  server_.Start();
  StartClient();
  EXPECT_TRUE(Eventually([&] { return server_.session_count() == 1; }));
  EXPECT_TRUE(client_->Close().ok());
}

TEST_F(MappedSessionTest, WhatFailsIsToldOnceAndTriedOn) {
  rtrs::LogCapture log;
  config_ = TestSessionConfig(server_.path(), {"missing", "disk0"});
  server_.Start();
  StartClient();
  EXPECT_EQ(Read(client_->WaitOpen("disk0")), 0);
  absl::Status why = client_->WaitFailed("missing");
  EXPECT_EQ(StatusToErrno(why), ENOENT);
  EXPECT_THAT(std::string(why.message()), HasSubstr("missing rw"));
  const int attempts = server_.opens();
  EXPECT_TRUE(Eventually([&] { return server_.opens() >= attempts + 2; }));
  server_.AddDisk("missing", &disk1_);
  EXPECT_EQ(Read(client_->WaitOpen("missing")), 0);
  EXPECT_EQ(client_->failed("missing"), 1);
  EXPECT_EQ(client_->opened("missing"), 1);
  EXPECT_EQ(client_->opened("disk0"), 1);
  EXPECT_EQ(log.Lines("device missing: ").size(), 1u) << "a line for every attempt";
}

TEST_F(MappedSessionTest, TakesADeviceWhenItsOtherWriterIsGone) {
  server_.Start();
  auto writer = std::make_unique<MappedClient>(&fabric_, [&] {
    config::ClientSessionConfig other = TestSessionConfig(server_.path(), {"disk0"});
    other.name = "other";
    return other;
  }());
  writer->Start();
  writer->WaitOpen("disk0");
  StartClient();
  EXPECT_EQ(StatusToErrno(client_->WaitFailed("disk0")), EPERM);
  EXPECT_EQ(Read(client_->WaitOpen("disk1")), 0);
  writer.reset();
  EXPECT_EQ(Read(client_->WaitOpen("disk0")), 0);
}

TEST_F(MappedSessionTest, AServerThatIsNotThereYet) {
  StartClient();
  absl::Status why = client_->WaitFailed("disk0");
  EXPECT_EQ(StatusToErrno(why), ENOENT) << why;
  EXPECT_THAT(std::string(why.message()), HasSubstr(config_.paths[0].ToString()));
  EXPECT_FALSE(client_->WaitFailed("disk1").ok());
  server_.Start();
  EXPECT_EQ(Read(client_->WaitOpen("disk0")), 0);
  EXPECT_EQ(Read(client_->WaitOpen("disk1")), 0);
  EXPECT_EQ(client_->failed("disk0"), 1);
  EXPECT_EQ(client_->opened("disk0"), 1);
}

TEST_F(MappedSessionTest, AServerThatRefusesTheSession) {
  std::atomic<bool> refuse{true};
  server_.on_session = [&](const rtrs::ServerSessionInfo&) {
    return refuse.load() ? ErrnoToStatus(EACCES, "no entry for this session") : absl::OkStatus();
  };
  server_.Start();
  StartClient();
  EXPECT_THAT(client_->WaitFailed("disk0").ToString(), HasSubstr("no entry for this session"));
  refuse.store(false);
  EXPECT_EQ(Read(client_->WaitOpen("disk0")), 0);
}

// Only when no path works has the session failed.
TEST_F(MappedSessionTest, OneOfTwoPathsIsEnough) {
  config_.paths.insert(config_.paths.begin(),
                       *rtrs::ParsePathAddress("unix:/tmp/rnbd-nobody-listens-here.sock"));
  server_.Start();
  StartClient();
  EXPECT_EQ(Read(client_->WaitOpen("disk0")), 0);
  client_->WaitOpen("disk1");
  EXPECT_EQ(client_->failed("disk0"), 0);
  EXPECT_EQ(client_->failed("disk1"), 0);
}

TEST_F(MappedSessionTest, NoneOfTwoPathsIsAFailure) {
  config_.paths.push_back(*rtrs::ParsePathAddress("unix:/tmp/rnbd-nobody-listens-here.sock"));
  StartClient();
  EXPECT_FALSE(client_->WaitFailed("disk0").ok());
  EXPECT_FALSE(client_->WaitFailed("disk1").ok());
}

TEST_F(MappedSessionTest, AnOpenWithoutAnAnswerIsAFailureUntilItComes) {
  config_.settings.connect_timeout = absl::Milliseconds(300);
  absl::Notification go_on;
  server_.on_open = [&](absl::string_view name, AccessMode) {
    if (name == "disk0") go_on.WaitForNotification();
    return absl::OkStatus();
  };
  server_.Start();
  StartClient();
  EXPECT_EQ(StatusToErrno(client_->WaitFailed("disk0")), ETIMEDOUT);
  EXPECT_EQ(StatusToErrno(client_->WaitFailed("disk1")), ETIMEDOUT) << "it waits behind";
  go_on.Notify();
  EXPECT_EQ(Read(client_->WaitOpen("disk0")), 0);
  EXPECT_EQ(Read(client_->WaitOpen("disk1")), 0);
}

// ---- A server that comes back -------------------------------------------------------------------

TEST_F(MappedSessionTest, ReopensDevicesWhenTheServerIsBack) {
  server_.Start();
  StartClient();
  RemoteDevice* device = client_->WaitOpen("disk0");
  client_->WaitOpen("disk1");
  for (int round = 1; round <= 3; ++round) {
    server_.Stop();
    ASSERT_TRUE(Eventually([&] { return !device->is_open(); }));
    EXPECT_EQ(Read(device), EIO);
    EXPECT_EQ(client_->Flush(device), EIO);
    server_.Start();
    ASSERT_TRUE(client_->WaitReopened("disk0", round));
    ASSERT_TRUE(client_->WaitReopened("disk1", round));
    EXPECT_EQ(Read(device), 0);
  }
  EXPECT_EQ(client_->opened("disk0"), 1);
  EXPECT_EQ(client_->failed("disk0"), 0);
}

TEST_F(MappedSessionTest, TakesALargerDiskAndNoSmallerOne) {
  Geometry geometry = TestDisk::DefaultGeometry(kDiskBytes / 2);
  disk0_.set_geometry(geometry);
  server_.Start();
  StartClient();
  RemoteDevice* device = client_->WaitOpen("disk0");
  RemoteDevice* other = client_->WaitOpen("disk1");
  EXPECT_EQ(device->size(), kDiskBytes / 2);
  server_.Stop();
  disk0_.set_geometry(TestDisk::DefaultGeometry(kDiskBytes));
  server_.Start();
  ASSERT_TRUE(client_->WaitReopened("disk0", 1));
  ASSERT_TRUE(client_->WaitReopened("disk1", 1));
  EXPECT_EQ(device->size(), kDiskBytes);
  EXPECT_EQ(client_->Read(device, kDiskBytes - 512, absl::MakeSpan(client_->memory(), 512)), 0);

  server_.Stop();
  ASSERT_TRUE(Eventually([&] { return !device->is_open(); }));
  geometry.size = kDiskBytes - 4096;
  disk0_.set_geometry(geometry);
  server_.Start();
  ASSERT_TRUE(client_->WaitReopened("disk1", 2));
  EXPECT_EQ(Read(other), 0);
  EXPECT_EQ(Read(device), EIO);
  EXPECT_EQ(device->size(), kDiskBytes) << "applications were told so";
  // It is left to others meanwhile.
  EXPECT_TRUE(Eventually([&] { return disk0_.opens() == 0; }));
  EXPECT_EQ(client_->failed("disk0"), 0) << "an outcome was told before";

  disk0_.set_geometry(TestDisk::DefaultGeometry(kDiskBytes));
  ASSERT_TRUE(client_->WaitReopened("disk0", 2)) << "without a new connection";
  EXPECT_EQ(Read(device), 0);
}

TEST_F(MappedSessionTest, TakesNoDiskWithOtherBlocks) {
  server_.Start();
  StartClient();
  RemoteDevice* device = client_->WaitOpen("disk0");
  client_->WaitOpen("disk1");
  server_.Stop();
  ASSERT_TRUE(Eventually([&] { return !device->is_open(); }));
  Geometry geometry = TestDisk::DefaultGeometry(kDiskBytes);
  geometry.logical_block_size = 4096;
  disk0_.set_geometry(geometry);
  server_.Start();
  ASSERT_TRUE(client_->WaitReopened("disk1", 1));
  EXPECT_EQ(Read(device), EIO);
  EXPECT_EQ(device->logical_block_size(), 512u);
}

TEST_F(MappedSessionTest, TakesNewLimitsOfADeviceThatCameBack) {
  server_.Start();
  StartClient();
  RemoteDevice* device = client_->WaitOpen("disk0");
  EXPECT_EQ(client_->Discard(device, 0, 4096), 0);
  server_.Stop();
  Geometry geometry = TestDisk::DefaultGeometry(kDiskBytes);
  geometry.max_discard = 0;
  geometry.write_back_cache = false;
  disk0_.set_geometry(geometry);
  server_.Start();
  ASSERT_TRUE(client_->WaitReopened("disk0", 1));
  EXPECT_EQ(client_->Discard(device, 0, 4096), EOPNOTSUPP);
  EXPECT_FALSE(device->needs_flush());
}

// ---- Closing ------------------------------------------------------------------------------------

TEST_F(MappedSessionTest, CloseFlushesWhatHasACacheAndIsWritable) {
  Geometry without_cache = TestDisk::DefaultGeometry(kDiskBytes);
  without_cache.write_back_cache = false;
  disk1_.set_geometry(without_cache);
  server_.AddDisk("disk2", &disk2_);
  config_ = TestSessionConfig(server_.path(), {"disk0", "disk1", "disk2"});
  config_.devices[2].access = AccessMode::kReadOnly;
  server_.Start();
  StartClient();
  for (const char* name : {"disk0", "disk1", "disk2"}) client_->WaitOpen(name);
  for (TestDisk* disk : {&disk0_, &disk1_, &disk2_}) disk->Record(true);
  EXPECT_TRUE(CloseWithin(absl::Seconds(10)).ok());
  EXPECT_EQ(disk0_.TakeSeen().size(), 1u);
  EXPECT_EQ(disk1_.TakeSeen().size(), 0u);
  EXPECT_EQ(disk2_.TakeSeen().size(), 0u);
  EXPECT_EQ(disk0_.opens() + disk1_.opens() + disk2_.opens(), 0);
}

TEST_F(MappedSessionTest, CloseTellsWhichFlushFailedAndClosesAllTheSame) {
  server_.Start();
  StartClient();
  client_->WaitOpen("disk0");
  client_->WaitOpen("disk1");
  Fault fault;
  fault.operation = Kind::kFlush;
  fault.error = ENOSPC;
  disk0_.faults().Add(fault);
  disk1_.Record(true);
  absl::Status status = CloseWithin(absl::Seconds(10));
  EXPECT_EQ(StatusToErrno(status), ENOSPC);
  EXPECT_THAT(std::string(status.message()), HasSubstr("disk0"));
  EXPECT_EQ(disk1_.TakeSeen().size(), 1u) << "the other one was not flushed";
  EXPECT_EQ(disk0_.opens() + disk1_.opens(), 0);
}

TEST_F(MappedSessionTest, CloseWaitsNoLongerThanItsBoundForAFlush) {
  server_.Start();
  StartClient();
  client_->WaitOpen("disk0");
  client_->WaitOpen("disk1");
  Fault fault;
  fault.kind = Fault::Kind::kHang;
  disk1_.faults().Add(fault);
  absl::Status status = CloseWithin(absl::Milliseconds(300));
  EXPECT_EQ(StatusToErrno(status), ETIMEDOUT) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("disk1"));
}

TEST_F(MappedSessionTest, CloseWaitsNoLongerThanItsBoundForADeviceThatHangs) {
  server_.Start();
  StartClient();
  RemoteDevice* device = client_->WaitOpen("disk0");
  client_->WaitOpen("disk1");
  Fault fault;
  fault.kind = Fault::Kind::kHang;
  fault.operation = Kind::kRead;
  disk0_.faults().Add(fault);
  testing::TestBlockRequest read;
  read.length = 512;
  read.span_count = 1;
  read.spans[0] = {client_->memory(), 512};
  client_->Submit(0, device, &read);
  ASSERT_TRUE(disk0_.faults().AwaitHung(1, kPatience));
  // The FLUSH is answered; the CLOSE waits for the READ.
  EXPECT_TRUE(CloseWithin(absl::Seconds(2)).ok());
  EXPECT_EQ(read.Wait(), EIO);
}

TEST_F(MappedSessionTest, CloseBeforeStart) {
  client_ = std::make_unique<MappedClient>(&fabric_, config_);
  EXPECT_TRUE(CloseWithin(absl::Seconds(10)).ok());
}

TEST_F(MappedSessionTest, CloseWhileThereIsNoServer) {
  StartClient();
  EXPECT_FALSE(client_->WaitFailed("disk0").ok());
  EXPECT_TRUE(CloseWithin(absl::Seconds(10)).ok()) << "nothing was ever written";
}

TEST_F(MappedSessionTest, CloseWhileConnecting) {
  server_.Start();
  for (int i = 0; i < 10; ++i) {
    StartClient();
    absl::SleepFor(absl::Microseconds(200 * i));
    EXPECT_TRUE(CloseWithin(absl::Seconds(10)).ok());
    client_.reset();
  }
  EXPECT_TRUE(Eventually([&] { return server_.session_count() == 0; }));
  EXPECT_TRUE(Eventually([&] { return disk0_.opens() + disk1_.opens() == 0; }));
}

TEST_F(MappedSessionTest, CloseWhileTheServerIsAwayTellsWhatMayBeLost) {
  for (const bool written : {false, true}) {
    server_.Start();
    StartClient();
    RemoteDevice* device = client_->WaitOpen("disk0");
    client_->WaitOpen("disk1");
    absl::Span<uint8_t> data = absl::MakeSpan(client_->memory(), 512);
    EXPECT_EQ(client_->Write(device, 0, data), 0);
    EXPECT_EQ(written ? 0 : client_->Flush(device), 0);
    server_.Stop();
    ASSERT_TRUE(Eventually([&] { return !device->is_open(); }));
    absl::Status status = CloseWithin(absl::Seconds(10));
    EXPECT_EQ(StatusToErrno(status), written ? ENOTCONN : 0) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(written ? "disk0" : ""));
    client_.reset();
  }
}

// Nobody knows whether they are still in the cache of the server that came back.
TEST_F(MappedSessionTest, AFlushFailsOnceAfterUnflushedWritesMayBeLost) {
  server_.Start();
  StartClient();
  RemoteDevice* device = client_->WaitOpen("disk0");
  RemoteDevice* other = client_->WaitOpen("disk1");
  absl::Span<uint8_t> data = absl::MakeSpan(client_->memory(), 512);
  // Whole blocks, parts of blocks, zeroes; flushed, durable or only discarded ones do not count.
  const std::vector<std::function<int()>> writes = {
      [&] { return client_->Write(device, 512, data); },
      [&] { return client_->Write(device, 5, data.first(7)); },
      [&] { return client_->WriteZeroes(device, 0, 4096); },
      [&] { return client_->WriteZeroes(device, 1, 700); }};
  int round = 0;
  for (const auto& write : writes) {
    EXPECT_EQ(write(), 0);
    EXPECT_EQ(client_->Write(other, 0, data), 0);
    EXPECT_EQ(client_->Flush(other), 0);
    EXPECT_EQ(client_->Write(other, 0, data, /*fua=*/true), 0);
    EXPECT_EQ(client_->Write(other, 5, data.first(7), /*fua=*/true), 0);
    EXPECT_EQ(client_->Discard(other, 0, 4096), 0);
    server_.Stop();
    server_.Start();
    ASSERT_TRUE(client_->WaitReopened("disk0", ++round));
    ASSERT_TRUE(client_->WaitReopened("disk1", round));
    EXPECT_EQ(client_->Flush(other), 0);
    EXPECT_EQ(client_->Flush(device), EIO);
    EXPECT_EQ(client_->Flush(device), 0);
  }
  EXPECT_EQ(client_->Write(device, 0, data), 0);
  server_.Stop();
  server_.Start();
  ASSERT_TRUE(client_->WaitReopened("disk0", ++round));
  ASSERT_TRUE(client_->WaitReopened("disk1", round));
  EXPECT_EQ(StatusToErrno(CloseWithin(absl::Seconds(10))), EIO);
}

// What is written must be flushed although another message is under way.
TEST_F(MappedSessionTest, CloseWhileADeviceIsBeingOpened) {
  absl::Notification go_on;
  absl::Notification opening;
  server_.on_open = [&](absl::string_view name, AccessMode) {
    if (name == "disk1") {
      opening.Notify();
      go_on.WaitForNotification();
    }
    return absl::OkStatus();
  };
  server_.Start();
  StartClient();
  client_->WaitOpen("disk0");
  opening.WaitForNotification();
  disk0_.Record(true);
  client_->BeginClose();
  EXPECT_EQ(StatusToErrno(client_->WaitClosed(absl::Milliseconds(100))), EBUSY);
  go_on.Notify();
  EXPECT_TRUE(client_->WaitClosed().ok());
  EXPECT_EQ(disk0_.TakeSeen().size(), 1u) << "no FLUSH";
  EXPECT_TRUE(Eventually([&] { return disk0_.opens() + disk1_.opens() == 0; }));
}

TEST_F(MappedSessionTest, CloseWhileAnOpenIsNotAnsweredTellsWhatIsNotFlushed) {
  absl::Notification go_on;
  absl::Notification opening;
  server_.on_open = [&](absl::string_view name, AccessMode) {
    if (name == "disk1") {
      opening.Notify();
      go_on.WaitForNotification();
    }
    return absl::OkStatus();
  };
  server_.Start();
  StartClient();
  client_->WaitOpen("disk0");
  opening.WaitForNotification();
  absl::Status status = CloseWithin(absl::Milliseconds(300));
  EXPECT_EQ(StatusToErrno(status), ETIMEDOUT) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("disk0"));
  EXPECT_EQ(client_->opened("disk1"), 0);
  go_on.Notify();
  EXPECT_TRUE(Eventually([&] { return disk0_.opens() + disk1_.opens() == 0; }));
}

TEST_F(MappedSessionTest, CloseWithAThousandDevicesWhenThePathBreaks) {
  std::vector<std::string> names;
  for (int i = 0; i < 1000; ++i) {
    names.push_back(absl::StrCat("many-", i));
    server_.AddDisk(names.back(), &disk0_);
  }
  config_ = TestSessionConfig(server_.path(), names);
  // There is one writer, which is the one to be flushed.
  for (auto& device : config_.devices) device.access = AccessMode::kReadOnly;
  config_.devices[0].access = AccessMode::kReadWrite;
  server_.Start();
  StartClient();
  client_->WaitOpen(names.back());
  Fault fault;
  fault.kind = Fault::Kind::kHang;
  disk0_.faults().Add(fault);
  client_->BeginClose();
  ASSERT_TRUE(disk0_.faults().AwaitHung(1, kPatience));
  server_.Stop();
  absl::Status status = client_->WaitClosed();
  EXPECT_EQ(StatusToErrno(status), ECONNABORTED) << status;
}

}  // namespace
}  // namespace rnbd::client
