#include "client/tool/top_rates.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::client::tool {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TopEntry Device(const std::string& name, const std::string& stat) {
  TopEntry entry;
  entry.key = entry.name = name;
  entry.session = "web-1";
  entry.state = "open";
  entry.counters = ParseStat(stat);
  return entry;
}

TopSample At(double seconds) {
  TopSample sample;
  sample.time = absl::UnixEpoch() + absl::Seconds(seconds);
  return sample;
}

TEST(TopRatesTest, DevicesTheBusiestFirst) {
  TopSample before = At(10);
  before.devices = {Device("disk0", "100 0 800 0 10 0 80 0 0 0 0 1 0 8 0 2 0"),
                    Device("disk1", "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0")};
  TopSample now = At(12);
  now.devices = {Device("disk0", "300 0 2400 0 10 0 80 0 0 0 0 3 0 24 0 4 0"),
                 Device("disk1", "0 0 0 0 2000 0 4194304 0 0 0 0 0 0 0 0 0 0")};
  EXPECT_THAT(TopLines(before, now),
              ElementsAre("DEVICE  SESSION  STATE  READ/s  WRITE/s  READ B/s  WRITE B/s  OTHER/s",
                          "disk1   web-1    open        0     1000         0       1.0G        0",
                          "disk0   web-1    open      100        0    400.0K          0        2"));
}

TEST(TopRatesTest, LatenciesWhereTheyAreCounted) {
  TopSample before = At(0);
  before.devices = {Device("disk0", "100 0 800 50 10 0 80 7")};
  TopSample now = At(1);
  now.devices = {Device("disk0", "200 0 1600 75 10 0 80 7")};
  EXPECT_THAT(TopLines(before, now),
              ElementsAre("DEVICE  SESSION  STATE  READ/s  WRITE/s  READ B/s  WRITE B/s  OTHER/s  "
                          "READ us  WRITE us",
                          "disk0   web-1    open      100        0    400.0K          0        0  "
                          "    250         0"));
}

TEST(TopRatesTest, WhatIsNewOrBeganAnewWasIdle) {
  TopSample before = At(0);
  before.devices = {Device("disk0", "100 0 800 0 10 0 80")};
  TopSample now = At(1);
  now.devices = {Device("disk0", "3 0 24 0 0 0 0"), Device("disk1", "9 0 72 0 0 0 0")};
  const std::vector<std::string> lines = TopLines(before, now);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[1], "disk0   web-1    open        0        0         0          0        0");
  EXPECT_EQ(lines[2], "disk1   web-1    open        0        0         0          0        0");
}

TEST(TopRatesTest, PathsAndSessionsOfTheServer) {
  TopEntry path;
  path.key = path.name = "ip:10.0.0.2@ip:10.0.0.1";
  path.session = "web-1";
  path.state = "connected";
  TopSample before = At(0);
  before.paths = {path};
  path.counters = ParsePathTraffic("50 204800 10 40960 7 0\n", &path.in_flight);
  path.heartbeat_us = 45;
  TopSample now = At(0.5);
  now.paths = {path};
  TopEntry session;
  session.key = session.name = "web-1";
  session.state = "connected";
  before.server_sessions = {session};
  uint64_t none = 1;
  session.counters = ParsePathTraffic("4 16384 0 0\n", &none);
  EXPECT_EQ(none, 0u);
  now.server_sessions = {session};
  EXPECT_THAT(
      TopLines(before, now),
      ElementsAre("PATH                     SESSION  STATE      READ/s  WRITE/s  READ B/s  WRITE "
                  "B/s  IN FLIGHT  HEARTBEAT us",
                  "ip:10.0.0.2@ip:10.0.0.1  web-1    connected     100       20    400.0K      "
                  "80.0K          7            45",
                  "", "SESSION OF THE SERVER  STATE      READ/s  WRITE/s  READ B/s  WRITE B/s",
                  "web-1                  connected       8        0     32.0K          0"));
}

TEST(TopRatesTest, LinesAreCutToTheScreen) {
  const std::vector<std::string> lines = {"0123456789", "abc", "d", "e"};
  EXPECT_THAT(FitToScreen(lines, 5, 4), ElementsAre("01234", "abc", "d", "e"));
  EXPECT_THAT(FitToScreen(lines, 80, 3), ElementsAre("0123456789", "abc", "... 2 more lines"));
  EXPECT_THAT(FitToScreen({}, 80, 3), IsEmpty());
}

}  // namespace
}  // namespace rnbd::client::tool
