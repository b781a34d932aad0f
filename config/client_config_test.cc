#include "config/client_config.h"

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

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr absl::string_view kPaths = "paths: [\"tcp:127.0.0.1:1234\"]";

// A complete file with `lines` in it; they begin on line 2.
std::string WithLines(absl::string_view lines) {
  return absl::StrCat("sessions: [{name: blya, ", kPaths, "}]\n", lines);
}

// A complete file with one session: `session` is the inside of a map, and begins on line 2,
// column 6.
std::string WithSession(absl::string_view session) {
  return absl::StrCat("sessions:\n  - {", session, "}\n");
}

// A complete file with one device: `device` is the inside of a map, and begins on line 4,
// column 10.
std::string WithDevice(absl::string_view device) {
  return absl::StrCat("sessions:\n  - {name: blya, ", kPaths, ",\n     devices: [\n        {",
                      device, "}]}\n");
}

std::string Error(absl::string_view text) {
  const absl::StatusOr<ClientConfig> config = ParseClientConfig(text, "c.yaml");
  if (config.ok()) return "no error";
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(config.status().message());
}

ClientConfig Parsed(absl::string_view text) {
  const absl::StatusOr<ClientConfig> config = ParseClientConfig(text, "c.yaml");
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ClientConfig();
}

ClientConfig Example(const std::string& name) {
  const absl::StatusOr<ClientConfig> config = LoadClientConfig("config/examples/" + name);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ClientConfig();
}

TEST(ClientConfig, HasTheDocumentedDefaults) {
  const ClientConfig config = Parsed(WithDevice("path: a/b.img"));
  EXPECT_GE(config.workers, 1);
  EXPECT_LE(config.workers, kMaxWorkers);
  EXPECT_EQ(config.queue_depth, 512u);
  EXPECT_FALSE(config.payload_checksum);
  EXPECT_EQ(config.rdma_poll, absl::Microseconds(20));
  EXPECT_EQ(config.worker_poll, absl::Microseconds(300));
  EXPECT_EQ(config.request_memory, (RequestMemory{512, 32}));
  EXPECT_FALSE(config.mount.allow_other);
  EXPECT_EQ(config.drain_timeout, absl::Seconds(4));
  EXPECT_EQ(config.log.level, "info");
  ASSERT_EQ(config.sessions.size(), 1u);
  const ClientSessionConfig& session = config.sessions[0];
  EXPECT_EQ(session.name, "blya");
  EXPECT_THAT(session.paths, ElementsAre(*rtrs::ParsePathAddress("tcp:127.0.0.1:1234")));
  EXPECT_EQ(session.origin.text, "c.yaml:2");
  EXPECT_EQ(session.settings.policy, PathPolicy::kMinInflight);
  EXPECT_EQ(session.settings.io_hold, absl::InfiniteDuration());
  EXPECT_EQ(session.settings.heartbeat, (HeartbeatOptions{absl::Seconds(1), absl::Seconds(5)}));
  EXPECT_EQ(session.settings.connect_timeout, absl::Seconds(30));
  EXPECT_EQ(session.settings.reconnect_min, absl::Milliseconds(200));
  EXPECT_EQ(session.settings.reconnect_max, absl::Seconds(5));
  ASSERT_EQ(session.devices.size(), 1u);
  EXPECT_EQ(session.devices[0].path, "a/b.img");
  EXPECT_EQ(session.devices[0].name, "a!b.img");
  EXPECT_EQ(session.devices[0].access, AccessMode::kReadWrite);
  EXPECT_EQ(session.devices[0].io_hold, absl::InfiniteDuration());
  EXPECT_EQ(session.devices[0].loop, LoopAttach::kNo);
  EXPECT_EQ(session.devices[0].origin.text, "c.yaml:4");
}

