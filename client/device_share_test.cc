#include "client/device_share.h"

#include <cstdint>
#include <functional>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::client {
namespace {

using ::testing::ElementsAre;

class Request final : public BlockRequest {
 public:
  void OnDone(int) override {}
};

class NoOwner final : public BlockTransfer::Owner {
 public:
  void OnTransferDone(size_t, BlockRequest*, int) override {}
};

// Devices that hang take what they may of `permits`, in turns.
uint32_t LeftBy(size_t devices, size_t workers, uint32_t permits) {
  std::vector<DeviceShare> shares;
  for (size_t i = 0; i < devices; ++i) shares.emplace_back(workers);
  uint32_t free = permits;
  for (bool any = true; any;) {
    any = false;
    for (DeviceShare& share : shares) {
      for (size_t worker = 0; worker < workers; ++worker) {
        if (free == 0 || !share.MayStart(worker, 1, free)) continue;
        share.OnStarted(worker, 1);
        --free;
        any = true;
      }
    }
  }
  return free;
}

TEST(DeviceShareTest, OneDeviceGetsMostAndManyLeaveSome) {
  EXPECT_EQ(LeftBy(1, 1, 100), 20U);
  for (size_t devices : {1, 2, 3, 8}) {
    for (size_t workers : {1, 2, 4}) EXPECT_GT(LeftBy(devices, workers, 128), 0U) << devices;
  }
}

TEST(DeviceShareTest, OneTransferMayAlwaysStart) {
  DeviceShare share(2);
  EXPECT_TRUE(share.MayStart(0, 4, 0));
  share.OnStarted(0, 4);
  EXPECT_FALSE(share.MayStart(0, 1, 0));
  EXPECT_TRUE(share.MayStart(1, 1, 0));
}

TEST(DeviceShareTest, ThoseThatWaitStartInOrderWhileThereIsRoom) {
  DeviceShare share(1);
  NoOwner owner;
  Request requests[4];
  share.OnStarted(0, 1);
  for (Request& request : requests) share.Wait(0, &request, 1, &owner);
  EXPECT_TRUE(share.anyone_waits(0));
  uint32_t free = 2;
  std::vector<BlockRequest*> started;
  const auto start = [&](BlockRequest* request, BlockTransfer::Owner* whose) {
    EXPECT_EQ(whose, &owner);
    started.push_back(request);
    share.OnStarted(0, 1);
    --free;
  };
  const auto free_permits = [&] { return free; };
  share.StartWaiting(0, free_permits, start);
  EXPECT_THAT(started, ElementsAre(&requests[0])) << "the last permit is for others";
  free = 100;
  share.StartWaiting(0, free_permits, start);
  EXPECT_THAT(started, ElementsAre(&requests[0], &requests[1], &requests[2], &requests[3]));
  EXPECT_FALSE(share.anyone_waits(0));
}

// A request that ends within the call starts the next one from the same loop.
TEST(DeviceShareTest, RequestsThatEndAtOnceDoNotNest) {
  DeviceShare share(1);
  NoOwner owner;
  std::vector<Request> requests(1000);
  for (Request& request : requests) share.Wait(0, &request, 1, &owner);
  int depth = 0;
  int started = 0;
  std::function<void()> run = [&] {
    share.StartWaiting(
        0, [] { return 100U; },
        [&](BlockRequest*, BlockTransfer::Owner*) {
          EXPECT_EQ(++depth, 1);
          ++started;
          share.OnStarted(0, 1);
          share.OnEnded(0, 1);
          run();
          --depth;
        });
  };
  run();
  EXPECT_EQ(started, 1000);
}

}  // namespace
}  // namespace rnbd::client
