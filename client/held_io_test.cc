// Requests that wait for their device: what a program on the file sees of servers that go away is
// time.

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/block_device.h"
#include "client/mapped_session.h"
#include "client/remote_device.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "testing/held_io_fixture.h"

namespace rnbd::client {
namespace {

using rtrs::Eventually;
using rtrs::kPatience;
using ::testing::HasSubstr;
using testing::MappedClient;
using testing::TestBlockRequest;

class HeldIoTest : public testing::HeldIoFixture {
 protected:
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

// ---- The end of a hold --------------------------------------------------------------------------

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
