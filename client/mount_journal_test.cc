#include "client/mount_journal.h"

#include <memory>
#include <vector>

#include "common/ring.h"
#include "gtest/gtest.h"
#include "testing/fuse/fake_block_device.h"

namespace rnbd::client {
namespace {

using testing::FakeBlockDevice;

class MountJournalTest : public ::testing::Test {
 protected:
  MountJournalTest() {
    const absl::StatusOr<config::ClientConfig> config = config::ParseClientConfig(R"(
sessions:
  - name: web-1
    paths: ["tcp:127.0.0.1:1"]
    devices:
      - path: images/a.img
        name: disk0
)",
                                                                                  "client.yaml");
    EXPECT_TRUE(config.ok()) << config.status();
    config_ = *config;
  }

  config::ClientConfig config_;
  std::unique_ptr<MountState> state_ = MountState::Create().value();
};

TEST_F(MountJournalTest, KnowsWhereADeviceCameFrom) {
  std::unique_ptr<RingThread> thread = RingThread::Start("worker", {}).value();
  FakeBlockDevice device(FakeBlockDevice::Options(), {thread->ring()});  // "disk0"
  MountJournal journal(config_, state_.get());
  Filesystem::FileFacts file;
  file.inode = 0x10005;
  file.device = &device;
  file.mode = 0640;
  file.owner = 5;
  journal.SetIdentity("disk0", {77, 3});
  journal.OnFile(file);

  const std::vector<MountState::Device> devices = state_->Read()->devices;
  ASSERT_EQ(1U, devices.size());
  EXPECT_EQ("web-1", devices[0].session);
  EXPECT_EQ("images/a.img", devices[0].path);
  EXPECT_EQ("disk0", devices[0].name);
  EXPECT_EQ(device.size(), devices[0].size);
  EXPECT_EQ(mode_t{0640}, devices[0].mode);
  EXPECT_EQ(5U, devices[0].owner);
  EXPECT_EQ((DiskIdentity{77, 3}), devices[0].identity);

  // A new start of the host, after its loss has been told: written down at once.
  journal.SetIdentity("disk0", {77, 4});
  EXPECT_EQ((DiskIdentity{77, 4}), state_->Read()->devices[0].identity);
  EXPECT_EQ(mode_t{0640}, state_->Read()->devices[0].mode);

  journal.OnFileGone(0x10005);
  journal.SetIdentity("disk0", {77, 5});
  EXPECT_TRUE(state_->Read()->devices.empty());
}

TEST_F(MountJournalTest, DevicesMayComeAtRunTime) {
  MountJournal journal(config_, state_.get());
  config::ClientDeviceConfig config;
  config.path = "b.img";
  config.name = "b";
  config.access = AccessMode::kReadOnly;
  journal.SetSource("web-2", config);
  MountState::Device device;
  device.session = "web-2";
  device.path = "b.img";
  device.name = "b";
  device.access_mode = AccessMode::kReadOnly;
  EXPECT_TRUE(journal.IsConfigured(device));
}

TEST_F(MountJournalTest, TellsOtherDevicesOfTheSameName) {
  const MountJournal journal(config_, state_.get());
  MountState::Device device;
  device.session = "web-1";
  device.path = "images/a.img";
  device.name = "disk0";
  EXPECT_TRUE(journal.IsConfigured(device));
  device.path = "images/b.img";
  EXPECT_FALSE(journal.IsConfigured(device));
  device.path = "images/a.img";
  device.access_mode = AccessMode::kReadOnly;
  EXPECT_FALSE(journal.IsConfigured(device));
  device.name = "disk1";
  EXPECT_FALSE(journal.IsConfigured(device));
}

TEST_F(MountJournalTest, KeepsTheFirstRequest) {
  MountJournal journal(config_, state_.get());
  const uint8_t request[] = {1, 0, 2};
  journal.OnInit(request);
  EXPECT_EQ(std::string("\1\0\2", 3), state_->Read()->init);
}

}  // namespace
}  // namespace rnbd::client
