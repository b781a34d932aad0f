#include "config/server_config.h"

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "common/status.h"
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

// A complete file with `lines` in it; they begin on line 3.
std::string WithLines(absl::string_view lines) { return absl::StrCat(kListen, kSessions, lines); }

// A complete file with one session entry: `session` is the inside of a map, and begins on line 3,
// column 6.
std::string WithSession(absl::string_view session) {
  return absl::StrCat(kListen, "sessions:\n  - {", session, "}\n");
}

std::string Error(absl::string_view text) {
  const absl::StatusOr<ServerConfig> config = ParseServerConfig(text, "s.yaml");
  if (config.ok()) return "no error";
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(config.status().message());
}

ServerConfig Parsed(absl::string_view text) {
  const absl::StatusOr<ServerConfig> config = ParseServerConfig(text, "s.yaml");
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ServerConfig();
}

ServerConfig Example(const std::string& name) {
  const absl::StatusOr<ServerConfig> config = LoadServerConfig("config/examples/" + name);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ServerConfig();
}

rtrs::Address Peer(absl::string_view text) { return *rtrs::ParseAddress(text); }

TEST(ServerConfig, HasTheDocumentedDefaults) {
  const ServerConfig config = Parsed(WithLines(""));
  ASSERT_EQ(config.listen.size(), 1u);
  EXPECT_EQ(config.listen[0].address, Peer("tcp:127.0.0.1:1234"));
  EXPECT_TRUE(config.listen[0].required);
  EXPECT_EQ(config.queue_depth, 128u);
  EXPECT_EQ(config.max_io_size, 1u << 20);
  EXPECT_EQ(config.chunk_size(), (1u << 20) + 4096);
  EXPECT_EQ(config.session_memory(), 128u * ((1u << 20) + 4096));
  EXPECT_FALSE(config.always_invalidate);
  EXPECT_FALSE(config.payload_checksum);
  EXPECT_EQ(config.rdma_poll, absl::Microseconds(20));
  EXPECT_EQ(config.worker_poll, absl::Microseconds(300));
  EXPECT_GE(config.workers, 1);
  EXPECT_LE(config.workers, kMaxWorkers);
  EXPECT_EQ(config.admin_socket, "");
  EXPECT_FALSE(config.metrics);
  EXPECT_EQ(config.heartbeat.interval, absl::Seconds(1));
  EXPECT_EQ(config.heartbeat.timeout, absl::Seconds(5));
  EXPECT_EQ(config.establishment_timeout, absl::Seconds(30));
  EXPECT_EQ(config.drain_timeout, absl::Seconds(4));
  EXPECT_GE(config.limits.chunk_memory, config.session_memory());
  EXPECT_EQ(config.log.level, "info");
  ASSERT_EQ(config.sessions.size(), 1u);
  const ServerSessionConfig& session = config.sessions[0];
  EXPECT_EQ(session.name, "*");
  EXPECT_THAT(session.from, IsEmpty());
  EXPECT_THAT(session.devices, IsEmpty());
  EXPECT_THAT(session.access,
              ElementsAre(AccessMode::kReadOnly, AccessMode::kReadWrite, AccessMode::kMigration));
  EXPECT_EQ(session.backend, BackendKind::kIoUring);
  EXPECT_EQ(session.direct_io, DirectIo::kAuto);
  EXPECT_EQ(session.origin.text, "s.yaml:2");
}

TEST(ServerConfig, LoadsEveryExample) {
  int loaded = 0;
  for (const auto& entry : std::filesystem::directory_iterator("config/examples")) {
    const std::string name = entry.path().filename();
    if (!absl::StartsWith(name, "server")) continue;
    SCOPED_TRACE(name);
    EXPECT_THAT(Describe(Example(name)), HasSubstr("listen on "));
    ++loaded;
  }
  EXPECT_GE(loaded, 4);
}