TEST(ClientConfig, LoadsEveryExample) {
  int loaded = 0;
  for (const auto& entry : std::filesystem::directory_iterator("config/examples")) {
    const std::string name = entry.path().filename();
    if (!absl::StartsWith(name, "client")) continue;
    SCOPED_TRACE(name);
    EXPECT_THAT(Describe(Example(name)), HasSubstr("session "));
    ++loaded;
  }
  EXPECT_GE(loaded, 3);
}

std::string FileContent(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

TEST(ClientConfig, DocumentationAndExampleHaveEveryKey) {
  const std::string documentation = FileContent("docs/configuration.md");
  const std::string example = FileContent("config/examples/client-all-keys.yaml");
  // An unknown key far from all others makes the reader list the ones it knows.
  int keys = 0;
  for (const std::string& text :
       {WithLines("qqqqqqqqqqqq: 1"), WithLines("request_memory: {qqqqqqqqqqqq: 1}"),
        WithLines("mount: {qqqqqqqqqqqq: 1}"), WithLines("heartbeat: {qqqqqqqqqqqq: 1}"),
        WithLines("reconnect: {qqqqqqqqqqqq: 1}"), WithLines("log: {qqqqqqqqqqqq: 1}"),
        WithSession(absl::StrCat("name: a, ", kPaths, ", qqqqqqqqqqqq: 1")),
        WithDevice("path: x, qqqqqqqqqqqq: 1")}) {
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
  EXPECT_GE(keys, 30);
}

TEST(ClientConfig, ReadsTheExampleAsItIsMeant) {
  const ClientConfig config = Example("client.yaml");
  ASSERT_EQ(config.sessions.size(), 1u);
  EXPECT_EQ(config.sessions[0].name, "blya");
  EXPECT_THAT(config.sessions[0].devices,
              ElementsAre(ClientDeviceConfig{"disk0.img", "disk0", AccessMode::kReadWrite,
                                             absl::InfiniteDuration(), absl::InfiniteDuration(),
                                             LoopAttach::kAuto, Origin()}));
}

TEST(ClientConfig, TheExampleWithAllKeysShowsTheDefaults) {
  ClientConfig example = Example("client-all-keys.yaml");
  ClientConfig defaults = Parsed(WithLines(""));
  EXPECT_FALSE(defaults.metrics);
  ASSERT_TRUE(example.metrics);
  EXPECT_EQ(example.metrics->ToString(), "tcp:127.0.0.1:9718");
  example.metrics.reset();
  ASSERT_EQ(example.sessions.size(), 2u);
  EXPECT_EQ(example.sessions[0].settings, defaults.sessions[0].settings);
  example.sessions.clear();
  defaults.sessions.clear();
  EXPECT_EQ(example, defaults);
}

TEST(ClientConfig, ASessionsSettingsGoBeforeThoseOfTheFile) {
  const ClientConfig config = Parsed(absl::StrCat(
      "policy: round-robin\nio_hold: 10s\nheartbeat: {interval: 2s}\nconnect_timeout: 7s\n"
      "reconnect: {min: 1s}\nsessions:\n",
      "  - {name: a, ", kPaths, ", devices: [{path: x}, {path: y, io_hold: 0}]}\n",
      "  - {name: b, ", kPaths,
      ", policy: min-latency, io_hold: 20s, heartbeat: {timeout: 8s}, connect_timeout: 9s, ",
      "reconnect: {max: 2s}, devices: [{path: z}]}\n"));
  const ClientSessionSettings& a = config.sessions.at(0).settings;
  EXPECT_EQ(a, (ClientSessionSettings{PathPolicy::kRoundRobin,
                                      absl::Seconds(10),
                                      absl::InfiniteDuration(),
                                      {absl::Seconds(2), absl::Seconds(5)},
                                      absl::Seconds(7),
                                      absl::Seconds(1),
                                      absl::Seconds(5)}));
  EXPECT_EQ(config.sessions[0].devices.at(0).io_hold, absl::Seconds(10));
  EXPECT_EQ(config.sessions[0].devices.at(1).io_hold, absl::ZeroDuration());
  const ClientSessionSettings& b = config.sessions.at(1).settings;
  EXPECT_EQ(b, (ClientSessionSettings{PathPolicy::kMinLatency,
                                      absl::Seconds(20),
                                      absl::InfiniteDuration(),
                                      {absl::Seconds(2), absl::Seconds(8)},
                                      absl::Seconds(9),
                                      absl::Seconds(1),
                                      absl::Seconds(2)}));
  EXPECT_EQ(config.sessions[1].devices.at(0).io_hold, absl::Seconds(20));
}

TEST(ClientConfig, ReadsEveryAccessModeAndLoop) {
  const ClientConfig config =
      Parsed(WithDevice("path: a, access: ro, loop: no}, {path: b, access: rw, loop: auto}, {path: "
                        "c, access: migration"));
  ASSERT_EQ(config.sessions[0].devices.size(), 3u);
  EXPECT_EQ(config.sessions[0].devices[0].access, AccessMode::kReadOnly);
  EXPECT_EQ(config.sessions[0].devices[1].access, AccessMode::kReadWrite);
  EXPECT_EQ(config.sessions[0].devices[1].loop, LoopAttach::kAuto);
  EXPECT_EQ(config.sessions[0].devices[2].access, AccessMode::kMigration);
}

TEST(ClientConfig, RefusesValuesOutOfRange) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"queue_depth: 0", "2:14: queue_depth: expected a whole number from 1 to 65535, found \"0\""},
      {"workers: all",
       "2:10: workers: expected auto or a whole number from 1 to 32, found \"all\""},
      {"request_memory: {small_buffers: 1}",
       "2:33: small_buffers: expected a whole number from 2 to 65536, found \"1\""},
      {"request_memory: {large_buffers: 4097}",
       "2:33: large_buffers: expected a whole number from 2 to 4096, found \"4097\""},
      {"mount: {allow_other: root}",
       "2:22: allow_other: expected one of yes, no, true, false, found \"root\""},
      {"policy: rr",
       "2:9: policy: expected one of round-robin, min-inflight, min-latency, found \"rr\""},
      {"io_hold: never",
       "2:10: io_hold: \"never\" is no time: expected a whole number with us, ms, s, m or h behind "
       "it, 0, or "
       "forever"},
      {"connect_timeout: forever",
       "2:18: connect_timeout: expected a time from 100ms to 5m, found \"forever\""},
      {"reconnect: {min: 2s, max: 1s}", "2:27: max: expected at least min, which is 2s, found 1s"},
      {"reconnect: {min: 1m}", "2:12: max: expected at least min, which is 1m, found 5s"},
      {"heartbeat: {timeout: 1s}",
       "2:22: timeout: 1s leaves no time for an answer: expected at least twice the interval of "
       "1s"},
      {"log: {level: warn}",
       "2:14: level: expected one of trace, debug, info, warning, error, critical, found \"warn\""},
      {"mounts: {}", "2:1: unknown key \"mounts\" in the file, did you mean \"mount\"?"},
  };
  for (const auto& [line, message] : cases) {
    SCOPED_TRACE(line);
    EXPECT_EQ(Error(WithLines(line)), "c.yaml:" + message);
  }
}

