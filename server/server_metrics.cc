#include "server/server_metrics.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "rtrs/refusal.h"

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

// Whether a session may be refused for it, not only a device.
bool IsOfSession(RefusalReason reason) {
  return reason == RefusalReason::kNoEntry || reason == RefusalReason::kAddress ||
         reason == RefusalReason::kFenced;
}

constexpr char kOthers[] = "(others)";

std::string DeviceLabels(absl::string_view session, absl::string_view device) {
  return absl::StrCat(MetricLabel("session", session), ",", MetricLabel("device", device));
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
    errors_.Add(error);
  }
}

ServerMetrics::ServerMetrics(size_t workers) : start_(absl::Now()) {
  for (size_t i = 0; i < workers; ++i) workers_.push_back(std::make_unique<Worker>());
}

std::shared_ptr<DeviceCounters> ServerMetrics::AddDevice(const std::string& session,
                                                         const std::string& device) {
  auto counters = std::make_shared<DeviceCounters>(session, device, workers_.size());
  absl::MutexLock lock(&devices_mutex_);
  std::erase_if(devices_, [](const auto& each) { return each.expired(); });
  devices_.push_back(counters);
  return counters;
}

// A device that is taken away may be open anew before the last request of the old one is done.
std::map<std::string, DeviceCounters::Sums> ServerMetrics::DeviceSums() const {
  std::map<std::string, DeviceCounters::Sums> by_labels;
  absl::MutexLock lock(&devices_mutex_);
  for (const auto& each : devices_) {
    const std::shared_ptr<DeviceCounters> counters = each.lock();
    if (counters == nullptr) continue;
    std::string labels = DeviceLabels(counters->session(), counters->device());
    const bool named = by_labels.size() < kMostNamed || by_labels.contains(labels);
    if (!named) labels = DeviceLabels(kOthers, kOthers);
    by_labels[labels].Add(counters->sums());
  }
  return by_labels;
}

void ServerMetrics::AddDevices(MetricRegistry* registry) const {
  using Sums = DeviceCounters::Sums;
  struct Kinds {
    const char* name;
    const char* help;
    std::array<uint64_t, DeviceCounters::kKinds> Sums::*numbers;
    size_t count;
  };
  constexpr Kinds kByOperation[] = {
      {"rnbd_server_device_requests_total", "Requests of a device that are done", &Sums::requests,
       DeviceCounters::kKinds},
      {"rnbd_server_device_bytes_total", "Bytes of those that succeeded", &Sums::bytes,
       DeviceCounters::kOther},
  };
  static constexpr const char* kNames[] = {"read", "write", "other"};
  for (const Kinds& family : kByOperation) {
    registry->Add({family.name, Type::kCounter, "session,device,operation", family.help,
                   [this, family](Values* values) {
                     for (const auto& [labels, sums] : DeviceSums()) {
                       for (size_t kind = 0; kind < family.count; ++kind) {
                         values->Add(
                             absl::StrCat(labels, ",", MetricLabel("operation", kNames[kind])),
                             (sums.*family.numbers)[kind]);
                       }
                     }
                   }});
  }
  struct Number {
    const char* name;
    Type type;
    const char* help;
    uint64_t (*of)(const Sums& sums);
  };
  constexpr Number kNumbers[] = {
      {"rnbd_server_device_errors_total", Type::kCounter, "Requests of a device that failed",
       [](const Sums& sums) { return sums.errors; }},
      {"rnbd_server_device_requests_at_work", Type::kGauge,
       "Requests of a device that are at its disk",
       [](const Sums& sums) { return sums.at_work(); }},
      {"rnbd_server_device_requests_waiting", Type::kGauge,
       "Requests of a device that wait for its limits or its session's",
       [](const Sums& sums) { return sums.waiting(); }},
  };
  for (const Number& number : kNumbers) {
    registry->Add({number.name, number.type, "session,device", number.help,
                   [this, of = number.of](Values* values) {
                     for (const auto& [labels, sums] : DeviceSums()) values->Add(labels, of(sums));
                   }});
  }
  struct Time {
    const char* name;
    const char* help;
    uint64_t Sums::*ns;
  };
  constexpr Time kTimes[] = {
      {"rnbd_server_device_request_seconds_total",
       "Time that requests of a device took at its disk", &Sums::ns},
      {"rnbd_server_device_wait_seconds_total",
       "Time that requests of a device have waited for limits", &Sums::wait_ns},
  };
  for (const Time& time : kTimes) {
    registry->Add({time.name, Type::kCounter, "session,device", time.help,
                   [this, ns = time.ns](Values* values) {
                     for (const auto& [labels, sums] : DeviceSums()) {
                       values->Add(labels, absl::ToDoubleSeconds(absl::Nanoseconds(sums.*ns)));
                     }
                   }});
  }
}

void ServerMetrics::Register(std::function<State()> state,
                             std::function<SessionPaths()> session_paths,
                             MetricRegistry* registry) const {
  AddRequests(registry);
  AddDevices(registry);
  AddState(state, registry);
  registry->Add({"rnbd_server_session_paths", Type::kGauge, "session",
                 "Paths of a session that are connected",
                 [paths = std::move(session_paths)](Values* values) {
                   std::map<std::string, uint64_t> by_name;
                   for (const auto& [name, count] : paths()) {
                     const bool named = by_name.size() < kMostNamed;
                     by_name[named ? name : kOthers] += count;
                   }
                   for (const auto& [name, count] : by_name) {
                     values->Add(MetricLabel("session", name), count);
                   }
                 }});
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
                   for (size_t i = 0; i < ErrorCells::kErrors; ++i) {
                     uint64_t count = 0;
                     for (const auto& worker : workers_) count += worker->errors_.count(i);
                     if (ErrorCells::HasSeries(i, count)) values->Add(ErrorLabel(i), count);
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
  registry->Add({"rnbd_server_policy_refusals_total", Type::kCounter, "what,reason",
                 "Sessions that were not admitted, and devices that were not opened",
                 [this](Values* values) {
                   for (size_t i = 0; i < kRefusalReasons; ++i) {
                     const std::string reason =
                         MetricLabel("reason", RefusalReasonName(static_cast<RefusalReason>(i)));
                     const auto labels = [&](const char* what) {
                       return absl::StrCat(MetricLabel("what", what), ",", reason);
                     };
                     if (IsOfSession(static_cast<RefusalReason>(i))) {
                       values->Add(labels("session"), refused_sessions_[i].load());
                     }
                     values->Add(labels("device"), refused_opens_[i].load());
                   }
                 }});
  registry->Add({"rnbd_server_connections_rejected_total", Type::kCounter, "reason",
                 "Connections that were refused", [state](Values* values) {
                   const auto rejected = state().counters.connections_rejected_for;
                   for (size_t i = 0; i < rejected.size(); ++i) {
                     values->Add(MetricLabel("reason", rtrs::RejectionName(i)), rejected[i]);
                   }
                 }});
  struct Counter {
    const char* name;
    const char* help;
    uint64_t rtrs::ServerCounters::*number;
  };
  constexpr Counter kCounters[] = {
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
