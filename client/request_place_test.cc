// Where a device's requests are, and how long they took.

#include <cstddef>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/block_device.h"
#include "client/remote_device.h"
#include "common/ring.h"
#include "gtest/gtest.h"
#include "testing/held_io_fixture.h"

namespace rnbd::client {
namespace {

using rtrs::Eventually;
using rtrs::kPatience;
using testing::TestBlockRequest;

class RequestPlaceTest : public testing::HeldIoFixture {
 protected:
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
};

TEST_F(RequestPlaceTest, TellsWhereEachRequestIs) {
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

TEST_F(RequestPlaceTest, CountsWhatIsNotAnsweredAndHowLongTheOthersTook) {
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

TEST_F(RequestPlaceTest, APartOfABlockIsWhereItsStepIs) {
  Start();
  disk_.faults().Add(HangWrites());
  TestBlockRequest part;
  SubmitWrite(&part, 3, Filled(7, 'p'));
  ASSERT_TRUE(disk_.faults().AwaitHung(1, kPatience));
  EXPECT_EQ(PlaceOf(part), RequestPlace::kServer);
  disk_.faults().ReleaseHung();
  EXPECT_EQ(part.Wait(), 0);
}

}  // namespace
}  // namespace rnbd::client