TEST(ClientConfig, RefusesBadSessions) {
  const std::string paths(kPaths);
  std::string many = "name: a, paths: [";
  for (int i = 1; i <= 129; ++i) absl::StrAppend(&many, "\"tcp:10.0.0.", i, "\", ");
  const std::vector<std::pair<std::string, std::string>> cases = {
      {paths,
       "2:5: a session: \"name\" is missing, expected the name under which the server knows the "
       "session"},
      {"name: a",
       "2:5: a session: \"paths\" is missing, expected a list of addresses, as in "
       "[\"tcp:192.0.2.1:1234\"]"},
      {"name: a.b, " + paths, "2:12: name: a session's name cannot contain '.'"},
      {"name: a/b, " + paths, "2:12: name: a session's name cannot contain '/'"},
      {"name: '', " + paths, "2:12: name: expected a session's name, found nothing"},
      {"name: " + std::string(255, 'x') + ", " + paths,
       "2:12: name: a session's name may have 254 bytes, this one has 255"},
      {"name: a, paths: []",
       "2:22: paths: expected a list of addresses, as in [\"tcp:192.0.2.1:1234\"], found an empty "
       "list"},
      {"name: a, paths: [\"10.0.0.1\"]",
       "2:23: paths: address \"10.0.0.1\": expected it to begin with tcp:, unix:, ip: or gid:"},
      {"name: a, paths: [\"tcp:10.0.0.1:0\"]",
       "2:23: paths: address \"tcp:10.0.0.1:0\": a destination needs a port, expected 1 to 65535"},
      {"name: a, paths: [\"tcp:[::1]@tcp:10.0.0.1\"]",
       "2:23: paths: address \"tcp:[::1]@tcp:10.0.0.1\": source and destination must both be IPv4 "
       "or "
       "both be IPv6"},
      {"name: a, paths: [{tcp: 10.0.0.1}]", "2:23: paths: expected an address, found a map"},
      {"name: a, paths: [\"tcp:10.0.0.1\", \"tcp:10.0.0.1:1234\"]",
       "2:39: paths: the path \"tcp:10.0.0.1:1234\" is taken already, on line 2"},
      {many + "]", "2:22: paths: expected at most 128 paths, found 129"},
      {"name: a, " + paths + ", devices: {path: x}",
       "2:55: devices: expected a list of devices, as in - path: disk0.img, found a map"},
      {"name: a, " + paths + ", polcy: min-latency",
       "2:46: unknown key \"polcy\" in a session, did you mean \"policy\"?"},
  };
  for (const auto& [session, message] : cases) {
    SCOPED_TRACE(session);
    EXPECT_EQ(Error(WithSession(session)), "c.yaml:" + message);
  }
}

