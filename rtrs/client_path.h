#ifndef RNBD_RTRS_CLIENT_PATH_H_
#define RNBD_RTRS_CLIENT_PATH_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/ring.h"
#include "common/unique_mapping.h"
#include "rtrs/address.h"
#include "rtrs/client_connection.h"
#include "rtrs/fabric.h"
#include "rtrs/heartbeat.h"
#include "rtrs/messages.h"

namespace rnbd::rtrs {

struct ClientPathSettings {
  absl::Duration connect_timeout;  // for all connections of the path together, and INFO
  absl::Duration reconnect_min;  // wait before the first new attempt, doubled for each further one
  absl::Duration reconnect_max;
  HeartbeatSettings heartbeat;         // with a server of ours
  HeartbeatSettings kernel_heartbeat;  // with any other
};

class ClientPath;

// The session of a path. On the control thread unless said otherwise.
class ClientPathOwner {
 public:
  // The server accepted the first connection of an attempt: the tables to work with, or why this
  // server is not the one that the session knows.
  virtual absl::StatusOr<ClientTables*> OnGeometry(const SessionGeometry& geometry) = 0;
  // Whether any path is connected: then an attempt joins a session that the server knows (section
  // 2.2, first_conn).
  virtual bool HasConnectedPath() const = 0;
  // All connections work, and every lane has its own.
  virtual void OnPathUp(ClientPath* path) = 0;
  // A connected path was lost, or an attempt to connect failed. The next attempt is `retry_in`
  // away; infinite when the path was closed or stopped.
  virtual void OnPathDown(ClientPath* path, bool was_connected, const absl::Status& why,
                          absl::Duration retry_in) = 0;
  // Permits of requests that failed with an earlier connection of the path: the server has let go
  // of their chunks.
  virtual void OnPermitsReturned(const std::vector<uint32_t>& permits) = 0;

  // What the server tells without being asked.
  virtual void OnNews(uint32_t news) = 0;

  // On any lane's thread, before the first request fails with a connected path: see NeedsFence().
  virtual void OnRequestsLost() = 0;
  // Nothing that was lost with earlier connections of the path runs any more on the server.
  virtual void OnFenced() = 0;

  // On the connection's thread: see ClientConnectionOwner.
  virtual void OnConnectionReady(ClientConnection* connection) = 0;
  virtual void OnPermitFree(size_t lane, uint32_t permit) = 0;
  virtual void OnConnectionLost(ClientConnection* connection) = 0;

 protected:
  ~ClientPathOwner() = default;
};

// One path of a client's session: connects all its connections, one after the other (protocol page,
// section 2.2), exchanges INFO, watches the peer by heartbeat, and after a failure takes everything
// down and begins anew.
//
// Lives on the control thread, where its connection 0 runs as well; connection n runs on the ring
// of lane n - 1.
class ClientPath final : private ClientConnectionOwner {
 public:
  enum class State : uint8_t {
    kIdle,
    kConnecting,
    kConnected,
    kDisconnecting,  // until the last connection is down
    kWaiting,        // for the next attempt
    kStopped,        // for Reconnect(): nothing is attempted
    kClosed,
  };

  // `workers` are the rings of the lanes; the control ring comes last among the session's lanes.
  ClientPath(ClientPathOwner* owner, Fabric* fabric, PathAddress address, const Uuid& session_uuid,
             std::string session_name, const ClientPathSettings& settings, Ring* control,
             std::vector<Ring*> workers);
  ~ClientPath();

  // Begins to connect, once.
  void Connect();
  // Takes the path down, and leaves it so until Reconnect(). ClientPathOwner::OnPathDown() comes
  // where it was connecting or connected. Not after Close().
  void Stop();
  // Connects at once, anew where it is connected. EBUSY while it is connecting or going down.
  absl::Status Reconnect();
  // So many attempts in a row may fail before the path is stopped; -1: any number.
  void set_max_reconnect_attempts(int count) { max_reconnect_attempts_ = count; }
  // Takes the path down for good; `closed` runs when no callback will come any more, and may
  // destroy the path.
  void Close(std::function<void()> closed);

  State state() const { return state_; }
  const PathAddress& address() const { return address_; }
  absl::Duration latency() const { return heartbeat_.latency(); }
  // Of the last connection 0 that was established; before the first, what the address says.
  const LocalEnd& local_end() const { return local_end_; }

  // Since the start, or the last reset. Connects that replaced a lost connection, and attempts that
  // failed, as the kernel's stats/reconnects has them.
  PathTraffic traffic() const;
  uint64_t reconnects() const { return reconnects_; }
  uint64_t failed_reconnects() const { return failed_reconnects_; }
  void ResetTraffic();
  void ResetReconnects() { reconnects_ = failed_reconnects_ = 0; }

