#include "config/server_reload.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::config {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr char kListen[] = "listen: [{unix: /run/x}]\n";
constexpr char kSessions[] =
    "sessions:\n"
    "  - {name: \"web-*\", from: [10.0.0.0/8], dev_search_path: /srv, access: [ro]}\n"
    "  - {name: \"*\", dev_search_path: /pub}\n";

ServerConfig Parsed(const std::string& text) {
  auto config = ParseServerConfig(text, "s.yaml");
  EXPECT_TRUE(config.ok()) << config.status();
  return *std::move(config);
}

ServerConfig With(const std::string& lines) {
  return Parsed(absl::StrCat(kListen, lines, kSessions));
}

TEST(ServerReloadTest, TheSameFileChangesNothingWhereverItsLinesAre) {
  const ServerReload reload = PlanReload(With(""), With("\n\n# a comment\n"));
  EXPECT_THAT(reload.changes, IsEmpty());
  EXPECT_THAT(reload.needs_restart, IsEmpty());
  EXPECT_EQ(Describe(reload), "nothing is different\n");
}

TEST(ServerReloadTest, WhatCanChangeIsTaken) {
  const ServerConfig file = With(
      "limits: {max_sessions: 5, max_sessions_per_address: 6, max_paths_per_session: 7, "
      "max_connections_per_path: 8, chunk_memory: 1GiB}\n"
      "heartbeat: {interval: 2s, timeout: 20s}\nestablishment_timeout: 3s\ndrain_timeout: 1s\n"
      "stuck_after: forever\nlog: {level: debug}\n");
  ServerConfig running = With("limits: {chunk_memory: 2GiB}\n");
  const ServerReload reload = PlanReload(running, file);
  EXPECT_EQ(reload.config, file);
  EXPECT_THAT(reload.needs_restart, IsEmpty());
  EXPECT_THAT(
      reload.changes,
      ElementsAre("heartbeat.interval: 1s -> 2s", "heartbeat.timeout: 5s -> 20s",
                  "establishment_timeout: 30s -> 3s", "drain_timeout: 4s -> 1s",
                  "stuck_after: 30s -> forever", "log.level: info -> debug",
                  "limits.max_sessions: 4096 -> 5", "limits.max_sessions_per_address: 256 -> 6",
                  "limits.max_paths_per_session: 16 -> 7",
                  "limits.max_connections_per_path: 1024 -> 8",
                  "limits.chunk_memory: 2GiB -> 1GiB"));
}

TEST(ServerReloadTest, WhatTakesARestartStaysAndIsNamedUntilThen) {
  const ServerConfig running = With("workers: 2\n");
  const ServerConfig file = Parsed(absl::StrCat(
      "listen: [{unix: /run/y}]\nqueue_depth: 64\nmax_io_size: 512KiB\nalways_invalidate: yes\n"
      "payload_checksum: yes\nrdma_poll: 0\nworker_poll: 0\nworkers: 3\nadmin_socket: /run/a\n"
      "control_mount: /run/m\nmetrics: 127.0.0.1\ngrace_period: 1s\nstate_file: /var/s\n",
      kSessions));
  ServerReload reload = PlanReload(running, file);
  EXPECT_THAT(reload.changes, IsEmpty());
  const auto named = ElementsAre(
      "listen: unix:/run/x -> unix:/run/y", "queue_depth: 128 -> 64", "max_io_size: 1MiB -> 512KiB",
      "always_invalidate: no -> yes", "payload_checksum: no -> yes", "rdma_poll: 20us -> 0",
      "worker_poll: 300us -> 0", "workers: 2 -> 3", "admin_socket: none -> /run/a",
      "control_mount: none -> /run/m", "metrics: none -> tcp:127.0.0.1:9717",
      "grace_period: 30s -> 1s", "state_file: none -> /var/s");
  EXPECT_THAT(reload.needs_restart, named);
  EXPECT_EQ(reload.config, running);
  EXPECT_THAT(PlanReload(reload.config, file).needs_restart, named);
}

TEST(ServerReloadTest, EntriesComeAndGo) {
  const ServerConfig running = With("");
  const ServerConfig file =
      Parsed(absl::StrCat(kListen, "null_devices: {void: 1MiB}\n",
                          "sessions:\n"
                          "  - {name: new, backend: \"null\", devices: [void], limits: {iops: 5}}\n"
                          "  - {name: \"*\", dev_search_path: /pub, direct_io: no}\n"));
  const ServerReload reload = PlanReload(running, file);
  EXPECT_EQ(reload.config.sessions, file.sessions);
  EXPECT_THAT(reload.changes,
              ElementsAre("+ null_devices.void: 1MiB",
                          "- session \"web-*\", from 10.0.0.0/8, /srv, access ro",
                          "- session \"*\", /pub, access ro rw migration",
                          "+ session \"new\", backend null, devices void, access ro rw migration, "
                          "limits iops=5 burst=100ms",
                          "+ session \"*\", /pub, access ro rw migration, direct_io no"));
}

TEST(ServerReloadTest, TheOrderOfEntriesMatters) {
  const ServerConfig running = With("");
  ServerConfig file = running;
  std::swap(file.sessions[0], file.sessions[1]);
  const ServerReload reload = PlanReload(running, file);
  EXPECT_THAT(reload.changes, ElementsAre("sessions: the entries are in another order"));
  EXPECT_EQ(reload.config.sessions, file.sessions);
}

TEST(ServerReloadTest, ADeclaredDeviceKeepsItsSize) {
  const ServerConfig running = With("memory_devices: {a: 1MiB, b: 1MiB}\n");
  const ServerReload reload = PlanReload(running, With("memory_devices: {a: 2MiB, c: 3MiB}\n"));
  EXPECT_THAT(reload.changes, ElementsAre("- memory_devices.b", "+ memory_devices.c: 3MiB"));
  EXPECT_THAT(reload.needs_restart, ElementsAre("memory_devices.a: 1MiB -> 2MiB"));
  EXPECT_THAT(reload.config.memory_devices,
              ElementsAre(DeclaredDevice{"a", 1 << 20}, DeclaredDevice{"c", 3 << 20}));
  EXPECT_EQ(Describe(reload),
            "- memory_devices.b\n+ memory_devices.c: 3MiB\n"
            "takes a restart: memory_devices.a: 1MiB -> 2MiB\n");
}

}  // namespace
}  // namespace rnbd::config
