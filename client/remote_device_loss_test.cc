// A device whose disk hangs, and one whose server goes away, from the application's side.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/remote_device.h"
#include "common/status.h"
#include "gtest/gtest.h"
#include "testing/device_server.h"
#include "testing/device_stack.h"
#include "testing/mapped_client.h"
#include "testing/session_harness.h"

namespace rnbd::client {
namespace {

using rtrs::Eventually;
using rtrs::kPatience;
using testing::Fault;
using testing::MappedClient;
using testing::TestBlockRequest;
using Stack = testing::DeviceStack;
using Kind = server::BlockOperation;

TEST(RemoteDeviceLossTest, ADeviceThatHangsHoldsUpNoOther) {
  Stack stack;
  Fault fault;
  fault.kind = Fault::Kind::kHang;
  const int id = stack.disk.faults().Add(fault);
  // A read and a write of parts of blocks and of whole ones, on both workers.
  std::vector<std::unique_ptr<TestBlockRequest>> hanging;
  // Far more than the session has chunks.
  for (size_t i = 0; i < 200; ++i) {
    hanging.push_back(std::make_unique<TestBlockRequest>());
    TestBlockRequest& request = *hanging.back();
    request.operation = i % 4 < 2 ? BlockOperation::kRead : BlockOperation::kWrite;
    request.offset = i % 2 == 0 ? 4096 * i : 4096 * i + 9;
    request.length = 4096;
    request.span_count = 1;
    request.spans[0] = {stack.memory(4096, (1 << 20) + i * 4096).data(), 4096};
    stack.client->Submit(i / 4 % 2, stack.device, &request);
  }
  ASSERT_TRUE(stack.disk.faults().AwaitHung(1, kPatience));
  stack.client->threads().Settle();
  absl::Span<uint8_t> data = stack.memory(512);
  for (size_t worker : {0, 1}) {
    for (uint64_t offset : {uint64_t{0}, uint64_t{77}}) {
      EXPECT_EQ(stack.client->Write(stack.other_device, offset, data, false, worker), 0);
      EXPECT_EQ(stack.client->Read(stack.other_device, offset, data, worker), 0);
    }
  }
  stack.disk.faults().Remove(id);
  EXPECT_TRUE(Eventually([&] {
    stack.disk.faults().ReleaseHung();
    return std::all_of(hanging.begin(), hanging.end(),
                       [](const auto& request) { return request->done(); });
  }));
  for (const auto& request : hanging) EXPECT_EQ(request->Wait(), 0);
}

// Here the server does not say whether its host was started anew.
TEST(RemoteDeviceLossTest, AFlushTellsThatWritesBeforeTheServersEndMayBeLost) {
  Stack stack;
  auto restart = [&, round = 0]() mutable {
    stack.server.Stop();
    stack.server.Start();
    ASSERT_TRUE(stack.client->WaitReopened("disk0", ++round));
    ASSERT_TRUE(stack.client->WaitReopened("disk1", round));
  };
  EXPECT_EQ(stack.client->Write(stack.device, 0, stack.memory(4096)), 0);
  EXPECT_EQ(stack.client->Flush(stack.device), 0);
  restart();
  EXPECT_EQ(stack.client->Flush(stack.device), 0);

  // Aligned or not, what no FLUSH has covered; told once.
  for (uint64_t offset : {0, 100}) {
    EXPECT_EQ(stack.client->Write(stack.device, offset, stack.memory(4096)), 0);
    restart();
    EXPECT_EQ(stack.client->Flush(stack.device), EIO);
    EXPECT_EQ(stack.client->Flush(stack.device), 0);
  }

  EXPECT_EQ(stack.client->Write(stack.device, 0, stack.memory(4096), /*fua=*/true), 0);
  restart();
  EXPECT_EQ(stack.client->Flush(stack.device), 0);

  // Who never asks is told in the end.
  EXPECT_EQ(stack.client->Write(stack.device, 0, stack.memory(4096)), 0);
  restart();
  EXPECT_EQ(StatusToErrno(stack.client->Close()), EIO);
}

// While the server is away requests fail at once with EIO (io_hold: 0); when it is back they work,
// with the device's new id.
TEST(RemoteDeviceLossTest, TheServerGoesAwayAndComesBack) {
  Stack stack;
  std::atomic<bool> stop{false};
  // Keeps requests of all kinds in flight.
  class Load final : public BlockRequest {
   public:
    void OnDone(int error) override {
      EXPECT_TRUE(error == 0 || error == EIO) << error;
      ++(error == 0 ? good : bad);
      if (stop->load()) return ended.Notify();
      offset = offset * 5 % (1 << 20) + (aligned ? 0 : 3);
      if (aligned) offset &= ~uint64_t{511};
      // Not within the call: a request that fails at once would be submitted for ever.
      client->Submit(worker, device, this);
    }
    std::atomic<bool>* stop = nullptr;
    MappedClient* client = nullptr;
    RemoteDevice* device = nullptr;
    size_t worker = 0;
    bool aligned = true;
    std::atomic<int> good{0};
    std::atomic<int> bad{0};
    absl::Notification ended;
  };
  std::vector<std::unique_ptr<Load>> loads;
  for (size_t i = 0; i < 8; ++i) {
    auto load = std::make_unique<Load>();
    load->stop = &stop;
    load->client = stack.client.get();
    load->device = stack.device;
    load->worker = i % 2;
    load->aligned = i < 6;
    load->operation = i % 4 == 0 ? BlockOperation::kRead : BlockOperation::kWrite;
    load->offset = 4096 * i;
    load->length = load->aligned ? 200 * 512 : 700;
    load->span_count = 1;
    load->spans[0] = {stack.memory(200 * 512, i << 18).data(), static_cast<uint32_t>(load->length)};
    stack.client->Submit(load->worker, load->device, load.get());
    loads.push_back(std::move(load));
  }
  for (int round = 1; round <= 4; ++round) {
    const int good = loads[0]->good.load();
    ASSERT_TRUE(Eventually([&] { return loads[0]->good.load() > good + 5; }));
    stack.server.Stop();
    const int bad = loads[1]->bad.load();
    ASSERT_TRUE(Eventually([&] { return loads[1]->bad.load() > bad; }));
    ASSERT_TRUE(Eventually([&] { return !stack.device->is_open(); }));
    stack.server.Start();
    ASSERT_TRUE(stack.client->WaitReopened("disk0", round));
  }
  stop.store(true);
  for (const auto& load : loads) {
    EXPECT_TRUE(load->ended.WaitForNotificationWithTimeout(kPatience));
  }
  absl::Span<uint8_t> data = stack.memory(4096);
  EXPECT_EQ(stack.client->Read(stack.device, 0, data), 0);
}

TEST(RemoteDeviceLossTest, RequestsThatHangFailWhenTheSessionCloses) {
  Stack stack;
  Fault fault;
  fault.kind = Fault::Kind::kHang;
  fault.operation = Kind::kWrite;
  fault.count = 4;
  stack.disk.faults().Add(fault);
  TestBlockRequest whole;
  TestBlockRequest behind;
  TestBlockRequest part;
  TestBlockRequest held;
  for (TestBlockRequest* request : {&whole, &behind, &part, &held}) {
    request->operation = BlockOperation::kWrite;
    request->offset = request == &part ? 3 : 0;
    request->length = 512;
    request->span_count = 1;
    request->spans[0] = {stack.memory(512).data(), 512};
    // `part` waits for the first two to end, `held` for `part`.
    stack.client->Submit(0, stack.device, request);
  }
  ASSERT_TRUE(stack.disk.faults().AwaitHung(2, kPatience));
  const absl::Time begin = absl::Now();
  // The FLUSH behind the hanging writes is answered, for it does not cover them.
  stack.client->Close(absl::Milliseconds(300)).IgnoreError();
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
  for (TestBlockRequest* request : {&whole, &behind, &part, &held}) {
    EXPECT_EQ(request->Wait(), EIO);
  }
}

}  // namespace
}  // namespace rnbd::client
