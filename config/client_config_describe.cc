#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "config/client_config.h"
#include "config/units.h"

namespace rnbd::config {
namespace {

absl::string_view PathChoice(PathPolicy policy) {
  switch (policy) {
    case PathPolicy::kRoundRobin:
      return "the next path in turn";
    case PathPolicy::kMinInflight:
      return "the path with the fewest requests in flight";
    case PathPolicy::kMinLatency:
      return "the path whose heartbeats come back fastest";
  }
  return "";
}

std::string HoldText(absl::Duration hold) {
  if (hold == absl::ZeroDuration()) return "while it is away, requests fail";
  if (hold == absl::InfiniteDuration()) return "while it is away, requests wait";
  return absl::StrCat("while it is away, requests wait up to ", DurationToString(hold));
}

std::string TimeoutText(absl::Duration timeout) {
  if (timeout == absl::InfiniteDuration()) return "";
  return absl::StrCat(", and fail without an answer after ", DurationToString(timeout));
}

std::string DescribeSession(const ClientSessionConfig& session) {
  const ClientSessionSettings& settings = session.settings;
  std::string text = absl::StrCat("session ", session.name, " (", session.origin.text, ")\n");
  for (const rtrs::PathAddress& path : session.paths) {
    absl::StrAppend(&text, "  path ", path.ToString(), "\n");
  }
  if (session.paths.size() > 1) {
    absl::StrAppend(&text, "  each request takes ", PathChoice(settings.policy), "\n");
  }
  absl::StrAppend(&text, "  connecting may take ", DurationToString(settings.connect_timeout),
                  ", is tried again after ", DurationToString(settings.reconnect_min), " to ",
                  DurationToString(settings.reconnect_max), "\n");
  absl::StrAppend(&text, "  a path is dead after ", DurationToString(settings.heartbeat.timeout),
                  " without a sign of life, with a heartbeat every ",
                  DurationToString(settings.heartbeat.interval),
                  settings.heartbeat.given ? "" : ", with kernel peers after 35s and every 5s",
                  "\n");
  for (const ClientDeviceConfig& device : session.devices) {
    absl::StrAppend(&text, "  file ", device.name, " is ", device.path, ", ",
                    AccessModeName(device.access), "; ", HoldText(device.io_hold),
                    TimeoutText(device.io_timeout), "\n");
    if (device.loop == LoopAttach::kAuto) {
      absl::StrAppend(&text, "    with a loop device, /dev/rnbd/", device.name, "\n");
    }
  }
  if (session.devices.empty()) absl::StrAppend(&text, "  no devices\n");
  return text;
}

}  // namespace

std::string Describe(const ClientConfig& config) {
  std::string text =
      absl::StrCat("workers: ", config.workers, ", each with a connection on every path, ",
                   config.request_memory.small_buffers, " small and ",
                   config.request_memory.large_buffers, " large buffers\n");
  absl::StrAppend(&text, "each worker takes up to ", config.queue_depth,
                  " requests of the mount; it is for ",
                  config.mount.allow_other ? "every user" : "the user who mounts it", "\n");
  absl::StrAppend(&text, "payload_checksum: ",
                  config.payload_checksum ? "yes" : "only for servers that ask for it",
                  "; log level: ", config.log.level, "\n");
  if (config.metrics) {
    absl::StrAppend(&text, "metrics are served at ", config.metrics->ToString(), "\n");
  }
  absl::StrAppend(&text, "rdma_poll: ", DurationToString(config.rdma_poll),
                  "; worker_poll: ", DurationToString(config.worker_poll), "\n");
  absl::StrAppend(&text, "SIGTERM lets requests finish for up to ",
                  DurationToString(config.drain_timeout), "\n");
  for (const ClientSessionConfig& session : config.sessions) text += DescribeSession(session);
  return text;
}

}  // namespace rnbd::config
