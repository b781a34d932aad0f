#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "config/server_config.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::config {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr absl::string_view kListen = "listen: [{tcp: \"127.0.0.1:1234\"}]\n";
constexpr absl::string_view kSessions = "sessions: [{name: \"*\", dev_search_path: /srv}]\n";

ServerConfig Parsed(absl::string_view text) {
  const absl::StatusOr<ServerConfig> config = ParseServerConfig(text, "s.yaml");
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ServerConfig();
}

ServerConfig ParsedWith(absl::string_view lines) {
  return Parsed(absl::StrCat(kListen, kSessions, lines));
}

TEST(DescribeServer, TellsAPersonWhatWouldHappen) {
  absl::StatusOr<ServerConfig> example = LoadServerConfig("config/examples/server-all-keys.yaml");
  ASSERT_TRUE(example.ok()) << example.status();
  ServerConfig& config = *example;
  config.workers = 2;
  config.limits.chunk_memory = 2ULL << 30;
  EXPECT_EQ(
      Describe(config),
      "listen on rdma:[::]:1234, or go on with a warning where that is not possible\n"
      "listen on tcp:[2001:db8::10]:1234\n"
      "listen on unix:/run/rnbd/rnbd.sock\n"
      "workers: 2\n"
      "chunks: 128 of 1028KiB for each session, 128.5MiB; requests carry up to 1MiB\n"
      "chunk memory: 2GiB, enough for 15 sessions with open devices\n"
      "limits: 4096 sessions, 256 from one address, 16 paths each, 1024 connections on a path\n"
      "payload_checksum: only for clients that ask for it; log level: info\n"
      "the rnbd command is answered on /run/rnbd/admin.sock\n"
      "the control tree is mounted on /run/rnbd/sys\n"
      "metrics are served at tcp:127.0.0.1:9717\n"
      "rdma_poll: 20us; worker_poll: 300us\n"
      "a path is dead after 5s without a sign of life, with a heartbeat every 1s; it must be "
      "established within 30s\n"
      "SIGTERM lets requests finish for up to 4s\n"
      "a writer whose session was lost has 30s to come back, also over a restart of the server "
      "(/var/lib/rnbd/server.state)\n"
      "session \"bench-?\" from Unix sockets, ::1/128, 127.0.0.0/8 "
      "(config/examples/server-all-keys.yaml:40)\n"
      "  devices: scratch (1GiB), in memory, lost when the server ends\n"
      "  access: rw\n"
      "session \"bench-null\" from any address (config/examples/server-all-keys.yaml:45)\n"
      "  devices: void (1TiB), null: writes vanish, reads give zeroes\n"
      "  access: ro, rw, migration\n"
      "session \"tenant-*\" from 10.0.0.0/8, fd00::/8 (config/examples/server-all-keys.yaml:47)\n"
      "  devices: disk?, archive/** below /srv/rnbd/%SESSNAME%/disks, with O_DIRECT where the file "
      "allows it\n"
      "  access: ro, rw, migration\n"
      "  at most iops=20000 bandwidth=400MiB burst=1s in all\n"
      "  each device at most iops=5000 bandwidth=100MiB burst=100ms\n"
      "  %SESSNAME% becomes the session's name\n"
      "every other session is refused\n");
}

TEST(DescribeServer, SaysWhetherItNeedsRdma) {
  const auto described = [](absl::string_view listen) {
    return Describe(Parsed(absl::StrCat("listen: [{", listen, "}]\n", kSessions)));
  };
  EXPECT_THAT(described("rdma: 1234, required: yes"), HasSubstr("listen on rdma:[::]:1234\n"));
  EXPECT_THAT(
      described("rdma: 1234"),
      HasSubstr("listen on rdma:[::]:1234, or go on with a warning where that is not possible\n"));
}

TEST(DescribeServer, SaysWhenAnEntryOffersNothing) {
  EXPECT_THAT(
      Describe(Parsed(absl::StrCat(kListen, "memory_devices: {a: 1M}\n",
                                   "sessions: [{name: x, backend: memory, devices: [b]}]\n"))),
      HasSubstr("devices: none: no declared device has a name that this entry allows"));
}

TEST(ServerNotInForce, IsEmptyWhereTheServerDoesWhatIsAsked) {
  EXPECT_THAT(NotInForce(ParsedWith("always_invalidate: no\n")), IsEmpty());
  EXPECT_THAT(NotInForce(Parsed("listen: [{rdma: \"[::]\"}]\nalways_invalidate: yes\n"
                                "sessions: [{name: x, dev_search_path: /srv}]\n")),
              IsEmpty());
}

TEST(ServerNotInForce, NamesEachKey) {
  EXPECT_THAT(NotInForce(ParsedWith("always_invalidate: yes\n")),
              ElementsAre(StartsWith("always_invalidate: yes is not in force over TCP and Unix ")));
}

}  // namespace
}  // namespace rnbd::config