std::string FileContent(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

TEST(ServerConfig, DocumentationAndExampleHaveEveryKey) {
  const std::string documentation = FileContent("docs/configuration.md");
  const std::string example = FileContent("config/examples/server-all-keys.yaml");
  // An unknown key far from all others makes the reader list the ones it knows.
  int keys = 0;
  for (const std::string& text :
       {WithLines("qqqqqqqqqqqq: 1"), WithLines("limits: {qqqqqqqqqqqq: 1}"),
        WithLines("heartbeat: {qqqqqqqqqqqq: 1}"), WithLines("log: {qqqqqqqqqqqq: 1}"),
        WithSession("name: a, dev_search_path: /srv, qqqqqqqqqqqq: 1"),
        absl::StrCat("listen: [{tcp: 1, qqqqqqqqqqqq: 1}]\n", kSessions)}) {
    const std::vector<std::string> parts = absl::StrSplit(Error(text), "expected one of ");
    ASSERT_EQ(parts.size(), 2u) << parts[0];
    for (const absl::string_view key : absl::StrSplit(parts[1], ", ")) {
      SCOPED_TRACE(std::string(key));
      EXPECT_THAT(example, HasSubstr(absl::StrCat(key, ":")));
      EXPECT_TRUE(absl::StrContains(documentation, absl::StrCat("`", key, "`")) ||
                  absl::StrContains(documentation, absl::StrCat("{", key, "}`")) ||
                  absl::StrContains(documentation, absl::StrCat("`", key, ":")));
      ++keys;
    }
  }
  EXPECT_GE(keys, 35);
}

TEST(ServerConfig, ReadsTheExamplesAsTheyAreMeant) {
  const ServerConfig config = Example("server.yaml");
  ASSERT_EQ(config.listen.size(), 3u);
  EXPECT_EQ(config.listen[0].address.scheme, rtrs::AddressScheme::kIp);
  EXPECT_FALSE(config.listen[0].required);
  EXPECT_EQ(config.listen[2].address, Peer("unix:/run/rnbd/rnbd.sock"));
  EXPECT_TRUE(config.listen[2].required);
  EXPECT_EQ(config.admin_socket, "/run/rnbd/admin.sock");
  EXPECT_EQ(*config.metrics, Peer("tcp:127.0.0.1:9717"));
  ASSERT_EQ(config.sessions.size(), 2u);
  EXPECT_EQ(config.sessions[0].dev_search_path, "/srv/rnbd/%SESSNAME%");
  EXPECT_THAT(config.sessions[0].devices, ElementsAre("disk*"));
  EXPECT_THAT(config.sessions[1].access, ElementsAre(AccessMode::kReadOnly));

  const ServerConfig memory = Example("server-memory.yaml");
  EXPECT_THAT(memory.memory_devices, ElementsAre(DeclaredDevice{"scratch", 1ULL << 30}));
  EXPECT_EQ(memory.sessions.at(0).backend, BackendKind::kNull);
  EXPECT_EQ(memory.sessions.at(1).backend, BackendKind::kMemory);
}

TEST(ServerConfig, TheExampleWithAllKeysShowsTheDefaults) {
  ServerConfig example = Example("server-all-keys.yaml");
  ServerConfig defaults = Parsed(WithLines(""));
  // What has no default.
  for (ServerConfig* config : {&example, &defaults}) {
    config->listen.clear();
    config->sessions.clear();
    config->memory_devices.clear();
    config->null_devices.clear();
    config->admin_socket.clear();
    config->control_mount.clear();
    config->metrics.reset();
    config->state_file.clear();
  }
  EXPECT_EQ(example, defaults);
}

TEST(ServerConfig, TheFirstEntryThatMatchesDecides) {
  const ServerConfig config = Example("server.yaml");
  const auto entry = [&config](absl::string_view name, absl::string_view peer) {
    const ServerSessionConfig* session = config.FindSession(name, Peer(peer));
    return session == nullptr ? -1 : static_cast<int>(session - config.sessions.data());
  };
  EXPECT_EQ(entry("web-1", "tcp:10.1.2.3"), 0);
  EXPECT_EQ(entry("web-1", "tcp:11.1.2.3"), 1);
  EXPECT_EQ(entry("web-1", "unix:/x"), 1);
  EXPECT_EQ(entry("db", "tcp:10.1.2.3"), 1);
}

TEST(ServerConfig, WhatNoEntryMatchesHasNone) {
  const ServerConfig config =
      Parsed(WithSession("name: \"a*\", from: [unix, 10.0.0.0/8], dev_search_path: /srv"));
  EXPECT_NE(config.FindSession("a", Peer("unix:/x")), nullptr);
  EXPECT_NE(config.FindSession("a", Peer("ip:10.0.0.1")), nullptr);
  EXPECT_EQ(config.FindSession("a", Peer("tcp:192.0.2.1")), nullptr);
  EXPECT_EQ(config.FindSession("b", Peer("unix:/x")), nullptr);
}

TEST(ServerConfig, AnEntryAllowsItsDevicesAndModesOnly) {
  const ServerConfig config = Parsed(WithSession(
      "name: a, dev_search_path: /srv, devices: [\"disk?\", \"pool/**\"], access: [rw, ro, rw]"));
  const ServerSessionConfig& session = config.sessions[0];
  EXPECT_TRUE(session.AllowsDevice("disk1"));
  EXPECT_FALSE(session.AllowsDevice("disk12"));
  EXPECT_FALSE(session.AllowsDevice("disk1/x"));
  EXPECT_TRUE(session.AllowsDevice("pool/a/b"));
  EXPECT_FALSE(session.AllowsDevice("pool"));
  EXPECT_THAT(session.access, ElementsAre(AccessMode::kReadOnly, AccessMode::kReadWrite));
  EXPECT_TRUE(session.Allows(AccessMode::kReadWrite));
  EXPECT_FALSE(session.Allows(AccessMode::kMigration));
  EXPECT_TRUE(Parsed(WithLines("")).sessions[0].AllowsDevice("any/thing"));
}

TEST(ServerConfig, ReadsTheLimitsOfEveryNumber) {
  const ServerConfig small = Parsed(WithLines(
      "queue_depth: 1\nmax_io_size: 4KiB\nworkers: 1\nlimits: {max_sessions: 1, "
      "max_sessions_per_address: 1, max_paths_per_session: 1, max_connections_per_path: 2, "
      "chunk_memory: 8KiB}\nheartbeat: {interval: 100ms, timeout: 200ms}\n"
      "establishment_timeout: 1s\ndrain_timeout: 0\nlog: {level: trace}\n"));
  EXPECT_EQ(small.session_memory(), 8192u);
  EXPECT_EQ(small.limits.chunk_memory, 8192u);
  EXPECT_EQ(small.drain_timeout, absl::ZeroDuration());
  EXPECT_EQ(small.heartbeat.timeout, absl::Milliseconds(200));
  const ServerConfig deep = Parsed(WithLines("queue_depth: 32768\nmax_io_size: 4KiB\n"));
  EXPECT_EQ(deep.queue_depth, 32768u);
  const ServerConfig large =
      Parsed(WithLines("queue_depth: 1\nmax_io_size: 268431360\nworkers: 32\n"));
  EXPECT_EQ(large.chunk_size(), 1u << 28);
  EXPECT_EQ(large.workers, 32);
}

TEST(ServerConfig, RefusesNumbersOutOfRange) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"queue_depth: 0", "queue_depth: expected a whole number from 1 to 32768, found \"0\""},
      {"queue_depth: 32769",
       "queue_depth: expected a whole number from 1 to 32768, found \"32769\""},
      {"max_io_size: 4095", "max_io_size: expected a size from 4KiB to 262140KiB, found \"4095\""},
      {"max_io_size: 256MiB",
       "max_io_size: expected a size from 4KiB to 262140KiB, found \"256MiB\""},
      {"max_io_size: 5000", "max_io_size: expected a multiple of 4KiB, found 5000"},
      {"max_io_size: 1MB",
       "max_io_size: \"1MB\" is no size: expected a whole number of bytes, or one "
       "with KiB, MiB, GiB, TiB (or K, M, G, T) behind it"},
      {"workers: 0", "workers: expected auto or a whole number from 1 to 32, found \"0\""},
      {"workers: 33", "workers: expected auto or a whole number from 1 to 32, found \"33\""},
      {"workers: [1]", "workers: expected auto or a whole number from 1 to 32, found a list"},
      {"establishment_timeout: 999ms",
       "establishment_timeout: expected a time from 1s to 5m, found \"999ms\""},
      {"drain_timeout: forever", "drain_timeout: expected a time from 0 to 10m, found \"forever\""},
  };
  for (const auto& [line, message] : cases) {
    SCOPED_TRACE(line);
    const size_t column = line.find(' ') + 2;
    EXPECT_EQ(Error(WithLines(line)), absl::StrCat("s.yaml:3:", column, ": ", message));
  }
}

