#include "config/client_changes.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::config {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

ClientConfig File() {
  return *ParseClientConfig(R"(
io_hold: 30s
io_timeout: 90s
sessions:
  - name: blya
    paths: ["tcp:192.0.2.1:1234", "tcp:192.0.2.2:1234"]
    devices:
      - path: disk0.img
        name: disk0
      - path: disk1.img
)",
                            "client.yaml");
}

ClientDeviceConfig Device(const std::string& path, const std::string& name,
                          const ClientSessionSettings& settings) {
  ClientDeviceConfig device = DefaultDevice(settings);
  device.path = path;
  device.name = name;
  return device;
}

rtrs::PathAddress Path(const std::string& text) { return *rtrs::ParsePathAddress(text); }

// What the next process makes of it.
ClientConfig ThroughText(const ClientConfig& file, const ClientConfig& now) {
  const std::string text = WriteChanges(Difference(file, now));
  const auto changes = ParseChanges(text, "state");
  EXPECT_TRUE(changes.ok()) << changes.status() << "\n" << text;
  std::vector<std::string> left_out;
  const ClientConfig again = ApplyChanges(file, *changes, &left_out);
  EXPECT_THAT(left_out, IsEmpty());
  return again;
}

TEST(ClientChanges, NothingIsNothing) {
  EXPECT_THAT(Difference(File(), File()), IsEmpty());
  EXPECT_EQ(WriteChanges({}), "");
  EXPECT_THAT(*ParseChanges("", "state"), IsEmpty());
}

TEST(ClientChanges, DevicesComeAndGo) {
  const ClientConfig file = File();
  ClientConfig now = file;
  ClientSessionConfig& session = now.sessions[0];
  session.devices.erase(session.devices.begin());
  session.devices.push_back(Device("it's: a #disk", "odd 'name'", session.settings));
  session.devices.back().access = AccessMode::kMigration;
  session.devices.back().loop = LoopAttach::kAuto;
  EXPECT_EQ(ThroughText(file, now), now);
  const ClientChanges changes = Difference(file, now);
  ASSERT_THAT(changes, SizeIs(1));
  EXPECT_THAT(changes[0].unmapped, ElementsAre("disk0.img"));
}

TEST(ClientChanges, ADeviceMayComeBackAsAnother) {
  const ClientConfig file = File();
  ClientConfig now = file;
  ClientDeviceConfig device = Device("disk1.img", "other", now.sessions[0].settings);
  device.access = AccessMode::kReadOnly;
  now.sessions[0].devices[1] = device;
  EXPECT_EQ(ThroughText(file, now), now);
}

TEST(ClientChanges, ASessionOfItsOwn) {
  const ClientConfig file = File();
  ClientConfig now = file;
  ClientSessionConfig session;
  session.name = "new";
  session.settings = file.defaults;
  session.settings.policy = PathPolicy::kRoundRobin;
  session.settings.max_reconnect_attempts = 3;
  session.paths = {Path("unix:/run/x.sock"), Path("ip:10.0.0.2@ip:10.0.0.1")};
  session.devices = {Device("a/b", "a!b", session.settings)};
  now.sessions.push_back(session);
  EXPECT_EQ(ThroughText(file, now), now);
  EXPECT_EQ(now.sessions[1].devices[0].io_hold, absl::Seconds(30));
  EXPECT_EQ(now.sessions[1].devices[0].io_timeout, absl::Seconds(90));
}

TEST(ClientChanges, PathsAndSettings) {
  const ClientConfig file = File();
  ClientConfig now = file;
  now.sessions[0].paths = {Path("tcp:192.0.2.2:1234"), Path("tcp:192.0.2.3:77")};
  now.sessions[0].settings.policy = PathPolicy::kMinLatency;
  EXPECT_EQ(ThroughText(file, now), now);
}

TEST(ClientChanges, WhatDoesNotFitAnotherFileIsLeftOut) {
  const auto changes = ParseChanges(R"(
sessions:
  - name: 'blya'
    mapped:
      - {path: 'x', name: 'disk0', access: rw}
      - {path: 'y', name: 'y', access: ro}
  - name: 'gone'
    mapped:
      - {path: 'z', name: 'z', access: ro}
)",
                                    "state");
  ASSERT_TRUE(changes.ok()) << changes.status();
  std::vector<std::string> left_out;
  const ClientConfig now = ApplyChanges(File(), *changes, &left_out);
  EXPECT_THAT(left_out,
              ElementsAre(HasSubstr("disk0"), HasSubstr("session gone: it has no paths")));
  ASSERT_THAT(now.sessions, SizeIs(1));
  EXPECT_THAT(now.sessions[0].devices, SizeIs(3));
}

TEST(ClientChanges, ErrorsHaveTheirPlace) {
  const auto changes = ParseChanges("sessions:\n  - nme: x\n", "state");
  ASSERT_FALSE(changes.ok());
  EXPECT_THAT(std::string(changes.status().message()), HasSubstr("state:2:"));
  EXPECT_FALSE(ParseChanges("sessions:\n  - name: x\n    added_paths: [nowhere]\n", "s").ok());
}

}  // namespace
}  // namespace rnbd::config
