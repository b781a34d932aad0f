#include "client/client_metrics.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace rnbd::client {
namespace {

using Type = MetricRegistry::Type;
using Values = MetricRegistry::Values;

// In the order of BlockOperation.
constexpr const char* kOperationNames[] = {"read", "write", "flush", "discard", "write_zeroes"};

std::string DeviceLabel(const ClientMetrics::Device& device) {
  return MetricLabel("device", device.name);
}

std::string PathLabel(const ClientMetrics::Path& path) {
  return absl::StrCat(MetricLabel("session", path.session), ",", MetricLabel("path", path.name));
}

// A value for each of the first, with what `label` says and `more` behind it, and one for the rest.
template <typename Item, typename Label, typename Of>
void AddEach(Values* values, const std::vector<Item>& items, Label label, const std::string& more,
             Of of) {
  const std::string behind = more.empty() ? "" : absl::StrCat(",", more);
  decltype(of(items[0])) rest = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i < ClientMetrics::kMaxLabelled) {
      values->Add(absl::StrCat(label(items[i]), behind), of(items[i]));
    } else {
      rest += of(items[i]);
    }
  }
  if (items.size() > ClientMetrics::kMaxLabelled) {
    values->Add(absl::StrCat(label(Item()), behind), rest);
  }
}

double Seconds(uint64_t ns) { return static_cast<double>(ns) * 1e-9; }

}  // namespace

void ClientMetrics::Worker::End(BlockOperation operation, uint64_t bytes, int error,
                                const Times& times) {
  const auto index = static_cast<size_t>(operation);
  durations_[index].Add(times.whole_ns);
  if (times.server_ns >= 0) {
    at_server_.Add(times.server_ns);
    waits_.Add(times.whole_ns - times.server_ns);
  } else {
    waits_.Add(times.whole_ns);
  }
  if (error == 0) {
    bytes_[index].Add(bytes);
  } else {
    errors_.Add(error);
  }
}

ClientMetrics::ClientMetrics(size_t workers) : start_(absl::Now()) {
  for (size_t i = 0; i < workers; ++i) workers_.push_back(std::make_unique<Worker>());
}

void ClientMetrics::Register(std::function<State()> state, MetricRegistry* registry) {
  registry->Add({"rnbd_client_requests_in_flight", Type::kGauge, "",
                 "Requests that were taken from the kernel and are not answered",
                 [this, state = std::move(state)](Values* values) {
                   state_ = state();
                   values->Add("", state_.in_flight);
                 }});
  AddRequests(registry);
  AddDevices(registry);
  AddPaths(registry);
  AddProcess(registry);
}

void ClientMetrics::AddRequests(MetricRegistry* registry) const {
  registry->Add({"rnbd_client_request_seconds", Type::kHistogram, "operation",
                 "Time from the kernel's request to its answer, failed ones included",
                 [this](Values* values) {
                   for (size_t i = 0; i < Worker::kOperations; ++i) {
                     DurationCounts counts;
                     for (const auto& worker : workers_) worker->durations_[i].AddTo(&counts);
                     values->Add(MetricLabel("operation", kOperationNames[i]), counts);
                   }
                 }});
  registry->Add({"rnbd_client_phase_seconds", Type::kHistogram, "phase",
                 "The same in its phases: until it was sent, and from there to the answer",
                 [this](Values* values) {
                   DurationCounts waits;
                   DurationCounts at_server;
                   for (const auto& worker : workers_) {
                     worker->waits_.AddTo(&waits);
                     worker->at_server_.AddTo(&at_server);
                   }
                   values->Add(MetricLabel("phase", "wait"), waits);
                   values->Add(MetricLabel("phase", "server"), at_server);
                 }});
  registry->Add({"rnbd_client_request_bytes_total", Type::kCounter, "operation",
                 "Bytes of the requests that succeeded", [this](Values* values) {
                   for (size_t i = 0; i < Worker::kOperations; ++i) {
                     uint64_t bytes = 0;
                     for (const auto& worker : workers_) bytes += worker->bytes_[i].value();
                     values->Add(MetricLabel("operation", kOperationNames[i]), bytes);
                   }
                 }});
  registry->Add({"rnbd_client_request_errors_total", Type::kCounter, "errno",
                 "Requests that failed, also those that came to no device", [this](Values* values) {
                   for (size_t i = 0; i < ErrorCells::kErrors; ++i) {
                     uint64_t count = 0;
                     for (const auto& worker : workers_) count += worker->errors_.count(i);
                     if (ErrorCells::HasSeries(i, count)) values->Add(ErrorLabel(i), count);
                   }
                 }});
}

