// Requests that wait for their device, and requests that are sent again: what a program on the file
// sees of lost paths and servers that go away is time.

#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/remote_device.h"
#include "common/ring.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/stream_fabric.h"
#include "testing/cutting_fabric.h"
#include "testing/device_server.h"
#include "testing/mapped_client.h"
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
using testing::TestBlockRequest;
using testing::TestDisk;
using testing::TestSessionConfig;

using Kind = server::BlockOperation;

constexpr uint64_t kDiskBytes = 1 << 20;
constexpr absl::Duration kMoment = absl::Milliseconds(50);

class HeldIoTest : public ::testing::Test {
 protected:
  HeldIoTest() { Prepare({}); }
  ~HeldIoTest() override {
    client_.reset();
    server_->Stop();
  }

  void Prepare(const DeviceServer::Options& options) {
    server_ = std::make_unique<DeviceServer>(&fabric_, options);
    server_->AddDisk("disk0", &disk_);
    config_ = TestSessionConfig(server_->path(), {"disk0"});
    for (size_t i = 1; i < options.addresses; ++i) config_.paths.push_back(server_->path(i));
    config_.devices[0].io_hold = absl::InfiniteDuration();
  }
  void PrepareTwoPaths() { Prepare({.addresses = 2}); }

  void Start() {
    server_->Start();
    client_ = std::make_unique<MappedClient>(&cutting_, config_);
    client_->Start();
    device_ = client_->WaitOpen("disk0");
    ASSERT_NE(device_, nullptr);
    if (config_.paths.size() > 1) {
      ASSERT_TRUE(Eventually([&] { return server_->counters().paths_connected == 2; }));
    }
  }
  void StopServer() {
    server_->Stop();
    ASSERT_TRUE(Eventually([&] { return !device_->is_open(); }));
  }
  void CutPath(int number) { cutting_.CutPath(server_->path(number).destination); }
  // Cuts the path on which something is at work, and waits until the client holds `count` requests.
  void CutTheBusyPath(size_t count) {
    for (int path : {0, 1}) {
      const uint64_t closed = server_->counters().paths_closed;
      CutPath(path);
      ASSERT_TRUE(Eventually(
          [&] { return server_->counters().paths_closed > closed || device_->held() == count; }));
      if (Eventually([&] { return device_->held() == count; }, absl::Milliseconds(300))) return;
    }
    FAIL() << "no path had it";
  }

  absl::Span<uint8_t> memory(size_t bytes, size_t offset = 0) {
    return {client_->memory() + offset, bytes};
  }
  absl::Span<uint8_t> Filled(size_t bytes, uint8_t fill, size_t offset = 0) {
    absl::Span<uint8_t> data = memory(bytes, offset);
    std::fill(data.begin(), data.end(), fill);
    return data;
  }
  void SubmitWrite(TestBlockRequest* request, uint64_t offset, absl::Span<uint8_t> data,
                   size_t worker = 0) {
    request->operation = BlockOperation::kWrite;
    request->offset = offset;
    request->length = data.size();
    request->span_count = 1;
    request->spans[0] = {data.data(), static_cast<uint32_t>(data.size())};
    client_->Submit(worker, device_, request);
  }
  bool DiskIs(uint64_t offset, size_t bytes, uint8_t fill) {
    server_->Settle();
    const std::vector<uint8_t> wanted(bytes, fill);
    return std::memcmp(disk_.data() + offset, wanted.data(), bytes) == 0;
  }
  RequestPlace PlaceOf(const TestBlockRequest& request, size_t worker = 0) {
    RequestPlace place = RequestPlace::kOverdue;
    absl::Notification looked;
    client_->threads().workers()[worker]->Post([&] {
      place = device_->PlaceOf(worker, request);
      looked.Notify();
    });
    looked.WaitForNotification();
    return place;
  }
  // The errno.
  int EndHold() {
    absl::Status ended;
    absl::Notification done;
    client_->OnControl([&](MappedSession* session) {
      session->EndHold("disk0", [&](const absl::Status& status) {
        ended = status;
        done.Notify();
      });
    });
    done.WaitForNotification();
    return StatusToErrno(ended);
  }
  // As one that was asked for after everything else.
  static void MakeYoung(TestBlockRequest* request) { request->started_ns = INT64_MAX; }
  Fault HangWrites(int64_t count = 1) {
    Fault fault;
    fault.kind = Fault::Kind::kHang;
    fault.operation = Kind::kWrite;
    fault.count = count;
    return fault;
  }

