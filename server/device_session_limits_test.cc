// Requests that wait for a limit: in which order, and what becomes of them when their connection is
// lost, or their device is closed.

#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/rnbd_messages.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/stream_fabric.h"
#include "server/device_observer.h"
#include "server/device_session.h"
#include "server/rate_limit.h"
#include "testing/device_server.h"
#include "testing/rnbd_client.h"
#include "testing/session_harness.h"

namespace rnbd::server {
namespace {

using rtrs::Eventually;
using rtrs::kPatience;
using testing::DeviceServer;
using testing::MakeRequest;
using testing::RnbdClient;
using testing::TestDisk;
using testing::UserRequest;

// One request of any size goes, and none behind it for minutes.
constexpr char kOneOnly[] = "bandwidth=4KiB burst=1ms";
constexpr uint32_t kBytes = 64 << 10;

class DeviceSessionLimitsTest : public ::testing::Test, protected DeviceObserver {
 protected:
  DeviceSessionLimitsTest() : server_(&fabric_, Options()) {
    server_.AddDisk("disk0", &disk_);
    server_.AddDisk("disk1", &other_disk_);
    server_.Start();
    client_ = std::make_unique<RnbdClient>(&fabric_, &server_, "blya");
    id_ = client_->Open("disk0");
    other_id_ = client_->Open("disk1");
    disk_.Record(true);
  }
  // Not in the destructor: until then the server tells this object what happens.
  void TearDown() override {
    client_.reset();
    server_.Stop();
  }

  DeviceServer::Options Options() {
    DeviceServer::Options options;
    options.device_observer = this;
    return options;
  }

  void OnSessionLimit(const std::string&, const std::shared_ptr<RateLimit>& limit) override {
    absl::MutexLock lock(&mutex_);
    session_limit_ = limit;
  }
  uint64_t OnDeviceOpened(const OpenDeviceFacts& device, Commands commands) override {
    absl::MutexLock lock(&mutex_);
    if (device.mapping_path == "disk0") commands_ = std::move(commands);
    return 0;
  }
  void OnDeviceClosed(uint64_t) override {}

  void Limit(const char* text) {
    absl::MutexLock lock(&mutex_);
    ASSERT_TRUE(commands_.limit->SetByHand(text).ok());
  }
  void LimitSession(const char* text) {
    absl::MutexLock lock(&mutex_);
    ASSERT_TRUE(session_limit_->SetByHand(text).ok());
  }

  std::unique_ptr<UserRequest> BeginWrite(uint32_t id, size_t number = 0) {
    return client_->BeginIo(MakeRequest(id, Operation::kWrite, number * (kBytes / 512), kBytes),
                            client_->data(kBytes, 4096 + number * kBytes));
  }
  // One that goes and three that wait.
  std::vector<std::unique_ptr<UserRequest>> BeginFour() {
    std::vector<std::unique_ptr<UserRequest>> writes;
    for (size_t i = 0; i < 4; ++i) writes.push_back(BeginWrite(id_, i));
    EXPECT_EQ(writes[0]->Wait(), 0);
    return writes;
  }

  rtrs::StreamFabric fabric_{rtrs::StreamOptions()};
  TestDisk disk_;
  TestDisk other_disk_;
  absl::Mutex mutex_;
  Commands commands_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<RateLimit> session_limit_ ABSL_GUARDED_BY(mutex_);
  DeviceServer server_;
  std::unique_ptr<RnbdClient> client_;
  uint32_t id_ = 0;
  uint32_t other_id_ = 0;
};

TEST_F(DeviceSessionLimitsTest, ADevicesLimitHoldsUpNoOther) {
  Limit(kOneOnly);
  const auto writes = BeginFour();
  for (int i = 0; i < 10; ++i) EXPECT_EQ(BeginWrite(other_id_)->Wait(), 0);
  for (size_t i = 1; i < 4; ++i) EXPECT_FALSE(writes[i]->done());
  Limit("none");
  for (size_t i = 1; i < 4; ++i) EXPECT_EQ(writes[i]->Wait(), 0);
}

TEST_F(DeviceSessionLimitsTest, ASessionsLimitIsOneForAllItsDevices) {
  LimitSession(kOneOnly);
  const auto writes = BeginFour();
  const auto other = BeginWrite(other_id_);
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_FALSE(other->done());
  LimitSession("file");
  EXPECT_EQ(other->Wait(), 0);
  for (size_t i = 1; i < 4; ++i) EXPECT_EQ(writes[i]->Wait(), 0);
}

TEST_F(DeviceSessionLimitsTest, TheRateHoldsAndTheOrderToo) {
  Limit("iops=100 burst=1ms");
  const absl::Time begin = absl::Now();
  std::vector<std::unique_ptr<UserRequest>> requests;
  for (size_t i = 0; i < 10; ++i) requests.push_back(BeginWrite(id_, i));
  requests.push_back(client_->BeginIo(MakeRequest(id_, Operation::kFlush, 0, 0)));
  for (const auto& request : requests) EXPECT_EQ(request->Wait(), 0);
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(95));
  const auto seen = disk_.TakeSeen();
  ASSERT_EQ(seen.size(), 11U);
  for (size_t i = 0; i < 10; ++i) EXPECT_EQ(seen[i].offset, i * kBytes);
  EXPECT_EQ(seen[10].operation, BlockOperation::kFlush);
}

// Otherwise a client that comes back would wait for them, and its fence with it.
TEST_F(DeviceSessionLimitsTest, RequestsOfALostConnectionGoNowhere) {
  Limit(kOneOnly);
  const auto writes = BeginFour();
  const absl::Time begin = absl::Now();
  client_->Close();
  EXPECT_TRUE(Eventually([&] { return server_.session_count() == 0; }));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  EXPECT_EQ(disk_.TakeSeen().size(), 1U);
  EXPECT_TRUE(Eventually([&] { return disk_.opens() == 0; }));
}

TEST_F(DeviceSessionLimitsTest, CloseWaitsForThoseThatWait) {
  Limit("iops=50 burst=1ms");
  std::vector<std::unique_ptr<UserRequest>> writes;
  for (size_t i = 0; i < 5; ++i) writes.push_back(BeginWrite(id_, i));
  EXPECT_EQ(writes[0]->Wait(), 0);
  // Over the connection of the writes: it comes behind them.
  const CloseMessage close = MakeClose(id_);
  EXPECT_EQ(client_->Begin(0, Direction::kWrite, MessageBytes(close))->Wait(), 0);
  EXPECT_EQ(disk_.TakeSeen().size(), 5U);
  for (const auto& write : writes) EXPECT_EQ(write->Wait(), 0);
  EXPECT_EQ(disk_.opens(), 0);
}

TEST_F(DeviceSessionLimitsTest, ForceCloseCancelsThoseThatWait) {
  Limit(kOneOnly);
  const auto writes = BeginFour();
  Commands commands;
  {
    absl::MutexLock lock(&mutex_);
    commands = commands_;
  }
  absl::Notification closed;
  commands.force_close([&](const absl::Status& status) {
    EXPECT_TRUE(status.ok()) << status;
    closed.Notify();
  });
  ASSERT_TRUE(closed.WaitForNotificationWithTimeout(kPatience));
  for (size_t i = 1; i < 4; ++i) EXPECT_EQ(writes[i]->Wait(), ENOTCONN);
  EXPECT_EQ(disk_.TakeSeen().size(), 1U);
}

}  // namespace
}  // namespace rnbd::server
