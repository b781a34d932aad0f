// Devices that are taken away from their sessions, and who is told of devices.

#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "common/rnbd_messages.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/stream_fabric.h"
#include "server/device_observer.h"
#include "testing/device_server.h"
#include "testing/rnbd_client.h"
#include "testing/session_harness.h"

namespace rnbd::server {
namespace {

using rtrs::Eventually;
using rtrs::kPatience;
using testing::DeviceServer;
using ::testing::ElementsAre;
using testing::Fault;
using testing::MakeRequest;
using testing::RnbdClient;
using testing::TestDisk;
using testing::UserRequest;

class ForceCloseTest : public ::testing::Test, protected DeviceObserver {
 protected:
  ForceCloseTest() : server_(&fabric_, Options()) {
    server_.AddDisk("disk0", &disk_);
    server_.Start();
    client_ = std::make_unique<RnbdClient>(&fabric_, &server_, "blya");
  }
  ~ForceCloseTest() override {
    client_.reset();
    server_.Stop();
  }

  DeviceServer::Options Options() {
    DeviceServer::Options options;
    options.device_observer = this;
    return options;
  }

  uint64_t OnDeviceOpened(const OpenDeviceFacts& device, Commands commands) override {
    absl::MutexLock lock(&mutex_);
    opened_.push_back(absl::StrCat(device.session, " ", device.mapping_path, " ",
                                   AccessModeName(device.mode), device.read_only ? " r" : " w"));
    commands_ = std::move(commands);
    return opened_.size();
  }
  void OnDeviceClosed(uint64_t number) override {
    absl::MutexLock lock(&mutex_);
    closed_.push_back(number);
  }

  struct Forced {
    absl::Notification done;
    int error = -1;
  };
  std::shared_ptr<Forced> BeginForce() {
    auto forced = std::make_shared<Forced>();
    Commands commands;
    {
      absl::MutexLock lock(&mutex_);
      commands = commands_;
    }
    commands.force_close([forced](const absl::Status& status) {
      forced->error = StatusToErrno(status);
      forced->done.Notify();
    });
    return forced;
  }
  int Force() {
    const auto forced = BeginForce();
    return forced->done.WaitForNotificationWithTimeout(kPatience) ? forced->error : -1;
  }
  std::vector<uint64_t> closed() {
    absl::MutexLock lock(&mutex_);
    return closed_;
  }
  std::unique_ptr<UserRequest> BeginHangingWrite(uint32_t id) {
    Fault fault;
    fault.kind = Fault::Kind::kHang;
    fault.count = 1;
    disk_.faults().Add(fault);
    auto write =
        client_->BeginIo(MakeRequest(id, Operation::kWrite, 0, 512), client_->data(512, 4096));
    EXPECT_TRUE(disk_.faults().AwaitHung(1, kPatience));
    return write;
  }

  rtrs::StreamFabric fabric_{rtrs::StreamOptions()};
  TestDisk disk_;
  DeviceServer server_;
  std::unique_ptr<RnbdClient> client_;
  absl::Mutex mutex_;
  Commands commands_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> opened_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint64_t> closed_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(ForceCloseTest, ObserversAreToldOfEachDevice) {
  const uint32_t id = client_->Open("disk0", AccessMode::kReadOnly);
  EXPECT_EQ(client_->CloseDevice(id), 0);
  client_->Open("disk0");
  client_->Close();
  EXPECT_TRUE(Eventually([&] { return closed().size() == 2; }));
  absl::MutexLock lock(&mutex_);
  EXPECT_THAT(opened_, ElementsAre("blya disk0 ro r", "blya disk0 rw w"));
  EXPECT_THAT(closed_, ElementsAre(1, 2));
}

TEST_F(ForceCloseTest, TheClientGetsAnErrorForEachRequestAndNeverTheIdAgain) {
  const uint32_t id = client_->Open("disk0");
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kRead, 0, 512), client_->data(512)), 0);
  EXPECT_EQ(Force(), 0);
  EXPECT_EQ(disk_.opens(), 0);
  EXPECT_THAT(closed(), ElementsAre(1));
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kRead, 0, 512), client_->data(512)), ENOTCONN);
  EXPECT_EQ(Force(), ENODEV);
  // Opened again it is there, under another id.
  const uint32_t again = client_->Open("disk0");
  EXPECT_NE(again, id);
  EXPECT_EQ(client_->CloseDevice(id), 0);
  EXPECT_EQ(client_->Io(MakeRequest(again, Operation::kRead, 0, 512), client_->data(512)), 0);
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kRead, 0, 512), client_->data(512)), ENOTCONN);
}

TEST_F(ForceCloseTest, WaitsForTheRequestsAtWork) {
  const uint32_t id = client_->Open("disk0");
  auto write = BeginHangingWrite(id);
  const auto forced = BeginForce();
  EXPECT_EQ(Force(), EALREADY);
  EXPECT_EQ(client_->Io(MakeRequest(id, Operation::kRead, 0, 512), client_->data(512)), ENOTCONN);
  EXPECT_FALSE(forced->done.HasBeenNotified());
  EXPECT_EQ(disk_.opens(), 1) << "its disk belongs to the write";
  disk_.faults().ReleaseHung();
  EXPECT_EQ(write->Wait(), 0);
  ASSERT_TRUE(forced->done.WaitForNotificationWithTimeout(kPatience));
  EXPECT_EQ(forced->error, 0);
  EXPECT_EQ(disk_.opens(), 0);
}

TEST_F(ForceCloseTest, EndsWithTheSessionToo) {
  const uint32_t id = client_->Open("disk0");
  auto write = BeginHangingWrite(id);
  const auto forced = BeginForce();
  client_->Close();
  EXPECT_EQ(write->Wait(), ECONNABORTED);
  disk_.faults().ReleaseHung();
  ASSERT_TRUE(forced->done.WaitForNotificationWithTimeout(kPatience));
  EXPECT_EQ(forced->error, 0);
  EXPECT_EQ(disk_.opens(), 0);
  EXPECT_EQ(Force(), ENODEV);
}

}  // namespace
}  // namespace rnbd::server