  rtrs::StreamFabric fabric_{rtrs::StreamOptions{}};
  rtrs::CuttingFabric cutting_{&fabric_};
  TestDisk disk_{TestDisk::DefaultGeometry(kDiskBytes)};
  std::unique_ptr<DeviceServer> server_;
  config::ClientSessionConfig config_;
  std::unique_ptr<MappedClient> client_;
  RemoteDevice* device_ = nullptr;
};

// ---- The server goes away -----------------------------------------------------------------------

TEST_F(HeldIoTest, RequestsOfEveryKindWaitForTheServer) {
  Start();
  StopServer();
  TestBlockRequest requests[6];
  const BlockOperation kinds[] = {BlockOperation::kWrite,   BlockOperation::kWrite,
                                  BlockOperation::kRead,    BlockOperation::kFlush,
                                  BlockOperation::kDiscard, BlockOperation::kWriteZeroes};
  for (size_t i = 0; i < 6; ++i) {
    TestBlockRequest& request = requests[i];
    request.operation = kinds[i];
    request.offset = 8192 * i + (i == 1 ? 3 : 0);  // one that is not of whole blocks
    request.length = 4096;
    request.span_count = i < 3 ? 1 : 0;
    if (i < 3) request.spans[0] = {Filled(4096, 'w', 8192 * i).data(), 4096};
    client_->Submit(i % 2, device_, &request);
  }
  ASSERT_TRUE(Eventually([&] { return device_->held() == 6; }));
  absl::SleepFor(kMoment);
  for (const TestBlockRequest& request : requests) EXPECT_FALSE(request.done());
  server_->Start();
  for (TestBlockRequest& request : requests) EXPECT_EQ(request.Wait(), 0);
  EXPECT_EQ(device_->held(), 0u);
  EXPECT_TRUE(DiskIs(0, 4096, 'w'));
  EXPECT_TRUE(DiskIs(8192 + 3, 4096, 'w'));
}

// Counted in attempts to connect, of which an hour has 720 to 1,440 with the configuration's
// defaults: what grows from one to the next would have grown, and what runs over have run over.
TEST_F(HeldIoTest, AnHourWithoutTheServerIsOnlyAWait) {
  constexpr uint64_t kAttempts = 1440;
  config_.settings.reconnect_min = absl::Milliseconds(1);
  config_.settings.reconnect_max = absl::Milliseconds(1);
  Start();
  StopServer();
  TestBlockRequest writes[8];
  for (size_t i = 0; i < 8; ++i) SubmitWrite(&writes[i], 4096 * i, Filled(4096, 'h', 4096 * i));
  const auto attempts = [this] {
    uint64_t count = 0;
    client_->OnControl([&count](MappedSession* session) {
      count = session->session()->Paths().front()->failed_reconnects();
    });
    return count;
  };
  ASSERT_TRUE(Eventually([&] { return attempts() >= kAttempts; }, 4 * kPatience));
  EXPECT_EQ(device_->held(), 8u);
  for (const TestBlockRequest& write : writes) EXPECT_FALSE(write.done());
  server_->Start();
  for (TestBlockRequest& write : writes) EXPECT_EQ(write.Wait(), 0);
  EXPECT_TRUE(DiskIs(0, 8 * 4096, 'h'));
}

TEST_F(HeldIoTest, WhatWasInFlightIsDoneAgainWhenTheServerIsBack) {
  Start();
  disk_.faults().Add(HangWrites());
  TestBlockRequest write;
  SubmitWrite(&write, 0, Filled(4096, 'a'));
  ASSERT_TRUE(disk_.faults().AwaitHung(1, kPatience));
  StopServer();
  EXPECT_FALSE(write.done());
  server_->Start();
  EXPECT_EQ(write.Wait(), 0);
  EXPECT_TRUE(DiskIs(0, 4096, 'a'));
}

