#include "config/client_difference.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "config/client_changes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::config {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

ClientConfig Parsed(const std::string& text) {
  auto config = ParseClientConfig(text, "c.yaml");
  EXPECT_TRUE(config.ok()) << config.status();
  return *std::move(config);
}

std::string Session(const std::string& settings, const std::string& devices) {
  return absl::StrCat("sessions:\n  - name: blya\n    paths: [\"tcp:10.0.0.1:1234\"]\n", settings,
                      "    devices:\n", devices);
}

const char kDisk0[] = "      - {path: d.img, name: disk0}\n";

ClientConfig Base() { return Parsed(absl::StrCat("workers: 2\n", Session("", kDisk0))); }

TEST(ClientDifferenceTest, TheSameFileChangesNothingWhereverItsLinesAre) {
  const ClientConfig moved =
      Parsed(absl::StrCat("\n# a comment\nworkers: 2\n", Session("", kDisk0)));
  const ConfigDifference found = Compare(Base(), moved);
  EXPECT_THAT(found.changes, IsEmpty());
  EXPECT_THAT(found.needs_restart, IsEmpty());
  EXPECT_EQ(Describe(found), "nothing is different\n");
}

TEST(ClientDifferenceTest, WhatTheFileSaysForAll) {
  const ConfigDifference found = Compare(
      Base(),
      Parsed(absl::StrCat("workers: 3\nqueue_depth: 64\npayload_checksum: yes\nrdma_poll: 0\n"
                          "worker_poll: 0\nrequest_memory: {small_buffers: 8, large_buffers: 4}\n"
                          "metrics: 127.0.0.1:1\ndrain_timeout: 1s\nlog: {level: debug}\n",
                          Session("", kDisk0))));
  EXPECT_THAT(
      found.changes,
      ElementsAre("workers: 2 -> 3", "queue_depth: 512 -> 64", "payload_checksum: no -> yes",
                  "rdma_poll: 20us -> 0", "worker_poll: 300us -> 0",
                  "request_memory.small_buffers: 512 -> 8", "request_memory.large_buffers: 32 -> 4",
                  "metrics: none -> tcp:127.0.0.1:1", "drain_timeout: 4s -> 1s",
                  "log.level: info -> debug"));
  EXPECT_THAT(found.needs_restart, IsEmpty());
}

TEST(ClientDifferenceTest, TheMountStaysAsItIs) {
  const ConfigDifference found = Compare(
      Base(), Parsed(absl::StrCat("workers: 2\nmount: {allow_other: yes}\n", Session("", kDisk0))));
  EXPECT_THAT(found.changes, IsEmpty());
  EXPECT_THAT(found.needs_restart, ElementsAre("mount.allow_other: no -> yes"));
  EXPECT_EQ(Describe(found), "takes a restart: mount.allow_other: no -> yes\n");
}

TEST(ClientDifferenceTest, EachSettingOfASession) {
  const ConfigDifference found = Compare(
      Base(), Parsed(absl::StrCat(
                  "workers: 2\n",
                  Session("    policy: min-latency\n    io_hold: 30s\n    io_timeout: 20s\n"
                          "    heartbeat: {interval: 2s, timeout: 9s}\n    connect_timeout: 3s\n"
                          "    reconnect: {min: 1s, max: 2s}\n    trust_server_cache: yes\n",
                          kDisk0))));
  EXPECT_THAT(
      found.changes,
      ElementsAre(
          "session blya: policy: min-inflight -> min-latency",
          "session blya: io_hold: forever -> 30s", "session blya: io_timeout: forever -> 20s",
          "session blya: heartbeat.interval: 1s -> 2s", "session blya: heartbeat.timeout: 5s -> 9s",
          "session blya: heartbeat, for kernel peers: as the kernel -> every 2s "
          "for 9s",
          "session blya: connect_timeout: 30s -> 3s", "session blya: reconnect.min: 200ms -> 1s",
          "session blya: reconnect.max: 5s -> 2s", "session blya: trust_server_cache: no -> yes"));
}

