// rnbd-server: serves block devices and image files to RNBD sessions.

#include <gflags/gflags.h>
#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/logging.h"
#include "common/process.h"
#include "common/service_manager.h"
#include "common/watchdog.h"
#include "config/server_config.h"
#include "server/server_program.h"

DEFINE_string(config, "/etc/rnbd/server.yaml",
              "the configuration file; docs/configuration.md describes it");
DEFINE_bool(check, false, "check the configuration, print what it does, and end");

namespace rnbd::server {
namespace {

// The next signal; until then the service manager learns that the program is alive.
int WaitForSignal(const sigset_t& signals, Watchdog* watchdog) {
  const absl::Duration interval = std::min(watchdog->interval(), absl::Hours(1));
  const timespec limit = absl::ToTimespec(interval);
  for (;;) {
    const int signal = sigtimedwait(&signals, nullptr, &limit);
    if (signal > 0) return signal;
    watchdog->Look();
  }
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "rnbd-server: %s\n", std::string(status.message()).c_str());
  return 1;
}

int Main() {
  absl::StatusOr<config::ServerConfig> config = config::LoadServerConfig(FLAGS_config);
  if (!config.ok()) return Fail(config.status());
  if (FLAGS_check) {
    std::printf("%s", config::Describe(*config).c_str());
    return 0;
  }
  absl::Status logging = InitLogging({config->log.level});
  if (!logging.ok()) return Fail(logging);
  for (const std::string& sentence : config::NotInForce(*config)) spdlog::warn("{}", sentence);
  RaiseLimits();
  // Blocked here, before there are threads, so that they come to the wait below alone.
  const sigset_t signals = BlockSignals({SIGTERM, SIGINT, SIGHUP});

  ServiceManager manager = ServiceManager::FromEnvironment();
  ServerProgram program(FLAGS_config, *std::move(config));
  absl::Status started = program.Start();
  if (!started.ok()) {
    program.Stop();
    return Fail(started);
  }
  spdlog::info("rnbd-server is ready");
  manager.Notify("READY=1");
  Watchdog watchdog(manager.watchdog(), program.rings(), [&manager] { manager.NotifyAlive(); });
  int signal = 0;
  while ((signal = WaitForSignal(signals, &watchdog)) == SIGHUP) program.Reload();
  spdlog::info("ending on {}", strsignal(signal));
  manager.Notify("STOPPING=1");
  if (!program.Stop()) {
    spdlog::shutdown();
    std::_Exit(1);
  }
  return 0;
}

}  // namespace
}  // namespace rnbd::server

int main(int argc, char** argv) {
  gflags::SetUsageMessage("rnbd-server --config server.yaml [--check]");
  gflags::SetVersionString("0.1");
  gflags::ParseCommandLineFlags(&argc, &argv, /*remove_flags=*/true);
  if (argc > 1) {
    std::fprintf(stderr, "rnbd-server: unexpected argument %s\n", argv[1]);
    return 2;
  }
  return rnbd::server::Main();
}