TEST(ServerConfig, RefusesChunksThatAnImmediateCannotAddress) {
  EXPECT_EQ(
      Error(WithLines("queue_depth: 129\n")),
      "s.yaml:1:1: max_io_size: 1MiB and a queue_depth of 129 do not go together, 8 + 21 bits of "
      "28: expected a queue_depth of at most 128 or a max_io_size of at most 1020KiB");
  EXPECT_EQ(
      Error(WithLines("queue_depth: 512\nmax_io_size: 4MiB\n")),
      "s.yaml:4:14: max_io_size: 4MiB and a queue_depth of 512 do not go together, 9 + 23 bits of "
      "28: expected a queue_depth of at most 32 or a max_io_size of at most 508KiB");
  // What the messages recommend is right.
  EXPECT_EQ(Error(WithLines("queue_depth: 512\nmax_io_size: 508KiB\n")), "no error");
  EXPECT_EQ(Error(WithLines("queue_depth: 32\nmax_io_size: 4MiB\n")), "no error");
  EXPECT_EQ(Error(WithLines("queue_depth: 128\nmax_io_size: 1MiB\n")), "no error");
  EXPECT_EQ(Error(WithLines("queue_depth: 129\nmax_io_size: 1020KiB\n")), "no error");
}

TEST(ServerConfig, RefusesHeartbeatsThatCannotBeAnswered) {
  EXPECT_EQ(Error(WithLines("heartbeat:\n  interval: 5s\n  timeout: 9s\n")),
            "s.yaml:5:12: timeout: 9s leaves no time for an answer: expected at least twice the "
            "interval of 5s");
  EXPECT_EQ(Error(WithLines("heartbeat: {interval: 20s}")),
            "s.yaml:3:12: timeout: 5s leaves no time for an answer: expected at least twice the "
            "interval of 20s");
  EXPECT_EQ(Error(WithLines("heartbeat: 5s")),
            "s.yaml:3:12: heartbeat: expected a map of keys and values, found \"5s\"");
}