void ClientMetrics::AddDevices(MetricRegistry* registry) const {
  const auto add = [this, registry](const char* name, Type type, const char* help, auto of) {
    registry->Add({name, type, "device", help, [this, of](Values* values) {
                     AddEach(values, state_.devices, DeviceLabel, "", of);
                   }});
  };
  struct Direction {
    const char* operation;
    uint64_t Device::*requests;
    uint64_t Device::*bytes;
  };
  static constexpr Direction kDirections[] = {
      {"read", &Device::reads, &Device::read_bytes},
      {"write", &Device::writes, &Device::written_bytes},
      {"discard", &Device::discards, &Device::discarded_bytes},
      {"flush", &Device::flushes, nullptr},
  };
  registry->Add({"rnbd_client_device_requests_total", Type::kCounter, "device,operation",
                 "Requests to a device; those of zeroes count as discards", [this](Values* values) {
                   for (const Direction& each : kDirections) {
                     AddEach(values, state_.devices, DeviceLabel,
                             MetricLabel("operation", each.operation),
                             [&](const Device& device) { return device.*each.requests; });
                   }
                 }});
  registry->Add({"rnbd_client_device_bytes_total", Type::kCounter, "device,operation",
                 "Bytes of these requests", [this](Values* values) {
                   for (const Direction& each : kDirections) {
                     if (each.bytes == nullptr) continue;
                     AddEach(values, state_.devices, DeviceLabel,
                             MetricLabel("operation", each.operation),
                             [&](const Device& device) { return device.*each.bytes; });
                   }
                 }});
  add("rnbd_client_device_open", Type::kGauge, "Whether the device is open at its server: 1 or 0",
      [](const Device& device) { return uint64_t{device.open}; });
  add("rnbd_client_requests_held", Type::kGauge,
      "Requests that wait for their device to be open, or to be sent again",
      [](const Device& device) { return device.held; });
  add("rnbd_client_holds_total", Type::kCounter, "Times that a request had to wait so",
      [](const Device& device) { return device.holds; });
  add("rnbd_client_held_seconds_total", Type::kCounter,
      "How long requests waited so, all together, when it was over",
      [](const Device& device) { return Seconds(device.held_ns); });
  add("rnbd_client_replays_total", Type::kCounter,
      "Requests that were lost with a path and sent again",
      [](const Device& device) { return device.replays; });
}

void ClientMetrics::AddPaths(MetricRegistry* registry) const {
  const auto add = [this, registry](const char* name, Type type, const char* help, auto of) {
    registry->Add({name, type, "session,path", help, [this, of](Values* values) {
                     AddEach(values, state_.paths, PathLabel, "", of);
                   }});
  };
  add("rnbd_client_path_connected", Type::kGauge, "Whether the path is connected: 1 or 0",
      [](const Path& path) { return uint64_t{path.connected}; });
  add("rnbd_client_path_latency_seconds", Type::kGauge, "Round trip of the last heartbeat",
      [](const Path& path) { return static_cast<double>(path.latency_ns) * 1e-9; });
  add("rnbd_client_path_in_flight", Type::kGauge, "Requests that are on the path, or at the server",
      [](const Path& path) { return path.in_flight; });
  registry->Add({"rnbd_client_path_bytes_total", Type::kCounter, "session,path,direction",
                 "Bytes of requests over the path, their messages included",
                 [this](Values* values) {
                   AddEach(values, state_.paths, PathLabel, MetricLabel("direction", "read"),
                           [](const Path& path) { return path.read_bytes; });
                   AddEach(values, state_.paths, PathLabel, MetricLabel("direction", "write"),
                           [](const Path& path) { return path.written_bytes; });
                 }});
  add("rnbd_client_reconnects_total", Type::kCounter, "Times that the path was connected again",
      [](const Path& path) { return path.reconnects; });
  add("rnbd_client_failed_reconnects_total", Type::kCounter, "Attempts at that which failed",
      [](const Path& path) { return path.failed_reconnects; });
  add("rnbd_client_failovers_total", Type::kCounter, "Requests that were lost with the path",
      [](const Path& path) { return path.failovers; });
  add("rnbd_client_protocol_violations_total", Type::kCounter,
      "Times that the path was closed because the server broke the protocol",
      [](const Path& path) { return path.violations; });
}

void ClientMetrics::AddProcess(MetricRegistry* registry) const {
  registry->Add({"rnbd_client_takeovers_total", Type::kCounter, "",
                 "Times that another process went on with the mount",
                 [this](Values* values) { values->Add("", state_.takeovers); }});
  registry->Add({"rnbd_client_request_memory_bytes", Type::kGauge, "",
                 "Memory of the buffers for requests",
                 [this](Values* values) { values->Add("", state_.request_memory); }});
  registry->Add({"rnbd_client_uptime_seconds", Type::kGauge, "",
                 "Time since the process that serves the mount began to", [this](Values* values) {
                   values->Add("", absl::ToDoubleSeconds(absl::Now() - start_));
                 }});
  registry->Add({"process_resident_memory_bytes", Type::kGauge, "",
                 "Memory of the process that is in use",
                 [](Values* values) { values->Add("", ResidentMemory()); }});
}

}  // namespace rnbd::client