TEST(ClientConfig, RefusesBadDevices) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"name: x", "4:9: a device: \"path\" is missing, expected what the server is asked for"},
      {"path: ''", "4:16: path: expected what the server is asked for, found nothing"},
      {"path: " + std::string(255, 'x'), "4:16: path: expected at most 254 bytes, found 255"},
      {"path: sys",
       "4:9: name: \"sys\" is the directory of the control files: give this device a \"name\" "
       "of its own"},
      {"path: x, name: sys", "4:25: name: \"sys\" is the directory of the control files"},
      {"path: x, name: a/b", "4:25: name: \"a/b\" cannot name a file: expected no '/'"},
      {"path: x, name: ..", "4:25: name: \"..\" cannot name a file"},
      {"path: x, name: " + std::string(256, 'x'),
       "4:25: name: a file's name may have 255 bytes, this one has 256"},
      {"path: x, access: r", "4:27: access: expected one of ro, rw, migration, found \"r\""},
      {"path: x, loop: /dev/loop0", "4:25: loop: expected one of no, auto, found \"/dev/loop0\""},
      {"path: x, io_hold: 5",
       "4:28: io_hold: \"5\" is no time: expected a whole number with us, ms, s, m or h behind it, "
       "0, or "
       "forever"},
      {"path: x, size: 5",
       "4:19: unknown key \"size\" in a device, expected one of path, name, access, io_hold, "
       "io_timeout, loop"},
      {"path: x}, {path: x, name: y",
       "4:27: path: in this session \"x\" is taken already, on line 4"},
      {"path: x, name: n}, {path: y, name: n",
       "4:45: name: the file name \"n\" is taken already, on line 4"},
      {"path: a/b}, {path: a!b",
       "4:22: name: the file name \"a!b\" is taken already, on line 4: give this device a \"name\" "
       "of its "
       "own"},
  };
  for (const auto& [device, message] : cases) {
    SCOPED_TRACE(device);
    EXPECT_EQ(Error(WithDevice(device)), "c.yaml:" + message);
  }
}