TEST(ServerConfig, RefusesLimitsBelowOneSession) {
  EXPECT_EQ(Error(WithLines("limits: {chunk_memory: 128MiB}")),
            "s.yaml:3:24: chunk_memory: 128MiB is too little for one session: expected at least "
            "131584KiB (queue_depth x (max_io_size + 4KiB)), or auto");
  EXPECT_EQ(Error(WithLines("limits: {chunk_memory: auto}")), "no error");
  EXPECT_EQ(
      Error(WithLines("limits: {max_paths_per_session: 129}")),
      "s.yaml:3:33: max_paths_per_session: expected a whole number from 1 to 128, found \"129\"");
  EXPECT_EQ(
      Error(WithLines("limits: {max_connections_per_path: 1}")),
      "s.yaml:3:36: max_connections_per_path: expected a whole number from 2 to 4096, found \"1\"");
}

TEST(ServerConfig, ListensOnEveryForm) {
  const ServerConfig config = Parsed(absl::StrCat(
      "listen:\n  - {rdma: 1234, required: yes}\n  - {tcp: \"[::1]\", required: no}\n  - tcp: "
      "\"127.0.0.1:0\"\n  - tcp: \"127.0.0.1:0\"\n",
      kSessions));
  ASSERT_EQ(config.listen.size(), 4u);
  EXPECT_TRUE(config.listen[0].required);
  EXPECT_EQ(config.listen[0].address.host, "::");
  EXPECT_FALSE(config.listen[1].required);
  EXPECT_EQ(config.listen[1].address.port, 1234);
  EXPECT_EQ(config.listen[3].address.port, 0);
}