TEST_F(HeldIoTest, ALoadSeesNothingOfAServerThatIsStartedAgainAndAgain) {
  PrepareTwoPaths();
  Start();
  std::atomic<bool> stop{false};
  class Load final : public BlockRequest {
   public:
    void OnDone(int error) override {
      if (error != 0) ++bad;
      ++done;
      if (stop->load()) return ended.Notify();
      if (operation == BlockOperation::kWrite && ++writes % 16 == 0) {
        operation = BlockOperation::kFlush;
      } else {
        operation = writes % 3 == 0 && !aligned ? BlockOperation::kRead : BlockOperation::kWrite;
      }
      client->Submit(worker, device, this);
    }
    std::atomic<bool>* stop = nullptr;
    MappedClient* client = nullptr;
    RemoteDevice* device = nullptr;
    size_t worker = 0;
    bool aligned = true;
    int writes = 0;
    std::atomic<int> done{0};
    std::atomic<int> bad{0};
    absl::Notification ended;
  };
  std::vector<std::unique_ptr<Load>> loads;
  for (size_t i = 0; i < 8; ++i) {
    auto load = std::make_unique<Load>();
    load->stop = &stop;
    load->client = client_.get();
    load->device = device_;
    load->worker = i % 2;
    load->aligned = i < 6;
    load->operation = BlockOperation::kWrite;
    load->offset = 65536 * i + (load->aligned ? 0 : 3);
    load->length = load->aligned ? 65536 : 700;
    load->span_count = 1;
    load->spans[0] = {Filled(65536, static_cast<uint8_t>('a' + i), i << 16).data(),
                      static_cast<uint32_t>(load->length)};
    client_->Submit(load->worker, device_, load.get());
    loads.push_back(std::move(load));
  }
  for (int round = 0; round < 12; ++round) {
    const int done = loads[0]->done.load();
    ASSERT_TRUE(Eventually([&] { return loads[0]->done.load() > done + 5; }));
    if (round % 3 == 0) {
      server_->Stop();
      server_->Start();
    } else {
      CutPath(round % 2);
    }
  }
  stop.store(true);
  for (const auto& load : loads) {
    EXPECT_TRUE(load->ended.WaitForNotificationWithTimeout(kPatience));
    EXPECT_EQ(load->bad.load(), 0);
  }
  for (size_t i = 0; i < 6; ++i) EXPECT_TRUE(DiskIs(65536 * i, 65536, 'a' + i)) << i;
}

TEST_F(HeldIoTest, AFiniteHoldEnds) {
  config_.devices[0].io_hold = absl::Milliseconds(300);
  Start();
  const absl::Time begin = absl::Now();
  StopServer();
  TestBlockRequest write;
  SubmitWrite(&write, 0, Filled(512, 'a'));
  TestBlockRequest part;
  SubmitWrite(&part, 5, memory(7), 1);
  EXPECT_EQ(write.Wait(), EIO);
  EXPECT_EQ(part.Wait(), EIO);
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(300));
  // From then on at once.
  const absl::Time later = absl::Now();
  EXPECT_EQ(client_->Read(device_, 0, memory(512)), EIO);
  EXPECT_LT(absl::Now() - later, absl::Milliseconds(250));
  server_->Start();
  ASSERT_TRUE(client_->WaitReopened("disk0", 1));
  EXPECT_EQ(client_->Write(device_, 0, Filled(512, 'b')), 0);
  // And the next time it holds again.
  StopServer();
  TestBlockRequest again;
  SubmitWrite(&again, 0, Filled(512, 'c'));
  absl::SleepFor(kMoment);
  EXPECT_FALSE(again.done());
  server_->Start();
  EXPECT_EQ(again.Wait(), 0);
}

