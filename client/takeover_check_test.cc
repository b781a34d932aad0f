#include "client/takeover_check.h"

#include <linux/fuse.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "config/client_changes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "testing/temporary_directory.h"

namespace rnbd::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string Text(const std::string& settings, const std::string& devices) {
  return absl::StrCat("sessions:\n  - name: blya\n    paths: [\"tcp:10.0.0.1:1234\"]\n", settings,
                      devices.empty() ? "" : "    devices:\n", devices);
}

const char kDisk[] = "      - {path: d.img, name: disk}\n";

config::ClientConfig Parsed(const std::string& text) {
  auto config = config::ParseClientConfig(text, "c.yaml");
  EXPECT_TRUE(config.ok()) << config.status();
  return *std::move(config);
}

// That is served by this file, and shows disk, which somebody has open.
MountState::Contents MountOf(const std::string& file) {
  MountState::Contents mount;
  mount.file = file;
  MountState::Device device;
  device.session = "blya";
  device.path = "d.img";
  device.name = "disk";
  device.handles = {1};
  mount.devices.push_back(device);
  return mount;
}

// What `change` does to what is in force, as it is kept.
template <typename Change>
std::string AtRunTime(const std::string& file, const Change& change) {
  const config::ClientConfig before = Parsed(file);
  config::ClientConfig now = before;
  change(&now);
  return config::WriteChanges(config::Difference(before, now));
}

TEST(TakeoverCheckTest, WhatTheFileChanges) {
  const MountState::Contents mount = MountOf(Text("", kDisk));
  EXPECT_THAT(DifferenceTo(mount, false, Parsed(Text("", kDisk))).changes, IsEmpty());
  EXPECT_THAT(DifferenceTo(mount, false, Parsed(Text("    io_hold: 5s\n", kDisk))).changes,
              ElementsAre("session blya: io_hold: forever -> 5s"));
}

TEST(TakeoverCheckTest, WhatWasChangedAtRunTimeStays) {
  const std::string file = Text("", kDisk);
  MountState::Contents mount = MountOf(file);
  mount.changes = AtRunTime(file, [](config::ClientConfig* now) {
    now->sessions[0].settings.policy = config::PathPolicy::kRoundRobin;
  });
  EXPECT_THAT(
      DifferenceTo(mount, false, Parsed(Text("    policy: min-latency\n    io_hold: 5s\n", kDisk)))
          .changes,
      ElementsAre("session blya: io_hold: forever -> 5s"));
  EXPECT_THAT(DifferenceTo(mount, false, Parsed(Text("    policy: min-latency\n", kDisk))).changes,
              ElementsAre(HasSubstr("nothing but the file")));
}

TEST(TakeoverCheckTest, TheMountStaysAsItIsWhateverItsFileHasComeToSay) {
  const std::string for_others = Text("", kDisk) + "mount: {allow_other: yes}\n";
  EXPECT_THAT(DifferenceTo(MountOf(for_others), false, Parsed(for_others)).needs_restart,
              ElementsAre("mount.allow_other: no -> yes"));
  EXPECT_THAT(DifferenceTo(MountOf(for_others), true, Parsed(for_others)).needs_restart, IsEmpty());
}

TEST(TakeoverCheckTest, WithoutTheFileFromBeforeItSaysSo) {
  EXPECT_THAT(DifferenceTo(MountOf(""), false, Parsed(Text("", kDisk))).changes,
              ElementsAre(HasSubstr("not known")));
  EXPECT_THAT(DifferenceTo(MountOf("no such key: 1"), false, Parsed(Text("", kDisk))).changes,
              ElementsAre(HasSubstr("not known")));
}

TEST(TakeoverCheckTest, TakesNothingAwayFromWhoeverHasItOpen) {
  MountState::Contents mount = MountOf(Text("", kDisk));
  EXPECT_TRUE(CheckKeepsWhatIsOpen(mount, Parsed(Text("    io_hold: 5s\n", kDisk))).ok());
  for (const char* devices :
       {"", "      - {path: e.img, name: disk}\n", "      - {path: d.img, name: other}\n",
        "      - {path: d.img, name: disk, access: ro}\n"}) {
    const absl::Status keeps = CheckKeepsWhatIsOpen(mount, Parsed(Text("", devices)));
    EXPECT_EQ(EBUSY, StatusToErrno(keeps)) << devices;
    EXPECT_THAT(std::string(keeps.message()), HasSubstr("device disk (session blya, d.img, rw)"));
  }
  mount.devices[0].handles.clear();
  EXPECT_TRUE(CheckKeepsWhatIsOpen(mount, Parsed(Text("", ""))).ok());
}

TEST(TakeoverCheckTest, WhatWasMappedAtRunTimeIsNotTakenAway) {
  const std::string file = Text("", "");
  MountState::Contents mount = MountOf(file);
  mount.changes = AtRunTime(file, [](config::ClientConfig* now) {
    now->sessions[0].devices.push_back(config::DefaultDevice(now->sessions[0].settings));
    now->sessions[0].devices.back().path = "d.img";
    now->sessions[0].devices.back().name = "disk";
  });
  EXPECT_TRUE(CheckKeepsWhatIsOpen(mount, Parsed(Text("    io_hold: 5s\n", ""))).ok());
  EXPECT_EQ(EBUSY, StatusToErrno(CheckKeepsWhatIsOpen(
                       mount, Parsed(Text("", "      - {path: other.img, name: disk}\n")))));
}

// The kernel's first request, of one that can send requests again or cannot.
std::string Init(bool can) {
  fuse_in_header header = {};
  fuse_init_in init = {};
  init.flags2 = can ? 1U << 7 : 0;
  return std::string(reinterpret_cast<const char*>(&header), sizeof(header)) +
         std::string(reinterpret_cast<const char*>(&init), sizeof(init));
}

TEST(TakeoverCheckTest, AKernelThatCannotSendAgainWantsEachDeviceOpen) {
  const testing::TemporaryDirectory directory;
  MountState::Contents mount = MountOf(Text("", kDisk));
  mount.mount_point = directory.path();
  std::filesystem::create_directories(mount.mount_point + "/sys/block/disk/rnbd");
  const auto write = [&](const char* state) {
    std::ofstream(mount.mount_point + "/sys/block/disk/rnbd/state") << state << "\n";
  };
  write("open");
  mount.init = Init(false);
  EXPECT_TRUE(CheckKernelGoesOn(mount).ok());
  write("closed");
  mount.init = Init(true);
  EXPECT_TRUE(CheckKernelGoesOn(mount).ok());
  for (const std::string& init : {Init(false), std::string()}) {
    mount.init = init;
    EXPECT_EQ(EAGAIN, StatusToErrno(CheckKernelGoesOn(mount)));
    EXPECT_THAT(std::string(CheckKernelGoesOn(mount).message()), HasSubstr("device disk"));
  }
  mount.devices[0].handles.clear();
  EXPECT_TRUE(CheckKernelGoesOn(mount).ok());
}

}  // namespace
}  // namespace rnbd::client