TEST(ServerConfig, RefusesBadListenEntries) {
  const auto error = [](absl::string_view listen) {
    return Error(absl::StrCat("listen: ", listen, "\n", kSessions));
  };
  EXPECT_EQ(
      error("[]"),
      "s.yaml:1:9: listen: expected a list of places to listen, as in - tcp: \"0.0.0.0:1234\", "
      "found an empty list");
  EXPECT_EQ(
      error("tcp"),
      "s.yaml:1:9: listen: expected a list of places to listen, as in - tcp: \"0.0.0.0:1234\", "
      "found \"tcp\"");
  EXPECT_EQ(error("[{required: yes}]"),
            "s.yaml:1:10: a listen entry: expected one of rdma, tcp, unix");
  EXPECT_EQ(error("[{tcp: 1234, unix: /run/x}]"),
            "s.yaml:1:28: unix: expected one of rdma, tcp, unix in an entry: begin another one");
  EXPECT_EQ(
      error("[{tcp: \"10.0.0.300:1\"}]"),
      "s.yaml:1:16: tcp: address \"10.0.0.300:1\": expected an IPv4 address, an IPv6 address in "
      "brackets, or a host name");
  EXPECT_EQ(error("[{tcp: \"::1\"}]"),
            "s.yaml:1:16: tcp: address \"::1\": an IPv6 address needs brackets, as in [::1]:1234");
  EXPECT_EQ(error("[{rdma: \"host:1\"}]"),
            "s.yaml:1:17: rdma: address \"host:1\": expected an IPv4 or IPv6 address");
  EXPECT_EQ(error("[{unix: run/x}]"),
            "s.yaml:1:17: unix: address \"run/x\": expected the absolute path of a socket, as in "
            "unix:/run/rnbd/rnbd.sock");
  EXPECT_EQ(error("[{tcp: 1}, {tcp: \"[::]:1\"}]"),
            "s.yaml:1:26: tcp: [::]:1 is in the list already");
  EXPECT_EQ(error("[{unix: /x}, {unix: /x}]"), "s.yaml:1:29: unix: /x is in the list already");
  EXPECT_EQ(error("[{upd: 1}]"),
            "s.yaml:1:10: a listen entry: expected one of rdma, tcp, unix\n"
            "s.yaml:1:11: unknown key \"upd\" in a listen entry, expected one of rdma, tcp, unix, "
            "required");
  EXPECT_EQ(error("[1234]"),
            "s.yaml:1:10: a listen entry: expected a map of keys and values, found \"1234\"");
}