TEST(ClientConfig, NamesMustBeUniqueOverAllSessions) {
  EXPECT_EQ(
      Error(absl::StrCat("sessions:\n  - {name: a, ", kPaths, ", devices: [{path: disk}]}\n",
                         "  - {name: b, ", kPaths, ", devices: [{path: disk}]}\n", "  - {name: a, ",
                         kPaths, "}\n")),
      "c.yaml:3:56: name: the file name \"disk\" is taken already, on line 2: give this device a "
      "\"name\" of its own\n"
      "c.yaml:4:12: name: the session name \"a\" is taken already, on line 2");
}

TEST(ClientConfig, MetricsAreServedAtAnAddress) {
  EXPECT_EQ(Parsed(WithLines("metrics: 127.0.0.1")).metrics->port, 9718);
  EXPECT_EQ(Error(WithLines("metrics: 127.0.0.1:x")),
            "c.yaml:2:10: metrics: address \"127.0.0.1:x\": \"x\" is no port, expected 0 to 65535");
}

TEST(ClientConfig, SaysWhatAnEmptyFileLacks) {
  EXPECT_EQ(Error(""), "c.yaml:1:1: the file: expected a map of keys and values, found nothing");
  EXPECT_EQ(
      Error("{}"),
      "c.yaml:1:1: the file: \"sessions\" is missing, expected a list of sessions, as in - name: "
      "blya");
}

TEST(ClientConfig, ReportsEverythingThatIsWrongAtOnce) {
  EXPECT_EQ(
      Error("worker: 2\n"
            "sessions:\n"
            "  - name: a.b\n"
            "    paths: [\"127.0.0.1\"]\n"
            "    devices:\n"
            "      - path: sys\n"
            "      - name: x\n"),
      "c.yaml:1:1: unknown key \"worker\" in the file, did you mean \"workers\"?\n"
      "c.yaml:3:11: name: a session's name cannot contain '.'\n"
      "c.yaml:4:13: paths: address \"127.0.0.1\": expected it to begin with tcp:, unix:, ip: or "
      "gid:\n"
      "c.yaml:6:9: name: \"sys\" is the directory of the control files: give this device a "
      "\"name\" of its own\n"
      "c.yaml:7:9: a device: \"path\" is missing, expected what the server is asked for");
}

TEST(ClientConfig, DevicesMayBeMappedLater) {
  EXPECT_THAT(Parsed(WithLines("")).sessions[0].devices, IsEmpty());
}

TEST(ClientConfig, TakesThousandsOfDevices) {
  std::string text = absl::StrCat("sessions:\n  - name: a\n    ", kPaths, "\n    devices:\n");
  for (int i = 0; i < 5000; ++i) absl::StrAppend(&text, "      - path: disk", i, "\n");
  EXPECT_EQ(Parsed(text).sessions[0].devices.size(), 5000u);
}

TEST(LoadClientConfig, NamesTheFileInErrors) {
  const std::string path = testing::TempDir() + "/bad.yaml";
  std::ofstream(path) << "queue_depth: x\n";
  EXPECT_THAT(std::string(LoadClientConfig(path).status().message()),
              HasSubstr(path + ":1:14: queue_depth: expected a whole number"));
  EXPECT_EQ(StatusToErrno(LoadClientConfig(path + ".missing").status()), ENOENT);
}

