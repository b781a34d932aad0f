#ifndef RNBD_SERVER_BLOCK_SERVICE_H_
#define RNBD_SERVER_BLOCK_SERVICE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/logging.h"
#include "common/ring.h"
#include "rtrs/server_handler.h"
#include "server/device_observer.h"
#include "server/device_session.h"
#include "server/live_config.h"
#include "server/policy_opener.h"
#include "server/refused_names.h"
#include "server/server_metrics.h"

namespace rnbd::server {

// What the server does with sessions: decides by the configuration's entries who gets one, and
// gives it a DeviceSession whose devices are opened by the rules of its entry.
class BlockService final : public rtrs::ServerHandler {
 public:
  // `config` and the rings outlive the service, and it outlives its sessions and what they posted
  // to the device thread. `threads.control` is where its sessions come.
  // `observer` and `metrics` outlive them; nullptr: none.
  BlockService(const LiveConfig* config, DeviceSession::Threads threads, DeviceObserver* observer,
               ServerMetrics* metrics);

  // Before the first session: keeps the places of those who had devices open when the last process
  // ended (`state_file`).
  absl::Status KeepPlaces();

  absl::Status MayBegin(const std::string& session_name, const rtrs::Address& client) override;
  // Control thread: the names of sessions that get none.
  RefusedNames* fenced() { return &fenced_; }
  // Any thread: the disks that nobody may open, by their names in the control tree.
  RefusedNames* drained_disks() { return &disks_.drained; }
  // Any thread: others may have what is kept for lost sessions of this name.
  void ForgetPlaces(const std::string& session_name) { disks_.exports.DropKept(session_name); }

  absl::StatusOr<std::unique_ptr<rtrs::ServerSessionHandler>> OnSession(
      const rtrs::ServerSessionInfo& session) override;

 private:
  const LiveConfig* const config_;
  const DeviceSession::Threads threads_;
  DeviceObserver* const observer_;
  ServerMetrics* const metrics_;
  RefusedNames fenced_;
  SharedDisks disks_;
  LogEvery log_refusals_;
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_BLOCK_SERVICE_H_