// As when a hold is over and begins anew before a worker has looked.
TEST_F(HeldIoTest, WhatIsLookedAtAndGoesOnToWaitIsHeldOnce) {
  Start();
  StopServer();
  TestBlockRequest write;
  SubmitWrite(&write, 0, Filled(512, 'a'));
  ASSERT_TRUE(Eventually([&] { return device_->held() == 1; }));
  absl::Notification go_on;
  client_->threads().workers()[0]->Post([&] { go_on.WaitForNotification(); });
  client_->threads().control()->RunAndWait([&] {
    device_->AllowHolding(false);
    device_->AllowHolding(true);
  });
  go_on.Notify();
  client_->threads().Settle();
  EXPECT_EQ(device_->held(), 1U);
  EXPECT_EQ(device_->holds().holds, 1U);
  server_->Start();
  EXPECT_EQ(write.Wait(), 0);
  EXPECT_GT(device_->holds().held_ns, 0U);
}

TEST_F(HeldIoTest, AHoldThatIsEndedFailsWhatWaitsAndNothingLater) {
  Start();
  EXPECT_EQ(EndHold(), EALREADY);
  StopServer();
  TestBlockRequest requests[5];
  SubmitWrite(&requests[0], 0, Filled(4096, 'a'));
  SubmitWrite(&requests[1], 8192, Filled(4096, 'b', 4096), 1);
  for (size_t i = 2; i < 5; ++i) SubmitWrite(&requests[i], 3 * i, memory(7), i % 2);
  TestBlockRequest later;
  MakeYoung(&later);
  SubmitWrite(&later, 16384, Filled(4096, 'c', 8192));
  ASSERT_TRUE(Eventually([&] { return device_->held() == 6; }));
  EXPECT_EQ(EndHold(), 0);
  for (TestBlockRequest& request : requests) {
    EXPECT_TRUE(request.done());
    EXPECT_EQ(request.Wait(), EIO);
  }
  EXPECT_FALSE(later.done());
  EXPECT_EQ(device_->held(), 1u);
  server_->Start();
  EXPECT_EQ(later.Wait(), 0);
  EXPECT_TRUE(DiskIs(16384, 4096, 'c'));
  EXPECT_TRUE(DiskIs(0, 4096, 0)) << "what has failed was sent";
  // The next loss is another hold.
  StopServer();
  TestBlockRequest again;
  SubmitWrite(&again, 0, Filled(4096, 'd'));
  absl::SleepFor(kMoment);
  EXPECT_FALSE(again.done());
  server_->Start();
  EXPECT_EQ(again.Wait(), 0);
}

// Parts of blocks that were at work when the server went wait for each other at the gate; the end
// of the hold gets through to each.
TEST_F(HeldIoTest, AHoldThatIsEndedOpensTheGate) {
  Start();
  disk_.faults().Add(HangWrites());
  TestBlockRequest parts[3];
  for (size_t i = 0; i < 3; ++i) SubmitWrite(&parts[i], 10 * i, Filled(7, 'p', 512 * i), i % 2);
  ASSERT_TRUE(disk_.faults().AwaitHung(1, kPatience));
  TestBlockRequest whole;
  SubmitWrite(&whole, 4096, Filled(4096, 'w', 4096));
  StopServer();
  ASSERT_TRUE(Eventually([&] { return device_->held() > 0; }));
  EXPECT_EQ(EndHold(), 0);
  for (TestBlockRequest& part : parts) EXPECT_EQ(part.Wait(), EIO);
  EXPECT_EQ(whole.Wait(), EIO);
  server_->Start();
  ASSERT_TRUE(client_->WaitReopened("disk0", 1));
  EXPECT_EQ(client_->Write(device_, 3, Filled(7, 'q')), 0);
  EXPECT_EQ(client_->Write(device_, 4096, Filled(4096, 'q')), 0);
  EXPECT_TRUE(DiskIs(4096, 4096, 'q'));
}

