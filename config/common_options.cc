#include "config/common_options.h"

#include <sched.h>

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "config/units.h"

namespace rnbd::config {
namespace {

constexpr size_t kMaxSessionName = 254;

int AutomaticWorkers() {
  cpu_set_t allowed;
  // A machine with more processors than the set has room for fails the call.
  const int count =
      sched_getaffinity(0, sizeof(allowed), &allowed) == 0 ? CPU_COUNT(&allowed) : kMaxWorkers;
  return std::clamp(count, 1, kMaxWorkers);
}

}  // namespace

void ReadWorkers(MapReader* reader, int* workers) {
  const std::string expected = absl::StrCat("auto or a whole number from 1 to ", kMaxWorkers);
  const absl::optional<std::string> text = reader->Text("workers", expected);
  if (!text || *text == "auto") {
    *workers = AutomaticWorkers();
    return;
  }
  int number = 0;
  if (!absl::SimpleAtoi(*text, &number) || number < 1 || number > kMaxWorkers) {
    reader->AddError("workers", absl::StrCat("expected ", expected, ", found \"", *text, "\""));
    return;
  }
  *workers = number;
}

void ReadHeartbeat(MapReader* reader, HeartbeatOptions* heartbeat) {
  const YamlNode* node = reader->Find("heartbeat");
  if (node == nullptr) return;
  heartbeat->given = true;
  MapReader section(*node, "heartbeat", reader->errors());
  section.ReadDuration("interval", absl::Milliseconds(100), absl::Minutes(1), &heartbeat->interval);
  section.ReadDuration("timeout", absl::Milliseconds(200), absl::Minutes(10), &heartbeat->timeout);
  section.Finish();
  if (heartbeat->timeout >= 2 * heartbeat->interval) return;
  section.AddError(
      "timeout",
      absl::StrCat(DurationToString(heartbeat->timeout),
                   " leaves no time for an answer: expected at least twice the interval of ",
                   DurationToString(heartbeat->interval)));
}

void ReadLog(MapReader* reader, LogConfig* log) {
  const YamlNode* node = reader->Find("log");
  if (node == nullptr) return;
  MapReader section(*node, "log", reader->errors());
  section.ReadChoice<std::string>("level",
                                  {{"trace", "trace"},
                                   {"debug", "debug"},
                                   {"info", "info"},
                                   {"warning", "warning"},
                                   {"error", "error"},
                                   {"critical", "critical"}},
                                  &log->level);
  section.Finish();
}

void ReadMetrics(MapReader* reader, uint16_t default_port, absl::optional<rtrs::Address>* metrics) {
  const absl::optional<std::string> text = reader->Text("metrics", "ADDRESS:PORT");
  if (!text) return;
  const absl::StatusOr<rtrs::Address> address =
      rtrs::ParseServerAddress(rtrs::AddressScheme::kTcp, *text, default_port);
  if (!address.ok()) {
    reader->AddError("metrics", address.status().message());
    return;
  }
  *metrics = *address;
}

std::string SessionNameError(absl::string_view name) {
  if (name.empty()) return "a session's name must not be empty";
  if (name.size() > kMaxSessionName) {
    return absl::StrCat("a session's name may have ", kMaxSessionName, " bytes, this one has ",
                        name.size());
  }
  const size_t bad = name.find_first_of("/.");
  if (bad == absl::string_view::npos) return "";
  return absl::StrCat("a session's name cannot contain '", name.substr(bad, 1), "'");
}

}  // namespace rnbd::config
