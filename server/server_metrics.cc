#include "server/server_metrics.h"

#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace rnbd::server {
namespace {

using Type = MetricRegistry::Type;
using Values = MetricRegistry::Values;

// In the order of BlockOperation.
constexpr const char* kOperationNames[] = {"read",    "write",        "flush",
                                           "discard", "write_zeroes", "secure_erase"};

std::string OperationLabel(size_t operation) {
  return MetricLabel("operation", kOperationNames[operation]);
}

std::string ErrorLabel(size_t error) {
  const char* const name = error == 0 ? nullptr : strerrorname_np(static_cast<int>(error));
  return MetricLabel("errno", name == nullptr ? absl::StrCat(error) : name);
}

uint64_t CountOf(const DurationCounts& durations) {
  uint64_t count = 0;
  for (const uint64_t each : durations.counts) count += each;
  return count;
}

}  // namespace

void ServerMetrics::Worker::End(BlockOperation operation, uint32_t bytes, int error, int64_t ns) {
  const auto index = static_cast<size_t>(operation);
  durations_[index].Add(ns);
  if (error == 0) {
    bytes_[index].Add(bytes);
  } else {
    CountError(error);
  }
}

ServerMetrics::ServerMetrics(size_t workers) : start_(absl::Now()) {
  for (size_t i = 0; i < workers; ++i) workers_.push_back(std::make_unique<Worker>());
}

void ServerMetrics::Register(std::function<State()> state, MetricRegistry* registry) const {
  AddRequests(registry);
  AddState(state, registry);
  registry->Add(
      {"rnbd_server_uptime_seconds", Type::kGauge, "", "Time since the server was started",
       [this](Values* values) { values->Add("", absl::ToDoubleSeconds(absl::Now() - start_)); }});
  registry->Add({"process_resident_memory_bytes", Type::kGauge, "",
                 "Memory of the process that is in use",
                 [](Values* values) { values->Add("", ResidentMemory()); }});
}

uint64_t ServerMetrics::AtWork() const {
  uint64_t ended = 0;
  for (const auto& worker : workers_) {
    for (const DurationCells& cells : worker->durations_) {
      DurationCounts counts;
      cells.AddTo(&counts);
      ended += CountOf(counts);
    }
  }
  // Read behind the ends: none of them is missing.
  uint64_t begun = 0;
  for (const auto& worker : workers_) begun += worker->begun_.value();
  return begun > ended ? begun - ended : 0;
}

void ServerMetrics::AddRequests(MetricRegistry* registry) const {
  registry->Add({"rnbd_server_request_seconds", Type::kHistogram, "operation",
                 "Time that requests took at their disks, failed ones included",
                 [this](Values* values) {
                   for (size_t i = 0; i < Worker::kOperations; ++i) {
                     DurationCounts counts;
                     for (const auto& worker : workers_) worker->durations_[i].AddTo(&counts);
                     values->Add(OperationLabel(i), counts);
                   }
                 }});
  registry->Add({"rnbd_server_request_bytes_total", Type::kCounter, "operation",
                 "Bytes of the requests that succeeded", [this](Values* values) {
                   for (size_t i = 0; i < Worker::kOperations; ++i) {
                     uint64_t bytes = 0;
                     for (const auto& worker : workers_) bytes += worker->bytes_[i].value();
                     values->Add(OperationLabel(i), bytes);
                   }
                 }});
  registry->Add({"rnbd_server_request_errors_total", Type::kCounter, "errno",
                 "Requests that failed, also those that came to no disk", [this](Values* values) {
                   for (size_t i = 0; i < Worker::kErrors; ++i) {
                     uint64_t count = 0;
                     for (const auto& worker : workers_) count += worker->errors_[i].value();
                     if (count > 0) values->Add(ErrorLabel(i), count);
                   }
                 }});
  registry->Add({"rnbd_server_requests_at_work", Type::kGauge, "",
                 "Requests that are at their disks",
                 [this](Values* values) { values->Add("", AtWork()); }});
}

void ServerMetrics::AddState(const std::function<State()>& state, MetricRegistry* registry) const {
  registry->Add({"rnbd_server_sessions", Type::kGauge, "", "Sessions, those being made included",
                 [state](Values* values) { values->Add("", state().sessions); }});
  registry->Add(
      {"rnbd_server_paths", Type::kGauge, "", "Paths that are connected", [state](Values* values) {
         const rtrs::ServerCounters counters = state().counters;
         values->Add("", counters.paths_connected - counters.paths_closed);
       }});
  registry->Add({"rnbd_server_devices_open", Type::kGauge, "", "Devices that sessions have open",
                 [state](Values* values) { values->Add("", state().devices_open); }});
  registry->Add({"rnbd_server_chunk_memory_bytes", Type::kGauge, "",
                 "Memory that sessions were given for chunks, touched or not",
                 [state](Values* values) { values->Add("", state().chunk_memory); }});
  registry->Add({"rnbd_server_policy_refusals_total", Type::kCounter, "what",
                 "Sessions that the configuration does not admit, and devices that were not opened",
                 [this](Values* values) {
                   values->Add(MetricLabel("what", "session"), refused_sessions_.load());
                   values->Add(MetricLabel("what", "device"), refused_opens_.load());
                 }});
  struct Counter {
    const char* name;
    const char* help;
    uint64_t rtrs::ServerCounters::*number;
  };
  constexpr Counter kCounters[] = {
      {"rnbd_server_connections_rejected_total", "Connections that were refused",
       &rtrs::ServerCounters::connections_rejected},
      {"rnbd_server_paths_connected_total", "Paths that were connected",
       &rtrs::ServerCounters::paths_connected},
      {"rnbd_server_paths_closed_total", "Paths that were connected and ended",
       &rtrs::ServerCounters::paths_closed},
      {"rnbd_server_paths_abandoned_total", "Paths that ended before they were connected",
       &rtrs::ServerCounters::paths_abandoned},
      {"rnbd_server_sessions_refused_total",
       "Attempts to begin or join a session that were refused",
       &rtrs::ServerCounters::sessions_refused},
      {"rnbd_server_protocol_violations_total", "Paths that were closed for breaking the protocol",
       &rtrs::ServerCounters::protocol_violations},
      {"rnbd_server_clients_timed_out_total", "Paths whose clients gave no sign of life",
       &rtrs::ServerCounters::clients_timed_out},
      {"rnbd_server_fences_total", "Lost paths whose requests a client had ended",
       &rtrs::ServerCounters::fences},
      {"rnbd_server_sessions_taken_over_total",
       "Sessions that another client at the same address took over",
       &rtrs::ServerCounters::sessions_taken_over},
  };
  for (const Counter& counter : kCounters) {
    registry->Add({counter.name, Type::kCounter, "", counter.help,
                   [state, number = counter.number](Values* values) {
                     values->Add("", state().counters.*number);
                   }});
  }
}

}  // namespace rnbd::server