TEST_F(HeldIoTest, AHoldThatIsEndedBeginsAnew) {
  config_.devices[0].io_hold = absl::Milliseconds(600);
  Start();
  StopServer();
  absl::SleepFor(absl::Milliseconds(300));
  const absl::Time begin = absl::Now();
  EXPECT_EQ(EndHold(), 0);
  TestBlockRequest later;
  MakeYoung(&later);
  SubmitWrite(&later, 0, Filled(4096, 'a'));
  EXPECT_EQ(later.Wait(), EIO);
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(600));
}

// ---- Where requests are -------------------------------------------------------------------------

TEST_F(HeldIoTest, TellsWhereEachRequestIs) {
  Start();
  disk_.faults().Add(HangWrites(1000));
  // All of the server's chunks but the one that is kept for the session's own messages.
  TestBlockRequest writes[16];
  for (size_t i = 0; i < 16; ++i) SubmitWrite(&writes[i], 4096 * i, Filled(4096, 'w', 4096 * i));
  ASSERT_TRUE(disk_.faults().AwaitHung(15, kPatience));
  for (size_t i = 0; i < 15; ++i) EXPECT_EQ(PlaceOf(writes[i]), RequestPlace::kServer) << i;
  EXPECT_EQ(PlaceOf(writes[15]), RequestPlace::kPermit);
  TestBlockRequest part;
  SubmitWrite(&part, 3, memory(7, 65536), 1);
  EXPECT_EQ(PlaceOf(part, 1), RequestPlace::kBlock);
  StopServer();
  ASSERT_TRUE(Eventually([&] { return device_->held() == 17; }));
  EXPECT_EQ(PlaceOf(writes[0]), RequestPlace::kHeld);
  EXPECT_EQ(PlaceOf(writes[15]), RequestPlace::kHeld);
  EXPECT_EQ(PlaceOf(part, 1), RequestPlace::kHeld);
  disk_.faults().Clear();
  server_->Start();
  for (TestBlockRequest& write : writes) EXPECT_EQ(write.Wait(), 0);
  EXPECT_EQ(part.Wait(), 0);
}

