// rnbd-server: serves block devices and image files to RNBD sessions.

#include <gflags/gflags.h>
#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/logging.h"
#include "common/process.h"
#include "config/server_config.h"
#include "server/server_program.h"

DEFINE_string(config, "/etc/rnbd/server.yaml",
              "the configuration file; docs/configuration.md describes it");
DEFINE_bool(check, false, "check the configuration, print what it does, and end");

namespace rnbd::server {
namespace {

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

  ServerProgram program(FLAGS_config, *std::move(config));
  absl::Status started = program.Start();
  if (!started.ok()) {
    program.Stop();
    return Fail(started);
  }
  spdlog::info("rnbd-server is ready");
  int signal = 0;
  while (sigwait(&signals, &signal) == 0 && signal == SIGHUP) program.Reload();
  spdlog::info("ending on {}", strsignal(signal));
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
