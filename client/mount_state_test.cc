#include "client/mount_state.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "gtest/gtest.h"

namespace rnbd::client {
namespace {

MountState::Device ADevice(uint64_t inode, const std::string& name) {
  MountState::Device device;
  device.inode = inode;
  device.session = "web-1";
  device.path = "disks/" + name;
  device.name = name;
  device.access_mode = AccessMode::kReadOnly;
  device.size = uint64_t{3} << 40;
  device.logical_block_size = 512;
  device.physical_block_size = 4096;
  device.identity = {uint64_t{0xabcdef}, 17};
  device.mode = 0440;
  device.owner = 1000;
  device.group = 100;
  device.modified = {12, 345};
  return device;
}

std::unique_ptr<MountState> Reopened(const MountState& state) {
  absl::StatusOr<std::unique_ptr<MountState>> opened = MountState::Open(UniqueFd(dup(state.fd())));
  EXPECT_TRUE(opened.ok()) << opened.status();
  return *std::move(opened);
}

TEST(MountStateTest, IsEmptyAtFirst) {
  auto state = MountState::Create().value();
  const MountState::Contents contents = Reopened(*state)->Read().value();
  EXPECT_EQ("", contents.mount_point);
  EXPECT_EQ("", contents.init);
  EXPECT_EQ(0U, contents.last_inode);
  EXPECT_TRUE(contents.devices.empty());
}

TEST(MountStateTest, KeepsTheConfigurationFile) {
  auto state = MountState::Create().value();
  EXPECT_EQ("", state->Read()->file);
  const std::string longest(MountState::kMaxFileBytes, 'x');
  for (const std::string& text : {std::string("sessions: []\n"), longest, std::string("other")}) {
    ASSERT_TRUE(state->SetFile(text).ok());
    EXPECT_EQ(text, Reopened(*state)->Read()->file);
  }
  ASSERT_TRUE(state->SetChanges(longest).ok());
  ASSERT_TRUE(state->PutDevice(0, ADevice(0x10000, "a")).ok());
  EXPECT_EQ("other", state->Read()->file);
  // An old one would be taken for what is in force.
  EXPECT_EQ(EINVAL, StatusToErrno(state->SetFile(longest + "x")));
  EXPECT_EQ("", state->Read()->file);
}

TEST(MountStateTest, KeepsWhatWasPut) {
  auto state = MountState::Create().value();
  ASSERT_TRUE(state->SetMount("/mnt/disk s", 77).ok());
  ASSERT_TRUE(state->SetInit(absl::string_view("\0\1init", 6)).ok());
  ASSERT_TRUE(state->SetDrained(true).ok());
  ASSERT_TRUE(state->CountTakeover().ok());
  ASSERT_TRUE(Reopened(*state)->CountTakeover().ok());
  ASSERT_TRUE(state->PutDevice(0, ADevice(0x10000, "a")).ok());
  ASSERT_TRUE(state->PutDevice(9, ADevice(0x20009, "b")).ok());

  const MountState::Contents contents = Reopened(*state)->Read().value();
  EXPECT_EQ("/mnt/disk s", contents.mount_point);
  EXPECT_EQ(77U, contents.mount_id);
  EXPECT_EQ(std::string("\0\1init", 6), contents.init);
  EXPECT_TRUE(contents.drained);
  EXPECT_EQ(2U, contents.takeovers);
  EXPECT_EQ(0x20009U, contents.last_inode);
  ASSERT_EQ(2U, contents.devices.size());
  const MountState::Device& b = contents.devices[1];
  EXPECT_EQ(0x20009U, b.inode);
  EXPECT_EQ("web-1", b.session);
  EXPECT_EQ("disks/b", b.path);
  EXPECT_EQ("b", b.name);
  EXPECT_EQ(AccessMode::kReadOnly, b.access_mode);
  EXPECT_EQ(uint64_t{3} << 40, b.size);
  EXPECT_EQ(512U, b.logical_block_size);
  EXPECT_EQ(4096U, b.physical_block_size);
  EXPECT_EQ((DiskIdentity{0xabcdef, 17}), b.identity);
  EXPECT_EQ(mode_t{0440}, b.mode);
  EXPECT_EQ(1000U, b.owner);
  EXPECT_EQ(100U, b.group);
  EXPECT_EQ(345, b.modified.tv_nsec);
}

TEST(MountStateTest, ReplacesAndRemoves) {
  auto state = MountState::Create().value();
  MountState::Device device = ADevice(0x10003, "a");
  ASSERT_TRUE(state->PutDevice(3, device).ok());
  for (uint64_t size = 1; size < 6; ++size) {
    device.size = size;
    ASSERT_TRUE(state->PutDevice(3, device).ok());
    ASSERT_EQ(1U, state->Read()->devices.size());
    EXPECT_EQ(size, state->Read()->devices[0].size);
  }
  ASSERT_TRUE(state->RemoveDevice(3).ok());
  EXPECT_TRUE(state->Read()->devices.empty());
  // The number is not to be given again.
  EXPECT_EQ(0x10003U, Reopened(*state)->Read()->last_inode);
}

TEST(MountStateTest, KnowsWhoHasAFileOpen) {
  auto state = MountState::Create().value();
  MountState::Device device = ADevice(0x10003, "a");
  device.handles = {7, uint64_t{1} << 60};
  ASSERT_TRUE(state->PutDevice(3, device).ok());
  EXPECT_EQ(device.handles, Reopened(*state)->Read()->devices[0].handles);
  device.handles.assign(10'000, 1);
  ASSERT_TRUE(state->PutDevice(3, device).ok());
  EXPECT_EQ(MountState::kMaxHandles, state->Read()->devices[0].handles.size());
}

TEST(MountStateTest, KeepsWhatWasChanged) {
  auto state = MountState::Create().value();
  EXPECT_EQ("", state->Read()->changes);
  const std::string changes(1 << 20, 'x');
  ASSERT_TRUE(state->SetChanges(changes).ok());
  ASSERT_TRUE(state->PutDevice(0, ADevice(0x10000, "a")).ok());
  EXPECT_EQ(changes, Reopened(*state)->Read()->changes);
  ASSERT_TRUE(state->SetChanges("").ok());
  EXPECT_EQ("", state->Read()->changes);
  EXPECT_EQ(1U, state->Read()->devices.size());
  EXPECT_FALSE(state->SetChanges(std::string(MountState::kMaxChangesBytes + 1, 'x')).ok());
}

TEST(MountStateTest, WhoOpensItGoesOnWithIt) {
  auto state = MountState::Create().value();
  ASSERT_TRUE(state->SetMount("/mnt", 5).ok());
  auto next = Reopened(*state);
  ASSERT_TRUE(next->SetInit("init").ok());
  EXPECT_EQ("/mnt", state->Read()->mount_point);
  EXPECT_EQ("init", state->Read()->init);
}

TEST(MountStateTest, TheLongestNamesFit) {
  auto state = MountState::Create().value();
  MountState::Device device = ADevice(0x10000, std::string(255, 'n'));
  device.path = std::string(254, 'p');
  device.session = std::string(254, 's');
  EXPECT_TRUE(state->PutDevice(MountState::kMaxDevices - 1, device).ok());
  EXPECT_EQ(device.path, state->Read()->devices.at(0).path);
  EXPECT_TRUE(state->SetMount("/" + std::string(4094, 'd'), 1).ok());
  device.name = std::string(4096, 'n');
  EXPECT_EQ(EINVAL, StatusToErrno(state->PutDevice(0, device)));
  EXPECT_EQ(EINVAL, StatusToErrno(state->PutDevice(MountState::kMaxDevices, device)));
}

TEST(MountStateTest, RefusesWhatItDidNotWrite) {
  UniqueFd other(open("/dev/zero", O_RDWR | O_CLOEXEC));
  EXPECT_EQ(EPROTO, StatusToErrno(MountState::Open(std::move(other)).status()));

  auto state = MountState::Create().value();
  const uint32_t version = 99;
  ASSERT_EQ(4, pwrite(state->fd(), &version, sizeof(version), 8));
  const absl::Status status = MountState::Open(UniqueFd(dup(state->fd()))).status();
  EXPECT_EQ(EPROTO, StatusToErrno(status));
  EXPECT_NE(std::string::npos, status.ToString().find("format 99")) << status;
}

// Killed at any moment, a writer leaves a record that is whole: size and names belong together.
TEST(MountStateTest, SurvivesTheDeathOfTheWriter) {
  auto state = MountState::Create().value();
  ASSERT_TRUE(state->PutDevice(0, ADevice(0x10000, "0")).ok());
  for (int round = 0; round < 50; ++round) {
    const pid_t writer = fork();
    if (writer == 0) {
      for (uint64_t i = 0;; ++i) {
        MountState::Device device = ADevice(0x10000, absl::StrCat(i));
        device.size = i;
        static_cast<void>(state->PutDevice(0, device));
      }
    }
    usleep(1000 + round * 37);
    kill(writer, SIGKILL);
    waitpid(writer, nullptr, 0);
    const MountState::Contents contents = Reopened(*state)->Read().value();
    ASSERT_EQ(1U, contents.devices.size());
    const MountState::Device& device = contents.devices[0];
    if (device.size >= uint64_t{3} << 40) continue;  // it had not come to write
    ASSERT_EQ(absl::StrCat(device.size), device.name);
    ASSERT_EQ("disks/" + device.name, device.path);
  }
}

}  // namespace
}  // namespace rnbd::client