TEST(ServerConfig, ChecksTheAdminSocketAndMetrics) {
  EXPECT_EQ(Error(WithLines("state_file: x.state")),
            "s.yaml:3:13: state_file: expected the absolute path of a file, found \"x.state\"");
  EXPECT_EQ(Parsed(WithLines("state_file: /var/x")).state_file, "/var/x");
  EXPECT_EQ(Parsed(WithLines("grace_period: 0")).grace_period, absl::ZeroDuration());
  EXPECT_EQ(Error(WithLines("admin_socket: x.sock")),
            "s.yaml:3:15: admin_socket: address \"x.sock\": expected the absolute path of a "
            "socket, as in "
            "unix:/run/rnbd/rnbd.sock");
  EXPECT_EQ(Error(absl::StrCat("listen: [{unix: /x}]\nadmin_socket: /x\n", kSessions)),
            "s.yaml:2:15: admin_socket: /x is in the listen list already");
  EXPECT_EQ(Error(WithLines("control_mount: sys")),
            "s.yaml:3:16: control_mount: expected the absolute path of a directory, found "
            "\"sys\"");
  EXPECT_EQ(Parsed(WithLines("metrics: 127.0.0.1")).metrics->port, 9717);
  EXPECT_EQ(Error(WithLines("metrics: 127.0.0.1:x")),
            "s.yaml:3:10: metrics: address \"127.0.0.1:x\": \"x\" is no port, expected 0 to 65535");
}

TEST(ServerConfig, RefusesBadSessionEntries) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"name: \"\", dev_search_path: /srv",
       "3:12: name: expected a session's name, in which * and ? may stand, found nothing"},
      {"name: a.b, dev_search_path: /srv", "3:12: name: a session's name cannot contain '.'"},
      {"name: a/b, dev_search_path: /srv", "3:12: name: a session's name cannot contain '/'"},
      {"name: " + std::string(255, 'x') + ", dev_search_path: /srv",
       "3:12: name: a session's name may have 254 bytes, this one has 255"},
      {"dev_search_path: /srv",
       "3:5: a session entry: \"name\" is missing, expected a session's name, in which * and ? may "
       "stand"},
      {"name: a",
       "3:5: a session entry: \"dev_search_path\" is missing, expected the directory that "
       "holds the devices"},
      {"name: a, dev_search_path: srv", "3:32: dev_search_path: expected an absolute path"},
      {"name: a, dev_search_path: /srv/../etc",
       "3:32: dev_search_path: expected a path without \"..\""},
      {"name: a, dev_search_path: \"/srv/x%SESSNAME%\"",
       "3:32: dev_search_path: %SESSNAME% must stand alone between two '/'"},
      {"name: a, dev_search_path: \"/%SESSNAME%/%SESSNAME%\"",
       "3:32: dev_search_path: %SESSNAME% may stand there once"},
      {"name: a, dev_search_path: \"/srv/%SESNAME%\"",
       "3:32: dev_search_path: \"%SESNAME%\" would not be replaced: expected %SESSNAME%"},
      {"name: a, dev_search_path: /" + std::string(4095, 'x'),
       "3:32: dev_search_path: the path may have 4095 bytes, this one has 4096"},
      {"name: a, dev_search_path: /srv, devices: []",
       "3:47: devices: expected a list of names, as in [\"disk*\"], found an empty list"},
      {"name: a, dev_search_path: /srv, devices: [/disk]",
       "3:48: devices: \"/disk\" would never match: expected components that are neither empty nor "
       "\".\" "
       "nor \"..\""},
      {"name: a, dev_search_path: /srv, devices: [a/../b]",
       "3:48: devices: \"a/../b\" would never match: expected components that are neither empty "
       "nor "
       "\".\" nor \"..\""},
      {"name: a, dev_search_path: /srv, devices: [[x]]",
       "3:48: devices: expected a name, in which * and ? may stand, found a list"},
      {"name: a, dev_search_path: /srv, access: [rx]",
       "3:47: access: expected ro, rw or migration, found \"rx\""},
      {"name: a, dev_search_path: /srv, access: ro",
       "3:46: access: expected a list of access modes, as in [ro, rw], found \"ro\""},
      {"name: a, dev_search_path: /srv, from: [10.0.0.1/8]",
       "3:45: from: \"10.0.0.1/8\" has bits set behind its prefix: the network is 10.0.0.0/8"},
      {"name: a, dev_search_path: /srv, from: [localhost]",
       "3:45: from: \"localhost\" is no range of peers: expected a network as in 10.0.0.0/8 or "
       "fd00::/8, an IP address, or unix"},
      {"name: a, dev_search_path: /srv, direct_io: maybe",
       "3:49: direct_io: expected one of auto, yes, no, found \"maybe\""},
      {"name: a, dev_search_path: /srv, backend: disk",
       "3:47: backend: expected one of io_uring, memory, null, found \"disk\""},
      {"name: a, backend: memory",
       "3:24: backend: no devices are declared for it: expected memory_devices at the top level, "
       "as in "
       "memory_devices: {scratch: 1GiB}"},
      {"name: a, backend: null",
       "3:24: backend: no devices are declared for it: expected null_devices at the top level, as "
       "in "
       "null_devices: {scratch: 1GiB}"},
      {"name: a, dev_search_path: /srv, acces: [ro]",
       "3:38: unknown key \"acces\" in a session entry, did you mean \"access\"?"},
  };
  for (const auto& [session, message] : cases) {
    SCOPED_TRACE(session);
    EXPECT_EQ(Error(WithSession(session)), "s.yaml:" + message);
  }
}

