// Requests that are sent again, over another path, to a server that was started anew, or by the
// next process: none of them is lost, and none overtakes a later one.

#include <cerrno>
#include <cstring>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/block_device.h"
#include "client/remote_device.h"
#include "gtest/gtest.h"
#include "testing/held_io_fixture.h"

namespace rnbd::client {
namespace {

using rtrs::Eventually;
using rtrs::kPatience;
using server::Geometry;
using testing::MappedClient;
using testing::TestBlockRequest;
using testing::TestDisk;

using ReplayTest = testing::HeldIoFixture;

// ---- One of several paths is lost ---------------------------------------------------------------

// The schedule that loses data without a fence: the first copy of W1 is stuck in a slow disk.
TEST_F(ReplayTest, AnOldWriteCannotLandBehindALaterOne) {
  PrepareTwoPaths();
  Start();
  disk_.faults().Add(HangWrites());
  TestBlockRequest first;
  SubmitWrite(&first, 0, Filled(4096, '1'));
  ASSERT_TRUE(disk_.faults().AwaitHung(1, kPatience));
  ASSERT_NO_FATAL_FAILURE(CutTheBusyPath(1));
  // Other blocks go on meanwhile over the other path.
  EXPECT_EQ(client_->Write(device_, 65536, Filled(4096, 'x', 8192)), 0);
  absl::SleepFor(kMoment);
  EXPECT_FALSE(first.done()) << "acknowledged while its first copy can still land";
  disk_.faults().ReleaseHung();
  EXPECT_EQ(first.Wait(), 0);
  EXPECT_EQ(client_->Write(device_, 0, Filled(4096, '2')), 0);
  absl::SleepFor(kMoment);
  EXPECT_TRUE(DiskIs(0, 4096, '2'));
  EXPECT_EQ(client_->reopened("disk0"), 0);
}

// A part of a block is written as the whole block: the neighbour's write must wait for the fence.
TEST_F(ReplayTest, APartOfABlockDoesNotUndoItsNeighbour) {
  PrepareTwoPaths();
  Start();
  EXPECT_EQ(client_->Write(device_, 0, Filled(512, '0')), 0);
  disk_.faults().Add(HangWrites());
  TestBlockRequest part;
  SubmitWrite(&part, 0, Filled(100, '1'));
  ASSERT_TRUE(disk_.faults().AwaitHung(1, kPatience));
  ASSERT_NO_FATAL_FAILURE(CutTheBusyPath(1));
  TestBlockRequest neighbour;
  SubmitWrite(&neighbour, 200, Filled(100, '2', 8192), 1);
  absl::SleepFor(kMoment);
  EXPECT_FALSE(neighbour.done());
  disk_.faults().ReleaseHung();
  EXPECT_EQ(part.Wait(), 0);
  EXPECT_EQ(neighbour.Wait(), 0);
  EXPECT_TRUE(DiskIs(0, 100, '1'));
  EXPECT_TRUE(DiskIs(100, 100, '0'));
  EXPECT_TRUE(DiskIs(200, 100, '2'));
}

// ---- What came back -----------------------------------------------------------------------------

TEST_F(ReplayTest, AFlushGoesOnWhenOnlyTheServerWasStartedAnew) {
  Start();
  EXPECT_EQ(client_->Write(device_, 0, Filled(4096, 'a')), 0);
  StopServer();
  server_->Start();
  EXPECT_EQ(client_->Flush(device_), 0);
  EXPECT_TRUE(client_->WaitReopened("disk0", 1));
}

TEST_F(ReplayTest, AFlushFailsOnceWhenNobodySaysThatTheCacheSurvived) {
  Prepare({.tells_identity = false});
  Start();
  EXPECT_EQ(client_->Write(device_, 0, Filled(4096, 'a')), 0);
  StopServer();
  server_->Start();
  EXPECT_EQ(client_->Flush(device_), EIO);
  EXPECT_EQ(client_->Flush(device_), 0);
}

TEST_F(ReplayTest, UnlessTheServersCacheIsTrusted) {
  Prepare({.tells_identity = false});
  config_.settings.trust_server_cache = true;
  Start();
  EXPECT_EQ(client_->Write(device_, 0, Filled(4096, 'a')), 0);
  StopServer();
  server_->Start();
  EXPECT_EQ(client_->Flush(device_), 0);
}

TEST_F(ReplayTest, AnotherDiskUnderTheSameNameIsNotUsed) {
  rtrs::LogCapture log;
  Geometry geometry = TestDisk::DefaultGeometry(kDiskBytes);
  geometry.disk_id = 7;
  disk_.set_geometry(geometry);
  Start();
  EXPECT_EQ(client_->Write(device_, 0, Filled(4096, 'a')), 0);
  StopServer();
  geometry.disk_id = 8;
  disk_.set_geometry(geometry);
  server_->Start();
  TestBlockRequest write;
  SubmitWrite(&write, 0, Filled(4096, 'b'));
  ASSERT_TRUE(Eventually([&] { return server_->opens() >= 4; }));
  EXPECT_FALSE(write.done());
  EXPECT_TRUE(DiskIs(0, 4096, 'a'));
  EXPECT_EQ(log.Lines("another disk has its name").size(), 1u);
  // The right one is back, without a new session.
  geometry.disk_id = 7;
  disk_.set_geometry(geometry);
  EXPECT_EQ(write.Wait(), 0);
  EXPECT_TRUE(DiskIs(0, 4096, 'b'));
}

// ---- The next process ---------------------------------------------------------------------------

// The earlier one is not even known to be dead, and a write of it is at work.
TEST_F(ReplayTest, TheNextProcessGoesOnWhereTheLastOneHasEnded) {
  Geometry geometry = TestDisk::DefaultGeometry(kDiskBytes);
  geometry.disk_id = 7;
  disk_.set_geometry(geometry);
  config_.settings.reconnect_max = absl::Hours(1);
  Start();
  const DeviceFacts facts = device_->facts();
  EXPECT_EQ(facts.size, kDiskBytes);
  EXPECT_EQ(facts.identity.disk, 7u);
  disk_.faults().Add(HangWrites());
  TestBlockRequest old;
  SubmitWrite(&old, 0, Filled(4096, '1'));
  ASSERT_TRUE(disk_.faults().AwaitHung(1, kPatience));

  config_.settings.reconnect_max = absl::Milliseconds(40);
  MappedClient next(&cutting_, config_);
  RemoteDevice* device = next.Restore("disk0", facts);
  ASSERT_NE(device, nullptr);
  EXPECT_EQ(next.Restore("another", facts), nullptr);
  EXPECT_EQ(device->size(), kDiskBytes);
  TestBlockRequest again;
  again.operation = BlockOperation::kWrite;
  again.length = 4096;
  again.span_count = 1;
  again.spans[0] = {next.memory(), 4096};
  std::memset(next.memory(), '2', 4096);
  next.Submit(0, device, &again);
  next.Start();
  absl::SleepFor(kMoment);
  EXPECT_FALSE(again.done()) << "beside a write of the process before";
  disk_.faults().ReleaseHung();
  EXPECT_EQ(again.Wait(), 0);
  EXPECT_TRUE(DiskIs(0, 4096, '2'));
  EXPECT_TRUE(next.WaitReopened("disk0", 1));
  EXPECT_EQ(next.opened("disk0"), 0);
  EXPECT_TRUE(next.Close().ok());
  client_->Close(absl::Milliseconds(100)).IgnoreError();
  EXPECT_EQ(old.Wait(), EIO);
}

TEST_F(ReplayTest, ARestoredDeviceWithoutItsServerHoldsForAsLongAsItShould) {
  config_.devices[0].io_hold = absl::Milliseconds(200);
  client_ = std::make_unique<MappedClient>(&cutting_, config_);
  device_ = client_->Restore("disk0", {kDiskBytes, 512, 4096, {}});
  client_->Start();
  TestBlockRequest write;
  SubmitWrite(&write, 0, Filled(512, 'a'));
  EXPECT_EQ(write.Wait(), EIO);
}

}  // namespace
}  // namespace rnbd::client