TEST(ClientDifferenceTest, WhatIsSaidAboveIsNotSaidAgain) {
  EXPECT_THAT(
      Compare(Base(), Parsed(absl::StrCat("workers: 2\nio_hold: 30s\n", Session("", kDisk0))))
          .changes,
      ElementsAre("io_hold: forever -> 30s"));
  EXPECT_THAT(Compare(Base(), Parsed(absl::StrCat("workers: 2\nio_hold: 30s\n",
                                                  Session("    io_hold: 5s\n", kDisk0))))
                  .changes,
              ElementsAre("io_hold: forever -> 30s", "session blya: io_hold: forever -> 5s"));
  EXPECT_THAT(
      Compare(Base(), Parsed(absl::StrCat(
                          "workers: 2\nio_hold: 30s\n",
                          Session("", "      - {path: d.img, name: disk0, io_hold: forever}\n"))))
          .changes,
      ElementsAre("io_hold: forever -> 30s"));
}

TEST(ClientDifferenceTest, DevicesComeGoAndChange) {
  const ConfigDifference found = Compare(
      Parsed(Session("", "      - {path: a}\n      - {path: b}\n      - {path: c}\n")),
      Parsed(Session("",
                     "      - {path: b, access: ro}\n      - {path: c, loop: auto, io_hold: 1s, "
                     "io_timeout: 2s}\n      - {path: d, loop: auto}\n")));
  EXPECT_THAT(found.changes,
              ElementsAre("- device a: session blya, a, rw", "- device b: session blya, b, rw",
                          "+ device b: session blya, b, ro", "device c: io_hold: forever -> 1s",
                          "device c: io_timeout: forever -> 2s", "device c: loop: no -> auto",
                          "+ device d: session blya, d, rw, loop auto"));
}

TEST(ClientDifferenceTest, SessionsAndPathsComeAndGo) {
  const ClientConfig running = Parsed(
      "sessions:\n"
      "  - {name: one, paths: [\"tcp:10.0.0.1:1\", \"tcp:10.0.0.2:1\"]}\n"
      "  - {name: two, paths: [\"tcp:10.0.0.3:1\"], devices: [{path: a}]}\n");
  const ClientConfig next = Parsed(
      "sessions:\n"
      "  - {name: one, paths: [\"tcp:10.0.0.2:1\", \"tcp:10.0.0.4:1\"]}\n"
      "  - {name: new, paths: [\"tcp:10.0.0.3:1\"], devices: [{path: a}]}\n");
  const ConfigDifference found = Compare(running, next);
  EXPECT_THAT(found.changes,
              ElementsAre("- session two: tcp:10.0.0.3:1", "- session one: tcp:10.0.0.1:1",
                          "+ session one: tcp:10.0.0.4:1", "+ session new: tcp:10.0.0.3:1",
                          "- device a: session two, a, rw", "+ device a: session new, a, rw"));
}

// A device that was mapped at run time is there before and after, whatever else changes.
TEST(ClientDifferenceTest, WhatWasChangedAtRunTimeIsNoDifference) {
  const ClientConfig file = Base();
  ClientConfig now = file;
  now.sessions[0].devices.push_back(DefaultDevice(now.sessions[0].settings));
  now.sessions[0].devices.back().path = "e.img";
  now.sessions[0].devices.back().name = "disk1";
  const ClientChanges changes = Difference(file, now);
  std::vector<std::string> left_out;
  const ClientConfig next =
      ApplyChanges(Parsed(Session("    io_hold: 30s\n", kDisk0)), changes, &left_out);
  EXPECT_THAT(left_out, IsEmpty());
  const ConfigDifference found = Compare(ApplyChanges(file, changes, &left_out), next);
  EXPECT_EQ(found.changes.back(), "session blya: io_hold: forever -> 30s");
}

}  // namespace
}  // namespace rnbd::config
