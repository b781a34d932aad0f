// The grammar and the errno of the protocol page's sections 7.2, 7.4 and 7.6.

#include "client/map_command.h"

#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::client {
namespace {

using rtrs::PathPolicy;
using ::testing::SizeIs;

constexpr int kProcessors = 4;
constexpr absl::string_view kNeeded = "sessname=blya device_path=disk0 ";

int ErrnoOf(absl::string_view text) {
  return StatusToErrno(ParseMapCommand(text, kProcessors).status());
}
int WithNeeded(absl::string_view text) { return ErrnoOf(absl::StrCat(kNeeded, text)); }

MapCommand Parsed(absl::string_view text) {
  const auto command = ParseMapCommand(absl::StrCat(kNeeded, text), kProcessors);
  EXPECT_TRUE(command.ok()) << command.status();
  return command.value_or(MapCommand{});
}

TEST(MapCommand, TakesEverything) {
  const auto command = ParseMapCommand(
      "  sessname=blya  device_path=a/b path=ip:10.0.0.2@ip:10.0.0.1 dest_port=0x10 path=ip:::1 "
      "access_mode=migration nr_poll_queues=0 \n",
      kProcessors);
  ASSERT_TRUE(command.ok()) << command.status();
  EXPECT_EQ(command->session, "blya");
  EXPECT_EQ(command->device_path, "a/b");
  EXPECT_EQ(command->name, "a!b");
  EXPECT_EQ(command->access, AccessMode::kMigration);
  ASSERT_THAT(command->paths, SizeIs(2));
  EXPECT_EQ(command->paths[0].source->host, "10.0.0.2");
  EXPECT_EQ(command->paths[0].destination.port, 1234) << "dest_port is for what is behind it";
  EXPECT_EQ(command->paths[1].destination.port, 16);
}

TEST(MapCommand, HasDefaults) {
  const MapCommand command = Parsed("");
  EXPECT_EQ(command.access, AccessMode::kReadWrite);
  EXPECT_THAT(command.paths, SizeIs(0));
  EXPECT_EQ(command.poll_queues, 0);
  EXPECT_EQ(command.name, "disk0");
}

TEST(MapCommand, TheLastWordCounts) {
  EXPECT_EQ(Parsed("sessname=x sessname=y access_mode=ro access_mode=rw").session, "y");
  EXPECT_EQ(Parsed("name=file").name, "file");
}

TEST(MapCommand, ALoopDeviceMayComeWithIt) {
  EXPECT_EQ(Parsed("").loop, config::LoopAttach::kNo);
  EXPECT_EQ(Parsed("loop=auto").loop, config::LoopAttach::kAuto);
  EXPECT_EQ(Parsed("loop=auto loop=no").loop, config::LoopAttach::kNo);
  EXPECT_EQ(WithNeeded("loop=yes"), EINVAL);
}

TEST(MapCommand, AddressesAreSeparatedByEither) {
  EXPECT_EQ(Parsed("path=ip:10.0.0.2,ip:10.0.0.1").paths[0],
            Parsed("path=ip:10.0.0.2@ip:10.0.0.1").paths[0]);
  EXPECT_EQ(Parsed("path=unix:/run/x.sock").paths[0].destination.path, "/run/x.sock");
}

TEST(MapCommand, RefusesWithTheKernelsErrno) {
  EXPECT_EQ(ErrnoOf(""), EINVAL);
  EXPECT_EQ(ErrnoOf("sessname=blya"), EINVAL);
  EXPECT_EQ(ErrnoOf("device_path=disk0"), EINVAL);
  EXPECT_EQ(WithNeeded("nonsense"), EINVAL);
  EXPECT_EQ(WithNeeded("nonsense=1"), EINVAL);
  EXPECT_EQ(WithNeeded("sessname="), EINVAL);
  EXPECT_EQ(WithNeeded("path=10.0.0.1"), EPROTONOSUPPORT);
  EXPECT_EQ(WithNeeded("path=ip:nowhere.at.all"), EINVAL);
  EXPECT_EQ(WithNeeded("path=10.0.0.2@ip:10.0.0.1"), EINVAL) << "any error of the source";
  for (const char* bad : {"dest_port=65536", "dest_port=-1", "dest_port=x", "dest_port=1x",
                          "access_mode=wo", "nr_poll_queues=5", "nr_poll_queues=-2"}) {
    EXPECT_EQ(WithNeeded(bad), EINVAL) << bad;
  }
  std::string paths;
  for (int i = 1; i <= 6; ++i) absl::StrAppend(&paths, "path=ip:10.0.0.", i, " ");
  EXPECT_EQ(WithNeeded(paths), 0);
  EXPECT_EQ(WithNeeded(paths + "path=ip:10.0.0.7"), ENOMEM);
}

TEST(MapCommand, LongTextsAreCutOrRefused) {
  EXPECT_EQ(Parsed("device_path=" + std::string(254, 'x')).device_path.size(), 254U);
  EXPECT_EQ(Parsed("device_path=" + std::string(255, 'x')).device_path.size(), 254U);
  EXPECT_EQ(WithNeeded("device_path=" + std::string(256, 'x')), EINVAL);
}

TEST(MapCommand, PollQueues) {
  EXPECT_EQ(Parsed("nr_poll_queues=-1").poll_queues, kProcessors);
  EXPECT_EQ(Parsed("nr_poll_queues=4").poll_queues, 4);
}

TEST(MapCommand, ANewSessionNeedsAPathAndAName) {
  EXPECT_EQ(StatusToErrno(CheckNewSession(Parsed(""))), ENXIO);
  EXPECT_EQ(StatusToErrno(CheckNewSession(Parsed("path=ip:::1"))), 0);
  EXPECT_EQ(StatusToErrno(CheckNewSession(Parsed("sessname=a.b path=ip:::1"))), EINVAL);
  EXPECT_EQ(StatusToErrno(CheckNewSession(Parsed("sessname=a/b path=ip:::1"))), EINVAL);
}

TEST(ControlValues, Unmap) {
  EXPECT_EQ(*ParseUnmap("normal\n"), false);
  EXPECT_EQ(*ParseUnmap("force"), true);
  for (const char* bad : {"", "1", "norma", "Normal", "force it"}) {
    EXPECT_EQ(StatusToErrno(ParseUnmap(bad).status()), EINVAL) << bad;
  }
}

TEST(ControlValues, Sectors) {
  EXPECT_EQ(*ParseSectors("100\n"), 100U);
  EXPECT_EQ(*ParseSectors("0x10"), 16U);
  EXPECT_EQ(*ParseSectors("010"), 8U);
  for (const char* bad : {"", "x", "1G", "-1", "1 2"}) {
    EXPECT_EQ(StatusToErrno(ParseSectors(bad).status()), EINVAL) << bad;
  }
}

TEST(ControlValues, ReconnectAttempts) {
  EXPECT_EQ(*ParseReconnectAttempts("-1\n"), -1);
  EXPECT_EQ(*ParseReconnectAttempts("9999"), 9999);
  for (const char* bad : {"", "-2", "10000", "x", "0x1"}) {
    EXPECT_EQ(StatusToErrno(ParseReconnectAttempts(bad).status()), EINVAL) << bad;
  }
}

TEST(ControlValues, Policies) {
  for (const char* text : {"0", "rr", "RR\n", "round-robin", "Round-Robin (RR: 0)\n"}) {
    EXPECT_EQ(*ParsePolicy(text), PathPolicy::kRoundRobin) << text;
  }
  EXPECT_EQ(*ParsePolicy("mi"), PathPolicy::kMinInflight);
  EXPECT_EQ(*ParsePolicy("2"), PathPolicy::kMinLatency);
  for (const char* bad : {"", "3", "rrr", "round", "min", "none"}) {
    EXPECT_EQ(StatusToErrno(ParsePolicy(bad).status()), EINVAL) << bad;
  }
  for (const PathPolicy policy :
       {PathPolicy::kRoundRobin, PathPolicy::kMinInflight, PathPolicy::kMinLatency}) {
    EXPECT_EQ(*ParsePolicy(PolicyText(policy)), policy) << "what is read can be written";
  }
}

}  // namespace
}  // namespace rnbd::client