TEST(DescribeClient, TellsAPersonWhatWouldHappen) {
  ClientConfig config = Example("client-all-keys.yaml");
  config.workers = 2;
  EXPECT_EQ(Describe(config),
            "workers: 2, each with a connection on every path, 512 small and 32 large buffers\n"
            "each worker takes up to 512 requests of the mount; it is for the user who mounts it\n"
            "payload_checksum: only for servers that ask for it; log level: info\n"
            "metrics are served at tcp:127.0.0.1:9718\n"
            "rdma_poll: 20us; worker_poll: 300us\n"
            "SIGTERM lets requests finish for up to 4s\n"
            "session near (config/examples/client-all-keys.yaml:29)\n"
            "  path tcp:192.0.2.2@tcp:192.0.2.1:1234\n"
            "  path tcp:[2001:db8::2]@tcp:[2001:db8::1]:1234\n"
            "  each request takes the path with the fewest requests in flight\n"
            "  connecting may take 30s, is tried again after 200ms to 5s\n"
            "  a path is dead after 5s without a sign of life, with a heartbeat every 1s\n"
            "  file disk0 is disk0.img, rw; while it is away, requests wait, and fail "
            "without an answer after 2m\n"
            "    with a loop device, /dev/rnbd/disk0\n"
            "  file golden!debian.img is golden/debian.img, ro; while it is away, requests wait\n"
            "session far (config/examples/client-all-keys.yaml:43)\n"
            "  path tcp:store.example.org:1234\n"
            "  connecting may take 1m, is tried again after 1s to 5m\n"
            "  a path is dead after 30s without a sign of life, with a heartbeat every 5s\n"
            "  no devices\n");
}

TEST(DescribeClient, TellsWhatBecomesOfRequestsWhileADeviceIsAway) {
  EXPECT_THAT(Describe(Parsed(WithDevice("path: x, io_hold: 0"))),
              HasSubstr("file x is x, rw; while it is away, requests fail\n"));
  EXPECT_THAT(Describe(Parsed(WithDevice("path: x, io_hold: 90s"))),
              HasSubstr("file x is x, rw; while it is away, requests wait up to 90s\n"));
}

TEST(ClientConfigTest, TimesRequestsOutOnlyWhereItIsAsked) {
  const ClientConfig config =
      Parsed(absl::StrCat("io_timeout: 30s\nsessions:\n  - {name: a, ", kPaths,
                          ", devices: [{path: x}, {path: y, io_timeout: forever}]}\n  - {name: b, ",
                          kPaths, ", io_timeout: 5s, devices: [{path: x, name: z}]}\n"));
  EXPECT_EQ(config.sessions[0].devices.at(0).io_timeout, absl::Seconds(30));
  EXPECT_EQ(config.sessions[0].devices.at(1).io_timeout, absl::InfiniteDuration());
  EXPECT_EQ(config.sessions[1].devices.at(0).io_timeout, absl::Seconds(5));
  EXPECT_EQ(Parsed(WithDevice("path: x")).sessions[0].devices.at(0).io_timeout,
            absl::InfiniteDuration());
  EXPECT_THAT(Describe(config), HasSubstr("requests wait, and fail without an answer after 5s\n"));
}

TEST(DescribeClient, TellsHowAPathIsChosen) {
  const auto with_policy = [](absl::string_view paths, absl::string_view policy) {
    return Describe(
        Parsed(WithSession(absl::StrCat("name: a, paths: [", paths, "], policy: ", policy))));
  };
  constexpr absl::string_view kTwo = "\"tcp:192.0.2.1\", \"tcp:192.0.2.2\"";
  EXPECT_THAT(with_policy(kTwo, "min-latency"), HasSubstr("whose heartbeats come back fastest"));
  EXPECT_THAT(with_policy(kTwo, "round-robin"), HasSubstr("the next path in turn"));
  EXPECT_THAT(with_policy(kTwo, "min-inflight"), HasSubstr("the fewest requests in flight"));
  // With one path there is nothing to choose.
  EXPECT_THAT(with_policy("\"tcp:192.0.2.1\"", "round-robin"),
              ::testing::Not(HasSubstr("each request takes")));
}

}  // namespace
}  // namespace rnbd::config
