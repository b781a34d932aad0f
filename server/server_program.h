#ifndef RNBD_SERVER_SERVER_PROGRAM_H_
#define RNBD_SERVER_SERVER_PROGRAM_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/attribute_tree.h"
#include "common/blocking_calls.h"
#include "common/metrics.h"
#include "common/metrics_http.h"
#include "common/ring.h"
#include "config/server_config.h"
#include "rtrs/all_fabrics.h"
#include "rtrs/server.h"
#include "rtrs/stream_socket.h"
#include "server/admin_socket.h"
#include "server/block_service.h"
#include "server/control_mount.h"
#include "server/control_tree.h"
#include "server/live_config.h"
#include "server/server_metrics.h"
#include "server/session_control.h"

namespace rnbd::server {

// The threads of a server and what runs on them, from the configuration to the last session's end.
// On the main thread.
class ServerProgram {
 public:
  // `config` is that of `file`.
  ServerProgram(std::string file, config::ServerConfig config)
      : file_(std::move(file)), config_(std::move(config)) {}

  // Stop() must follow, also where this fails.
  absl::Status Start();

  // Every event loop that waits for no disk, after Start().
  std::vector<Ring*> rings() const;

  // Reads the file again, a moment later, and does what it says, or nothing; logs what is different
  // or wrong.
  void Reload() {
    BeginReload([](const absl::Status&) {});
  }

  // Ends every session. False when that took longer than the configuration allows: then the object
  // cannot be destroyed.
  bool Stop();

 private:
  absl::Status Listen();
  absl::Status StartAdministration();
  absl::Status AddReloadAttribute();
  absl::Status ServeMetrics(const rtrs::Address& address);
  void BeginReload(AttributeTree::StoreDone done);
  absl::Status Apply(const absl::StatusOr<config::ServerConfig>& file);
  void WarnOfStrangers() const;

  // Devices that are being opened at a time: more than disks that hang at once.
  static constexpr size_t kMostOpening = 32;
  // Sessions whose disks are looked at for growth at a time.
  static constexpr size_t kMostLooking = 8;

  const std::string file_;
  LiveConfig config_;
  std::string last_reload_ = "nothing was reloaded yet\n";  // control thread
  // Destroyed from the last to the first: the sessions are gone before the threads end; the device
  // thread closes what they left, and tells the control tree so, before these go.
  std::unique_ptr<rtrs::AllFabrics> fabrics_;
  AttributeTree attributes_{
      [this](std::function<void()> task) { control_->ring()->Post(std::move(task)); }};
  ControlTree control_tree_{&attributes_};
  std::unique_ptr<ServerMetrics> metrics_;  // nullptr: nothing is counted
  MetricRegistry metric_registry_;          // control thread
  std::unique_ptr<BlockService> service_;
  std::unique_ptr<RingThread> control_;
  std::unique_ptr<RingThread> device_thread_;
  BlockingCalls opening_{kMostOpening};
  BlockingCalls looking_{kMostLooking};
  std::vector<std::unique_ptr<RingThread>> workers_;
  std::unique_ptr<rtrs::Server> server_;
  std::unique_ptr<SessionControl> session_control_;
  std::unique_ptr<AdminSocket> admin_socket_;
  std::unique_ptr<ControlMount> control_mount_;
  std::unique_ptr<rtrs::ListeningSocket> metrics_socket_;
  std::unique_ptr<MetricsHttp> metrics_http_;
  BlockingCalls reloading_{1};  // one after the other
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_SERVER_PROGRAM_H_
