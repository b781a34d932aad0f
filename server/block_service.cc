#include "server/block_service.h"

#include <cerrno>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/status.h"
#include "server/kept_places.h"
#include "server/refusal_reason.h"
#include "server/session_policy.h"

namespace rnbd::server {
namespace {

ExportTable::Options ExportOptions(const config::ServerConfig& config) {
  ExportTable::Options options;
  options.grace_period = config.grace_period;
  if (config.state_file.empty()) return options;
  options.on_writers = [path = config.state_file](const std::vector<ExportTable::Holder>& writers) {
    if (absl::Status saved = SavePlaces(path, writers); !saved.ok()) {
      spdlog::error("{}: after a restart of the server the writers' places are not kept", saved);
    }
  };
  return options;
}

}  // namespace

BlockService::BlockService(const LiveConfig* config, DeviceSession::Threads threads,
                           DeviceObserver* observer, ServerMetrics* metrics)
    : config_(config),
      threads_(std::move(threads)),
      observer_(observer),
      metrics_(metrics),
      disks_(ExportOptions(*config->Get())),
      log_refusals_(std::chrono::seconds(5)) {}

absl::Status BlockService::KeepPlaces() {
  const auto config = config_->Get();
  if (config->state_file.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(std::vector<ExportTable::Holder> writers, LoadPlaces(config->state_file));
  for (ExportTable::Holder& writer : writers) {
    spdlog::info("session {} had device {} open ({}): it is kept for it for {}",
                 writer.session_name, writer.device_name, AccessModeName(writer.mode),
                 absl::FormatDuration(config->grace_period));
    disks_.exports.Keep(std::move(writer));
  }
  return absl::OkStatus();
}

absl::Status BlockService::MayBegin(const std::string& session_name, const rtrs::Address& client) {
  if (fenced_.Contains(session_name, absl::Now())) {
    if (metrics_ != nullptr) metrics_->CountRefusedSession(RefusalReason::kFenced);
    return ErrnoToStatus(EACCES,
                         absl::StrCat("session \"", session_name, "\" is fenced at the server"));
  }
  const auto config = config_->Get();
  const absl::Status admitted = DecideSession(*config, session_name, client).status();
  if (admitted.ok()) return admitted;
  if (metrics_ != nullptr) metrics_->CountRefusedSession(RefusalReasonOf(admitted));
  if (log_refusals_.Allow()) {
    spdlog::warn("refused {} ({} more not shown)", admitted, log_refusals_.TakeSuppressed());
  }
  // A stranger learns that it is not admitted, not what would have to stand in the file.
  return ErrnoToStatus(StatusToErrno(admitted),
                       absl::StrCat("the server's configuration does not admit session \"",
                                    session_name, "\" from ", client.ToString()));
}

absl::StatusOr<std::unique_ptr<rtrs::ServerSessionHandler>> BlockService::OnSession(
    const rtrs::ServerSessionInfo& session) {
  auto opener = std::make_unique<PolicyOpener>(config_, session.name, session.client, &disks_);
  const auto config = config_->Get();
  const DeviceSessionSettings settings = {.stuck_after = config->stuck_after,
                                          .resize_interval = config->resize_interval};
  return std::make_unique<DeviceSession>(session, std::move(opener), threads_, settings, observer_,
                                         metrics_);
}

}  // namespace rnbd::server