TEST(ServerConfig, RefusesASearchPathForDeclaredDevices) {
  EXPECT_EQ(
      Error(absl::StrCat("memory_devices: {a: 1M}\n",
                         WithSession("name: a, backend: memory, dev_search_path: /srv"))),
      "s.yaml:4:49: dev_search_path: the devices of this session are memory_devices: expected no "
      "search path");
}

TEST(ServerConfig, RefusesEntriesThatAreNeverReached) {
  const auto error = [](absl::string_view first, absl::string_view second) {
    return Error(absl::StrCat(kListen, "sessions:\n  - {dev_search_path: /a, ", first,
                              "}\n  - {dev_search_path: /b, ", second, "}\n"));
  };
  const std::string message =
      "s.yaml:4:5: this session entry is never reached: the one at s.yaml:3 takes everything it "
      "matches, put it behind this one";
  EXPECT_EQ(error("name: \"*\"", "name: web"), message);
  EXPECT_EQ(error("name: \"*\"", "name: web, from: [unix]"), message);
  EXPECT_EQ(error("name: web", "name: web"), message);
  EXPECT_EQ(error("name: \"*\", from: [unix]", "name: web, from: [unix]"), message);
  EXPECT_EQ(error("name: \"*\", from: [unix]", "name: web"), "no error");
  EXPECT_EQ(error("name: \"w*\"", "name: \"*\""), "no error");
}

TEST(ServerConfig, ChecksDeclaredDevices) {
  EXPECT_EQ(Error(WithLines("memory_devices: {a: 513}")),
            "s.yaml:3:21: a: expected a multiple of 512, found 513");
  EXPECT_EQ(Error(WithLines("memory_devices: {a: 0}")),
            "s.yaml:3:21: a: expected a size from 512 to 1024TiB, found \"0\"");
  EXPECT_EQ(
      Error(WithLines("null_devices: {../a: 1M}")),
      "s.yaml:3:16: null_devices: \"../a\" would never match: expected components that are neither "
      "empty nor \".\" nor \"..\"");
  EXPECT_EQ(Error(WithLines("null_devices: {a: 1M, a: 2M}")),
            "s.yaml:3:23: duplicate key \"a\", first on line 3");
  EXPECT_EQ(Error(WithLines("null_devices: [a]")),
            "s.yaml:3:15: null_devices: expected a map of keys and values, found a list");
}

