// rnbd-fuse: shows remote block devices as files.

#include <gflags/gflags.h>
#include <limits.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "client/daemonize.h"
#include "client/inheritance.h"
#include "client/keeper.h"
#include "client/loop_helper.h"
#include "client/mount.h"
#include "client/serving.h"
#include "client/state_file.h"
#include "client/takeover_check.h"
#include "client/upgrade_port.h"
#include "common/logging.h"
#include "common/process.h"
#include "common/service_manager.h"
#include "common/status.h"
#include "config/client_config.h"
#include "config/config_difference.h"
#include "config/yaml_reader.h"

DEFINE_string(config, "/etc/rnbd/client.yaml",
              "the configuration file; docs/configuration.md describes it");
DEFINE_bool(check, false, "check the configuration, print what it does, and end");
DEFINE_bool(upgrade, false, "go on with this program where another version serves MOUNT");
DEFINE_bool(foreground, false, "stay in the foreground");
DEFINE_bool(f, false, "the same as --foreground");
DEFINE_string(state, "", "where what is changed at run time is kept for the next start");
DEFINE_bool(no_state, false, "keep nothing of what is changed at run time for the next start");
DEFINE_string(o, "", "mount options, separated by commas: allow_other");

namespace rnbd::client {
namespace {

// Exit statuses; docs/rnbd-fuse.md has them.
constexpr int kOk = 0;
constexpr int kFailed = 1;  // nothing is mounted
constexpr int kUsage = 2;

// Beyond what the loop devices take, and then the requests, before a process that was told to end
// is killed.
constexpr absl::Duration kEndMargin = absl::Seconds(3);

void Say(absl::string_view message) {
  std::fprintf(stderr, "rnbd-fuse: %s\n", std::string(message).c_str());
}

int Fail(const absl::Status& status) {
  Say(status.message());
  return kFailed;
}

struct Configuration {
  std::string text;
  config::ClientConfig config;
  absl::Status not_read;  // the file as it is now, where what was in force before stands for it
};

absl::StatusOr<Configuration> ReadConfiguration() {
  Configuration read;
  ASSIGN_OR_RETURN(read.text, config::ReadFile(FLAGS_config));
  ASSIGN_OR_RETURN(read.config, config::ParseClientConfig(read.text, FLAGS_config));
  return read;
}

// Who is to go on with a mount in use goes on with what was in force where the file has become
// wrong: since it was checked, or under a service manager.
absl::StatusOr<Configuration> Configure(const Inheritance& inherited) {
  absl::StatusOr<Configuration> read = ReadConfiguration();
  if (read.ok() || !inherited.fuse.valid() || inherited.state == nullptr) return read;
  const absl::StatusOr<MountState::Contents> mount = inherited.state->Read();
  if (!mount.ok() || mount->file.empty()) return read;
  absl::StatusOr<config::ClientConfig> before =
      config::ParseClientConfig(mount->file, FLAGS_config);
  if (!before.ok()) return read;
  return Configuration{mount->file, *std::move(before), read.status()};
}

// Of a mount that an earlier program has made: as that says it is.
absl::StatusOr<bool> AllowOther(const config::ClientConfig& config, const Inheritance& inherited) {
  bool allow_other = inherited.state == nullptr && config.mount.allow_other;
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

// The program leaves the directory that it was started in.
std::string Absolute(const std::string& path) {
  char directory[PATH_MAX];
  if (path.empty() || path[0] == '/' || getcwd(directory, sizeof(directory)) == nullptr) {
    return path;
  }
  return absl::StrCat(directory, "/", path);
}

std::string StateFile(const std::string& mount_point) {
  if (FLAGS_no_state) return std::string();
  return FLAGS_state.empty() ? DefaultStateFile(mount_point) : Absolute(FLAGS_state);
}

// What another version of the program is called with, to serve the same. It stays where it is: in
// the background already, or in the foreground.
std::vector<std::string> ArgumentsForNext(const std::string& mount_point, bool allow_other) {
  std::vector<std::string> arguments = {mount_point, "--config", Absolute(FLAGS_config),
                                        "--foreground"};
  if (FLAGS_no_state) arguments.emplace_back("--no_state");
  if (!FLAGS_state.empty()) arguments.insert(arguments.end(), {"--state", Absolute(FLAGS_state)});
  if (allow_other) arguments.insert(arguments.end(), {"-o", "allow_other"});
  return arguments;
}

// Asks those who serve the mount already to go on with the program that this is.
int Upgrade(const std::string& mount_argument) {
  char program[PATH_MAX] = {};
  if (readlink("/proc/self/exe", program, sizeof(program) - 1) < 0) {
    return Fail(ErrnoToStatus(errno, "find this program"));
  }
  const std::string mount_point = ResolveMountPoint(mount_argument);
  const absl::StatusOr<std::string> upgraded = RequestUpgrade(mount_point, program);
  if (!upgraded.ok()) {
    return Fail(Annotate(upgraded.status(), absl::StrCat("upgrade ", mount_point)));
  }
  std::fputs(upgraded->c_str(), stdout);
  return kOk;
}

int Keep(const Configuration& configuration, const std::string& mount_point, bool allow_other,
         const std::string& state_file, Inheritance inheritance, Background background) {
  const config::ClientConfig& config = configuration.config;
  RaiseLimits();
  Keeper::Options options;
  options.mount_point = mount_point;
  options.end_bound = 2 * config.drain_timeout + kEndMargin;
  options.memory_bytes = ServingMemoryBytes(config);
  options.arguments = ArgumentsForNext(mount_point, allow_other);
  options.check_arguments = options.arguments;
  options.check_arguments.push_back("--check");
  options.file = configuration.text;
  options.on_serving = [&background](int exit_status) { background.Ready(exit_status); };
  absl::StatusOr<std::unique_ptr<Keeper>> keeper =
      Keeper::Create(std::move(options), std::move(inheritance), ServiceManager::FromEnvironment());
  if (!keeper.ok()) return Fail(keeper.status());
  Keeper::Outcome outcome = (*keeper)->Run();
  if (outcome.exit_status.has_value()) return *outcome.exit_status;

  background.LeaveReadyToOthers();
  ServingOptions serving;
  serving.config = &config;
  serving.mount_point = mount_point;
  serving.allow_other = allow_other;
  serving.state_file = state_file;
  return Serve(serving, *std::move(outcome.process), std::move(background));
}

// Where to mount, or where an earlier program has mounted.
absl::StatusOr<std::string> MountPoint(const std::string& argument, const Inheritance& inherited) {
  if (!inherited.fuse.valid() || inherited.state == nullptr) return CheckMountPoint(argument);
  ASSIGN_OR_RETURN(const MountState::Contents contents, inherited.state->Read());
  return contents.mount_point;
}

// Whether this program could go on with the mount, and what would be different then.
int CheckTakeover(const config::ClientConfig& config, bool allow_other,
                  const Inheritance& inherited) {
  const absl::StatusOr<MountState::Contents> mount = inherited.state->Read();
  if (!mount.ok()) return Fail(mount.status());
  const absl::Status keeps = CheckKeepsWhatIsOpen(*mount, config);
  if (!keeps.ok()) return Fail(keeps);
  const config::ConfigDifference found = DifferenceTo(*mount, allow_other, config);
  const bool stays = inherited.only_if_different && found.changes.empty();
  const absl::Status goes_on = CheckKernelGoesOn(*mount);
  if (!stays && !goes_on.ok()) return Fail(goes_on);
  // In pieces that a message of the socket behind it can hold.
  for (absl::string_view line : absl::StrSplit(config::Describe(found), '\n', absl::SkipEmpty())) {
    std::printf("%s\n", std::string(line).c_str());
    std::fflush(stdout);
  }
  return stays ? Inheritance::kNothingDifferent : kOk;
}

// Now that it is in force.
void LogDifference(const Configuration& configuration, bool allow_other,
                   const Inheritance& inherited) {
  if (!configuration.not_read.ok()) {
    spdlog::error("goes on with the configuration from before: {}", configuration.not_read);
  }
  if (!inherited.fuse.valid() || inherited.state == nullptr) return;
  const absl::StatusOr<MountState::Contents> mount = inherited.state->Read();
  if (!mount.ok()) return;
  const config::ConfigDifference found = DifferenceTo(*mount, allow_other, configuration.config);
  for (const std::string& line : found.changes) spdlog::info("{}", line);
  for (const std::string& line : found.needs_restart) spdlog::warn("takes a restart: {}", line);
}

int Main(const std::string& mount_argument) {
  absl::StatusOr<Inheritance> inheritance = Inheritance::FromEnvironment();
  if (!inheritance.ok()) return Fail(inheritance.status());
  const absl::StatusOr<Configuration> configuration = Configure(*inheritance);
  if (!configuration.ok()) return Fail(configuration.status());
  const config::ClientConfig* const config = &configuration->config;
  absl::StatusOr<bool> allow_other = AllowOther(*config, *inheritance);
  if (!allow_other.ok()) return Fail(allow_other.status());
  if (FLAGS_check && inheritance->state != nullptr) {
    return CheckTakeover(*config, *allow_other, *inheritance);
  }
  if (FLAGS_check) {
    std::printf("%s", config::Describe(*config).c_str());
    return kOk;
  }
  absl::StatusOr<std::string> mount_point = MountPoint(mount_argument, *inheritance);
  if (!mount_point.ok()) return Fail(mount_point.status());
  absl::Status logging = InitLogging({config->log.level});
  if (!logging.ok()) return Fail(logging);
  LogDifference(*configuration, *allow_other, *inheritance);

  const std::string state_file = StateFile(*mount_point);
  Background background;
  if (!FLAGS_foreground && !FLAGS_f) {
    absl::StatusOr<Background> entered = Background::Enter();
    if (!entered.ok()) return Fail(entered.status());
    background = *std::move(entered);
    if (background.parent_exit_status().has_value()) return *background.parent_exit_status();
  }
  return Keep(*configuration, *mount_point, *allow_other, state_file, *std::move(inheritance),
              std::move(background));
}

}  // namespace
}  // namespace rnbd::client

int main(int argc, char** argv) {
  if (rnbd::client::LoopHelperMain(argc, argv)) return rnbd::client::kOk;
  gflags::SetUsageMessage(
      "rnbd-fuse MOUNT --config client.yaml [--foreground] [-o allow_other] [--check] [--upgrade] "
      "[--state FILE | --no-state]");
  gflags::SetVersionString("0.1");
  gflags::ParseCommandLineFlags(&argc, &argv, /*remove_flags=*/true);
  if (argc != 2 && !(FLAGS_check && argc == 1)) {
    std::fprintf(stderr, "usage: %s\n", gflags::ProgramUsage());
    return rnbd::client::kUsage;
  }
  if (FLAGS_upgrade) return rnbd::client::Upgrade(argv[1]);
  return rnbd::client::Main(argc == 2 ? argv[1] : "");
}
