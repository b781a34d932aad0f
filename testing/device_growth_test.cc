// Disks that grow, or shrink, while a client has them open: from the server's look at them to the
// device's size.

#include <cerrno>
#include <functional>
#include <memory>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/remote_device.h"
#include "common/ring.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/server_handler.h"
#include "rtrs/stream_fabric.h"
#include "server/device_observer.h"
#include "testing/device_server.h"
#include "testing/mapped_client.h"
#include "testing/session_harness.h"

namespace rnbd::testing {
namespace {

using client::RemoteDevice;
using rtrs::Eventually;
using rtrs::kPatience;

constexpr uint64_t kSize = 1 << 20;

class DeviceGrowthTest : public ::testing::Test, protected server::DeviceObserver {
 protected:
  ~DeviceGrowthTest() override {
    client_.reset();
    if (server_ != nullptr) server_->Stop();
  }

  void Start(absl::Duration resize_interval) {
    DeviceServer::Options options;
    options.resize_interval = resize_interval;
    options.device_observer = this;
    options.control = control_.get();
    server_ = std::make_unique<DeviceServer>(&fabric_, options);
    server_->AddDisk("disk0", &disk_);
    server_->AddDisk("disk1", &other_disk_);
    server_->on_session = [this](const rtrs::ServerSessionInfo& session) {
      send_news_ = session.send_news;
      return absl::OkStatus();
    };
    server_->Start();
    client_ = std::make_unique<MappedClient>(
        &fabric_, TestSessionConfig(server_->path(), {"disk0", "disk1"}));
    client_->Start();
    device_ = client_->WaitOpen("disk0");
    other_device_ = client_->WaitOpen("disk1");
  }

  uint64_t OnDeviceOpened(const server::OpenDeviceFacts& device, Commands commands) override {
    absl::MutexLock lock(&mutex_);
    if (device.mapping_path == "disk0") commands_ = std::move(commands);
    return 0;
  }
  void OnDeviceClosed(uint64_t) override {}

  // As a person does it.
  int LookNow() {
    Command resize;
    {
      absl::MutexLock lock(&mutex_);
      resize = commands_.resize;
    }
    absl::Notification done;
    int error = -1;
    resize([&](const absl::Status& status) {
      error = StatusToErrno(status);
      done.Notify();
    });
    EXPECT_TRUE(done.WaitForNotificationWithTimeout(kPatience));
    return error;
  }

  int WriteAt(uint64_t offset) {
    return client_->Write(device_, offset, absl::MakeSpan(client_->memory(), 4096));
  }

  rtrs::StreamFabric fabric_{rtrs::StreamOptions{}};
  TestDisk disk_{TestDisk::DefaultGeometry(kSize), 4 * kSize};
  TestDisk other_disk_{TestDisk::DefaultGeometry(kSize)};
  absl::Mutex mutex_;
  Commands commands_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<RingThread> control_ = *RingThread::Start("control", {});
  std::function<void(uint32_t news)> send_news_;  // control thread
  std::unique_ptr<DeviceServer> server_;
  std::unique_ptr<MappedClient> client_;
  RemoteDevice* device_ = nullptr;
  RemoteDevice* other_device_ = nullptr;
};

TEST_F(DeviceGrowthTest, TheClientLearnsOfADiskThatGrows) {
  Start(absl::Milliseconds(10));
  EXPECT_EQ(WriteAt(kSize), EINVAL);
  disk_.Resize(2 * kSize);
  ASSERT_TRUE(Eventually([&] { return device_->size() == 2 * kSize; }));
  EXPECT_EQ(device_->disk_size(), 2 * kSize);
  EXPECT_EQ(WriteAt(2 * kSize - 4096), 0);
  EXPECT_EQ(WriteAt(2 * kSize), EINVAL);
  EXPECT_EQ(other_device_->size(), kSize);
  EXPECT_EQ(client_->grown("disk1"), 0);
  // It is told once the client has asked, and not again.
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(client_->grown("disk0"), 1);
  disk_.Resize(3 * kSize);
  ASSERT_TRUE(Eventually([&] { return device_->size() == 3 * kSize; }));
  EXPECT_EQ(client_->grown("disk0"), 2);
  EXPECT_EQ(client_->reopened("disk0"), 0);
}

TEST_F(DeviceGrowthTest, LooksNowWhenTold) {
  Start(absl::InfiniteDuration());
  disk_.Resize(2 * kSize);
  EXPECT_EQ(LookNow(), 0);
  ASSERT_TRUE(Eventually([&] { return device_->size() == 2 * kSize; }));
  EXPECT_EQ(WriteAt(2 * kSize - 4096), 0);
  EXPECT_EQ(LookNow(), 0);
}

TEST_F(DeviceGrowthTest, AShrunkDiskKeepsItsSize) {
  Start(absl::InfiniteDuration());
  rtrs::LogCapture log;
  disk_.Resize(kSize / 2);
  EXPECT_EQ(LookNow(), EINVAL);
  EXPECT_EQ(LookNow(), EINVAL);
  EXPECT_EQ(log.Lines("has shrunk to 524288 bytes; the device keeps its 1048576").size(), 1U);
  EXPECT_EQ(device_->size(), kSize);
  EXPECT_EQ(WriteAt(kSize - 4096), 0);
  disk_.Resize(kSize);
  EXPECT_EQ(LookNow(), 0);
  EXPECT_EQ(client_->grown("disk0"), 0);
}

TEST_F(DeviceGrowthTest, TheSizeNeverGoesBackOverAReconnect) {
  Start(absl::InfiniteDuration());
  disk_.Resize(2 * kSize);
  EXPECT_EQ(LookNow(), 0);
  ASSERT_TRUE(Eventually([&] { return device_->size() == 2 * kSize; }));
  server_->Stop();
  server_->Start();
  // The disk's geometry is still the old one: that is not the disk that was used.
  EXPECT_FALSE(client_->WaitReopened("disk0", 1, absl::Milliseconds(500)));
  EXPECT_EQ(device_->size(), 2 * kSize);
  disk_.set_geometry(TestDisk::DefaultGeometry(2 * kSize));
  ASSERT_TRUE(client_->WaitReopened("disk0", 1));
  EXPECT_EQ(device_->size(), 2 * kSize);
  EXPECT_EQ(WriteAt(2 * kSize - 4096), 0);
}

TEST_F(DeviceGrowthTest, ADeviceThatWasTakenAwayDoesNotComeBackBecauseItsDiskGrows) {
  Start(absl::InfiniteDuration());
  Commands commands;
  {
    absl::MutexLock lock(&mutex_);
    commands = commands_;
  }
  absl::Notification closed;
  commands.force_close([&](const absl::Status&) { closed.Notify(); });
  ASSERT_TRUE(closed.WaitForNotificationWithTimeout(kPatience));
  disk_.Resize(2 * kSize);
  EXPECT_EQ(LookNow(), ENODEV);
  // Not even by news that were on their way.
  control_->RunAndWait([&] { send_news_(device_->id()); });
  EXPECT_TRUE(Eventually([&] { return disk_.opens() == 0 && server_->opens() == 3; }));
  EXPECT_EQ(WriteAt(0), EIO);
  EXPECT_EQ(device_->size(), kSize);
}

}  // namespace
}  // namespace rnbd::testing