TEST(ServerConfig, LimitsOfASessionAndItsDevices) {
  const ServerConfig config =
      Parsed(WithSession("name: a, dev_search_path: /srv, limits: {iops: 10, burst: 2s}, "
                         "device_limits: {bandwidth: 1MiB}"));
  EXPECT_EQ(config.sessions[0].limits, (RateLimits{.iops = 10, .burst = absl::Seconds(2)}));
  EXPECT_EQ(config.sessions[0].device_limits, (RateLimits{.bandwidth = 1 << 20}));
  const auto error = [](const char* limits) {
    return Error(WithSession(absl::StrCat("name: a, dev_search_path: /srv, limits: ", limits)));
  };
  EXPECT_EQ(error("{burst: 1s}"), "s.yaml:3:46: limits: expected iops or bandwidth in it, or both");
  EXPECT_EQ(error("{iops: 0}"),
            "s.yaml:3:53: iops: expected a whole number from 1 to 1000000000, found \"0\"");
  EXPECT_EQ(error("{bandwidth: 1KiB}"),
            "s.yaml:3:58: bandwidth: expected a size from 4KiB to 1024TiB, found \"1KiB\"");
}

TEST(ServerConfig, ReportsEverythingThatIsWrongAtOnce) {
  EXPECT_EQ(
      Error("listen:\n"
            "  - tcp: \"10.0.0.1:99999\"\n"
            "queue_depht: 5\n"
            "max_io_size: 1MB\n"
            "log: {level: loud}\n"
            "sessions:\n"
            "  - name: a\n"
            "    acess: [ro]\n"
            "    dev_search_path: srv\n"
            "  - nme: b\n"
            "    dev_search_path: /srv\n"),
      "s.yaml:2:10: tcp: address \"10.0.0.1:99999\": \"99999\" is no port, expected 0 to 65535\n"
      "s.yaml:3:1: unknown key \"queue_depht\" in the file, did you mean \"queue_depth\"?\n"
      "s.yaml:4:14: max_io_size: \"1MB\" is no size: expected a whole number of bytes, or one with "
      "KiB, MiB, GiB, TiB (or K, M, G, T) behind it\n"
      "s.yaml:5:14: level: expected one of trace, debug, info, warning, error, critical, found "
      "\"loud\"\n"
      "s.yaml:8:5: unknown key \"acess\" in a session entry, did you mean \"access\"?\n"
      "s.yaml:9:22: dev_search_path: expected an absolute path\n"
      "s.yaml:10:5: a session entry: \"name\" is missing, expected a session's name, in which * "
      "and "
      "? may stand\n"
      "s.yaml:10:5: unknown key \"nme\" in a session entry, did you mean \"name\"?");
}

TEST(ServerConfig, SaysWhatAnEmptyFileLacks) {
  EXPECT_EQ(Error(""), "s.yaml:1:1: the file: expected a map of keys and values, found nothing");
  EXPECT_THAT(Error("{}"), StartsWith("s.yaml:1:1: the file: \"listen\" is missing"));
  EXPECT_THAT(
      Error("{}"),
      HasSubstr("\ns.yaml:1:1: the file: \"sessions\" is missing, expected a list of session "
                "entries; without one nobody could open anything"));
}

TEST(ServerConfig, ASyntaxErrorStandsAlone) {
  EXPECT_EQ(Error("listen: [\n"), "s.yaml:1:9: not valid YAML: end of sequence flow not found");
}

TEST(ServerConfig, ALineMovedIsNoChange) {
  EXPECT_EQ(Parsed(WithLines("")), Parsed(absl::StrCat("# comment\n", WithLines(""))));
  EXPECT_FALSE(Parsed(WithLines("")) == Parsed(WithLines("queue_depth: 64")));
}

TEST(LoadServerConfig, NamesTheFileInErrors) {
  const std::string path = testing::TempDir() + "/bad.yaml";
  std::ofstream(path) << "queue_depth: x\n";
  EXPECT_THAT(std::string(LoadServerConfig(path).status().message()),
              HasSubstr(path + ":1:14: queue_depth: expected a whole number"));
  const absl::Status missing = LoadServerConfig(path + ".missing").status();
  EXPECT_EQ(StatusToErrno(missing), ENOENT);
  EXPECT_THAT(std::string(missing.message()), HasSubstr(path + ".missing"));
}

}  // namespace
}  // namespace rnbd::config
