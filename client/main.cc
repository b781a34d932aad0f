// rnbd-fuse: shows remote block devices as files.

#include <gflags/gflags.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/client_program.h"
#include "client/daemonize.h"
#include "client/mount.h"
#include "common/logging.h"
#include "common/process.h"
#include "common/status.h"
#include "config/client_config.h"

DEFINE_string(config, "/etc/rnbd/client.yaml",
              "the configuration file; docs/configuration.md describes it");
DEFINE_bool(check, false, "check the configuration, print what it does, and end");
DEFINE_bool(foreground, false, "stay in the foreground");
DEFINE_bool(f, false, "the same as --foreground");
DEFINE_string(o, "", "mount options, separated by commas: allow_other");

namespace rnbd::client {
namespace {

// Exit statuses; docs/rnbd-fuse.md has them.
constexpr int kOk = 0;
constexpr int kFailed = 1;  // nothing is mounted
constexpr int kUsage = 2;
constexpr int kPartlyMapped = 3;  // mounted, but not every device

// The mount has gone: what the reading threads tell the waiting one.
constexpr int kUnmountedSignal = SIGUSR1;

void Say(absl::string_view message) {
  std::fprintf(stderr, "rnbd-fuse: %s\n", std::string(message).c_str());
}

int Fail(const absl::Status& status) {
  Say(status.message());
  return kFailed;
}

absl::StatusOr<bool> AllowOther(const config::ClientConfig& config) {
  bool allow_other = config.mount.allow_other;
  for (absl::string_view option : absl::StrSplit(FLAGS_o, ',', absl::SkipEmpty())) {
    if (option == "allow_other") {
      allow_other = true;
      continue;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("unknown mount option ", option, ", known is: allow_other"));
  }
  return allow_other;
}

// Until the mount has gone, or a signal says so. SIGINT does not take the mount from whoever uses
// it; SIGTERM does, for what sends it will not wait.
void WaitForEnd(const sigset_t& signals, ClientProgram* program) {
  for (;;) {
    int signal = 0;
    sigwait(&signals, &signal);
    if (signal == kUnmountedSignal) {
      spdlog::info("unmounted");
      return;
    }
    spdlog::info("ending on {}", strsignal(signal));
    absl::Status unmounted = program->Unmount();
    if (unmounted.ok()) return;
    if (signal == SIGINT) {
      spdlog::error("{}; SIGTERM ends anyway", unmounted.message());
      continue;
    }
    spdlog::warn("{}; taking it away from them", unmounted.message());
    absl::Status detached = program->Detach();
    if (!detached.ok()) spdlog::warn("{}", detached);
    return;
  }
}

// Whether one of the blocked signals has come, so that nobody need wait for a server that is
// silent.
bool HaveSignal(const sigset_t& signals) {
  const timespec now = {};
  const int signal = sigtimedwait(&signals, nullptr, &now);
  if (signal < 0) return false;
  spdlog::info("ending on {}", strsignal(signal));
  return true;
}

// Maps and mounts; the exit status to continue with, or nothing to go on with.
int Start(const config::ClientConfig& config, const std::string& mount_point, bool allow_other,
          const sigset_t& signals, ClientProgram* program) {
  for (const std::string& sentence : config::NotInForce(config)) spdlog::warn("{}", sentence);
  absl::StatusOr<ClientProgram::Mapping> mapping =
      program->Map([&] { return HaveSignal(signals); });
  if (!mapping.ok()) return Fail(mapping.status());
  for (const std::string& failure : mapping->failures) Say(failure);
  if (mapping->open == 0) {
    Say("no device could be mapped; nothing is mounted");
    return kFailed;
  }
  absl::Status mounted =
      program->MountDevices(mount_point, allow_other, [](const absl::Status& why) {
        if (!why.ok()) spdlog::error("the mount cannot be served any more: {}", why);
        kill(getpid(), kUnmountedSignal);
      });
  if (!mounted.ok()) return Fail(mounted);
  spdlog::info("{} of {} devices are in {}", mapping->open,
               mapping->open + mapping->failures.size(), mount_point);
  return mapping->failures.empty() ? kOk : kPartlyMapped;
}

int Main(const std::string& mount_argument) {
  absl::StatusOr<config::ClientConfig> config = config::LoadClientConfig(FLAGS_config);
  if (!config.ok()) return Fail(config.status());
  if (FLAGS_check) {
    std::printf("%s", config::Describe(*config).c_str());
    return kOk;
  }
  absl::StatusOr<bool> allow_other = AllowOther(*config);
  if (!allow_other.ok()) return Fail(allow_other.status());
  absl::StatusOr<std::string> mount_point = CheckMountPoint(mount_argument);
  if (!mount_point.ok()) return Fail(mount_point.status());
  absl::Status logging = InitLogging({config->log.level});
  if (!logging.ok()) return Fail(logging);

  Background background;
  if (!FLAGS_foreground && !FLAGS_f) {
    absl::StatusOr<Background> entered = Background::Enter();
    if (!entered.ok()) return Fail(entered.status());
    background = *std::move(entered);
    if (background.parent_exit_status().has_value()) return *background.parent_exit_status();
  }
  RaiseLimits();
  // Blocked here, before there are threads, so that they come to the wait below alone.
  const sigset_t signals = BlockSignals({SIGTERM, SIGINT, SIGHUP, kUnmountedSignal});

  ClientProgram program(*config);
  const int started = Start(*config, *mount_point, *allow_other, signals, &program);
  const bool running = started == kOk || started == kPartlyMapped;
  if (running) {
    background.Ready(started);
    WaitForEnd(signals, &program);
  }
  absl::Status stopped = program.Stop();
  if (!stopped.ok()) {
    spdlog::error("not everything may have been written: {}", stopped);
    return kFailed;
  }
  return running ? kOk : started;
}

}  // namespace
}  // namespace rnbd::client

int main(int argc, char** argv) {
  gflags::SetUsageMessage(
      "rnbd-fuse MOUNT --config client.yaml [--foreground] [-o allow_other] [--check]");
  gflags::SetVersionString("0.1");
  gflags::ParseCommandLineFlags(&argc, &argv, /*remove_flags=*/true);
  if (argc != 2 && !(FLAGS_check && argc == 1)) {
    std::fprintf(stderr, "usage: %s\n", gflags::ProgramUsage());
    return rnbd::client::kUsage;
  }
  return rnbd::client::Main(argc == 2 ? argv[1] : "");
}