TEST_F(HeldIoTest, CountsWhatIsNotAnsweredAndHowLongTheOthersTook) {
  Start();
  disk_.faults().Add(HangWrites());
  TestBlockRequest write;
  write.started_ns = Ring::coarse_now_ns();
  SubmitWrite(&write, 0, Filled(4096, 't'));
  ASSERT_TRUE(disk_.faults().AwaitHung(1, kPatience));
  EXPECT_EQ(device_->traffic().writes, 1U);
  EXPECT_EQ(device_->traffic().in_flight, 1U);
  EXPECT_EQ(device_->traffic().write_ns, 0U);
  absl::SleepFor(absl::Milliseconds(30));
  disk_.faults().ReleaseHung();
  EXPECT_EQ(write.Wait(), 0);
  EXPECT_EQ(device_->traffic().in_flight, 0U);
  EXPECT_GE(device_->traffic().write_ns, 25'000'000U);
  EXPECT_LT(device_->traffic().write_ns, 60'000'000'000U);
  EXPECT_EQ(device_->traffic().read_ns, 0U);
}

TEST_F(HeldIoTest, APartOfABlockIsWhereItsStepIs) {
  Start();
  disk_.faults().Add(HangWrites());
  TestBlockRequest part;
  SubmitWrite(&part, 3, Filled(7, 'p'));
  ASSERT_TRUE(disk_.faults().AwaitHung(1, kPatience));
  EXPECT_EQ(PlaceOf(part), RequestPlace::kServer);
  disk_.faults().ReleaseHung();
  EXPECT_EQ(part.Wait(), 0);
}

TEST_F(HeldIoTest, AHoldOfNothingFailsAtOnceButNotForOneOfTwoPaths) {
  PrepareTwoPaths();
  config_.devices[0].io_hold = absl::ZeroDuration();
  Start();
  disk_.faults().Add(HangWrites());
  TestBlockRequest write;
  SubmitWrite(&write, 0, Filled(4096, 'a'));
  ASSERT_TRUE(disk_.faults().AwaitHung(1, kPatience));
  ASSERT_NO_FATAL_FAILURE(CutTheBusyPath(1));
  EXPECT_FALSE(write.done());
  disk_.faults().ReleaseHung();
  EXPECT_EQ(write.Wait(), 0);
  StopServer();
  EXPECT_EQ(client_->Read(device_, 0, memory(512)), EIO);
}

// ---- One of several paths is lost ---------------------------------------------------------------

// The schedule that loses data without a fence: the first copy of W1 is stuck in a slow disk.
TEST_F(HeldIoTest, AnOldWriteCannotLandBehindALaterOne) {
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
TEST_F(HeldIoTest, APartOfABlockDoesNotUndoItsNeighbour) {
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

TEST_F(HeldIoTest, AFlushGoesOnWhenOnlyTheServerWasStartedAnew) {
  Start();
  EXPECT_EQ(client_->Write(device_, 0, Filled(4096, 'a')), 0);
  StopServer();
  server_->Start();
  EXPECT_EQ(client_->Flush(device_), 0);
  EXPECT_TRUE(client_->WaitReopened("disk0", 1));
}

TEST_F(HeldIoTest, AFlushFailsOnceWhenNobodySaysThatTheCacheSurvived) {
  Prepare({.tells_identity = false});
  Start();
  EXPECT_EQ(client_->Write(device_, 0, Filled(4096, 'a')), 0);
  StopServer();
  server_->Start();
  EXPECT_EQ(client_->Flush(device_), EIO);
  EXPECT_EQ(client_->Flush(device_), 0);
}

TEST_F(HeldIoTest, UnlessTheServersCacheIsTrusted) {
  Prepare({.tells_identity = false});
  config_.settings.trust_server_cache = true;
  Start();
  EXPECT_EQ(client_->Write(device_, 0, Filled(4096, 'a')), 0);
  StopServer();
  server_->Start();
  EXPECT_EQ(client_->Flush(device_), 0);
}

TEST_F(HeldIoTest, AnotherDiskUnderTheSameNameIsNotUsed) {
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
TEST_F(HeldIoTest, TheNextProcessGoesOnWhereTheLastOneHasEnded) {
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

TEST_F(HeldIoTest, ARestoredDeviceWithoutItsServerHoldsForAsLongAsItShould) {
  config_.devices[0].io_hold = absl::Milliseconds(200);
  client_ = std::make_unique<MappedClient>(&cutting_, config_);
  device_ = client_->Restore("disk0", {kDiskBytes, 512, 4096, {}});
  client_->Start();
  TestBlockRequest write;
  SubmitWrite(&write, 0, Filled(512, 'a'));
  EXPECT_EQ(write.Wait(), EIO);
}

// ---- The end ------------------------------------------------------------------------------------

TEST_F(HeldIoTest, CloseEndsTheWaitAndTellsOfIt) {
  Start();
  StopServer();
  TestBlockRequest write;
  SubmitWrite(&write, 0, Filled(512, 'a'));
  TestBlockRequest part;
  SubmitWrite(&part, 3, memory(5), 1);
  ASSERT_TRUE(Eventually([&] { return device_->held() == 2; }));
  const absl::Time begin = absl::Now();
  const absl::Status status = client_->Close(absl::Seconds(2));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(4));
  EXPECT_THAT(status.ToString(), HasSubstr("2 requests of device disk0 were waiting"));
  EXPECT_EQ(write.Wait(), EIO);
  EXPECT_EQ(part.Wait(), EIO);
}

TEST_F(HeldIoTest, CloseEndsTheWaitForAFenceToo) {
  PrepareTwoPaths();
  Start();
  disk_.faults().Add(HangWrites(2));
  TestBlockRequest write;
  SubmitWrite(&write, 0, Filled(512, 'a'));
  ASSERT_TRUE(disk_.faults().AwaitHung(1, kPatience));
  ASSERT_NO_FATAL_FAILURE(CutTheBusyPath(1));
  const absl::Status status = client_->Close(absl::Milliseconds(300));
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(write.Wait(), EIO);
}

}  // namespace
}  // namespace rnbd::client
