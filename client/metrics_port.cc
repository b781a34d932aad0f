#include "client/metrics_port.h"

#include <fcntl.h>

#include <cerrno>
#include <utility>

#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "common/logging.h"
#include "common/status.h"
#include "common/unique_fd.h"

namespace rnbd::client {
namespace {

constexpr absl::Duration kRetry = absl::Milliseconds(100);

ClientMetrics::Device ToMetrics(const MappedSession::DeviceView& view) {
  ClientMetrics::Device device;
  device.name = view.config->name;
  device.open = view.remote->is_open();
  device.held = view.remote->held();
  const HeldRequests::Totals holds = view.remote->holds();
  device.holds = holds.holds;
  device.held_ns = holds.held_ns;
  device.replays = holds.replays;
  const DeviceTraffic traffic = view.remote->traffic();
  device.reads = traffic.reads;
  device.read_bytes = traffic.read_sectors * kSectorSize;
  device.writes = traffic.writes;
  device.written_bytes = traffic.written_sectors * kSectorSize;
  device.discards = traffic.discards;
  device.discarded_bytes = traffic.discarded_sectors * kSectorSize;
  device.flushes = traffic.flushes;
  return device;
}

ClientMetrics::Path ToMetrics(const std::string& session, const rtrs::ClientPath& from) {
  ClientMetrics::Path path;
  path.session = session;
  path.name = from.address().ToString();
  path.connected = from.state() == rtrs::ClientPath::State::kConnected;
  path.latency_ns = absl::ToInt64Nanoseconds(from.latency());
  const rtrs::PathTraffic traffic = from.traffic();
  path.in_flight = traffic.in_flight;
  path.read_bytes = traffic.read_bytes;
  path.written_bytes = traffic.write_bytes;
  path.reconnects = from.reconnects();
  path.failed_reconnects = from.failed_reconnects();
  path.failovers = traffic.failovers;
  path.violations = traffic.violations;
  return path;
}

}  // namespace

void AddMappings(const Mappings& mappings, ClientMetrics::State* state) {
  for (MappedSession* session : mappings.sessions()) {
    for (const MappedSession::DeviceView& view : session->devices()) {
      state->devices.push_back(ToMetrics(view));
    }
    for (const rtrs::ClientPath* path : session->session()->Paths()) {
      state->paths.push_back(ToMetrics(session->name(), *path));
    }
  }
}

MetricsPort::MetricsPort(rtrs::Address address, Ring* ring, std::function<std::string()> text)
    : address_(std::move(address)),
      text_(std::move(text)),
      retry_(ring, [this] { OpenWhenFree(); }) {}

absl::Status MetricsPort::Open() {
  ASSIGN_OR_RETURN(rtrs::ListeningSocket socket, rtrs::ListeningSocket::Open(address_));
  UniqueFd listening(fcntl(socket.get(), F_DUPFD_CLOEXEC, 0));
  if (!listening.valid()) return ErrnoToStatus(errno, "keep a socket");
  ASSIGN_OR_RETURN(http_, MetricsHttp::Start(std::move(listening), text_));
  socket_ = std::make_unique<rtrs::ListeningSocket>(std::move(socket));
  spdlog::info("metrics at http://{}/metrics",
               absl::StripPrefix(socket_->address().ToString(), "tcp:"));
  return absl::OkStatus();
}

void MetricsPort::OpenWhenFree() {
  const absl::Status opened = Open();
  if (opened.ok()) return;
  if (!std::exchange(told_, true)) spdlog::info("metrics: {}; trying again", opened);
  retry_.Arm(kRetry);
}

}  // namespace rnbd::client