  // Whether the server may still be at work on requests that were lost with the path. That ends
  // when it accepts this path anew, or has answered a FENCE; with a server that knows no FENCE,
  // when it has had the time to notice.
  bool NeedsFence() const { return !stranded_permits_.empty(); }
  // What the server of the lost requests can do.
  bool server_takes_fences() const { return (features_ & kRecovery) != 0; }
  FenceMessage MakeFence() const;
  // The server has answered `fence`.
  void OnFenceAnswered(const FenceMessage& fence);

 private:
  static bool MayFollow(State from, State to);
  void Enter(State next);

  void StartAttempt();
  absl::Status PrepareAttempt();
  absl::Status AddConnection();
  void Established(ClientConnection* connection, absl::Span<const uint8_t> private_data);
  absl::Status TakeAcceptance(ClientConnection* connection, absl::Span<const uint8_t> private_data);
  absl::Status RegisterMemory();
  absl::Status SendInfoRequest();
  absl::Status TakeInfoResponse(absl::Span<const uint8_t> message);
  void Ready();
  void Fail(const absl::Status& why);
  void Down(ClientConnection* connection, const absl::Status& why);
  void Quiesce();
  void AttemptOver();
  // What follows when the last connection is down.
  enum class WhenDown : uint8_t { kWait, kStop, kConnect };
  WhenDown TakeWhenDown();
  PathTraffic AllTraffic() const;
  void ReturnPermits();
  absl::Duration NextWait();
  void OnTimer();
  std::string MissingStep() const;
  void OnHeartbeatTimer();

  void OnConnectionEstablished(ClientConnection* connection,
                               absl::Span<const uint8_t> private_data) override;
  void OnInfoResponse(ClientConnection* connection, absl::Span<const uint8_t> message) override;
  void OnConnectionReady(ClientConnection* connection) override;
  void OnHeartbeatAck(ClientConnection* connection) override;
  void OnNews(ClientConnection* connection, uint32_t news) override;
  void OnPermitFree(ClientConnection* connection, uint32_t permit) override;
  void OnRequestsLost() override;
  void OnConnectionLost(ClientConnection* connection) override;
  void OnConnectionDown(ClientConnection* connection, const absl::Status& why,
                        absl::Span<const uint8_t> private_data) override;

  ClientPathOwner* const owner_;
  Fabric* const fabric_;
  const PathAddress address_;
  const Uuid session_uuid_;
  const std::string session_name_;
  const ClientPathSettings settings_;
  Ring* const control_;
  const std::vector<Ring*> workers_;
  const Uuid path_uuid_;

  State state_ = State::kIdle;
  uint16_t recon_cnt_ = 0;
  int failed_attempts_ = 0;
  int failed_connects_ = 0;  // in a row
  int max_reconnect_attempts_ = -1;
  WhenDown when_down_ = WhenDown::kWait;
  uint64_t reconnects_ = 0;
  uint64_t failed_reconnects_ = 0;
  bool was_ever_connected_ = false;
  LocalEnd local_end_;
  absl::Status why_;
  std::function<void()> closed_;
  Ring::Timer timer_;
  Ring::Timer heartbeat_timer_;
  HeartbeatSettings heartbeat_settings_;
  Heartbeat heartbeat_;
  PathSignals signals_;
  std::vector<PathCounters> counters_;  // of each lane
  PathTraffic counted_;                 // before the last reset

  // A chunk is not used again while the server may still work in it for a request that failed with
  // its connection: what it reads from disk would spoil the data of a later write. See
  // NeedsFence().
  std::vector<uint32_t> stranded_permits_;
  uint16_t stranded_by_ = 0;  // recon_cnt_ of their attempt
  Ring::Timer permit_timer_;
  // Set by whichever lane is first to fail requests.
  std::atomic<bool> requests_lost_{false};

  // Of the attempt under way or the connected path.
  bool was_connected_ = false;
  bool first_ = true;
  bool info_sent_ = false;
  std::unique_ptr<Domain> domain_;
  Acceptance acceptance_;
  Features features_ = 0;  // of the server
  ClientTables* tables_ = nullptr;
  PathMemory memory_;
  UniqueMapping info_;  // INFO_REQ, then room for INFO_RSP
  Region info_region_;
  size_t connections_up_ = 0;  // not yet reported down
  size_t connections_ready_ = 0;
  std::vector<std::unique_ptr<ClientConnection>> connections_;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_CLIENT_PATH_H_
