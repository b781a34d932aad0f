#ifndef RNBD_RTRS_CLIENT_SESSION_H_
#define RNBD_RTRS_CLIENT_SESSION_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/ring.h"
#include "common/unique_mapping.h"
#include "rtrs/address.h"
#include "rtrs/client_path.h"
#include "rtrs/client_request.h"
#include "rtrs/client_session_state.h"
#include "rtrs/fabric.h"
#include "rtrs/path_policy.h"
#include "rtrs/permits.h"

namespace rnbd::rtrs {

struct ClientSessionOptions {
  std::string name;                // section 2.8: no '/' and no '.', at most 254 characters
  std::vector<PathAddress> paths;  // at least one
  // Areas that data of requests lies in; registered with every path, writable by the server. At
  // most ClientSession::kMaxAreas.
  std::vector<absl::Span<uint8_t>> memory;
  ClientPathSettings path;
  PathPolicy policy = PathPolicy::kMinInflight;
};

// Who is told of the session's fortune, on the control thread. The session itself logs each path
// that connects or is lost.
class ClientSessionHandler {
 public:
  // The first path came up. Requests may be submitted on every lane; devices must be opened again,
  // for the server knows none of them.
  virtual void OnSessionUp() = 0;
  // The last path went down. Every request in flight on it has failed with ECONNABORTED.
  virtual void OnSessionDown(const absl::Status& why) = 0;
  // Requests that failed with ECONNABORTED may be submitted again, those of them that were sent
  // only when fenced(): a lost path was fenced, or a further path came up.
  virtual void OnResendable() = 0;
  // An attempt to connect a path failed; the next one is `retry_in` away.
  virtual void OnConnectFailed(const PathAddress& path, const absl::Status& why,
                               absl::Duration retry_in) = 0;
  // A path came up, went down, was added, or has gone.
  virtual void OnPathsChanged() {}
  // What the server's layer above tells ours without being asked; perhaps more than once.
  virtual void OnNews(uint32_t) {}

 protected:
  ~ClientSessionHandler() = default;
};

// The client's end of a session: permits, paths, and the way of each request from a thread to a
// connection of the same thread and back.
//
// Threads are numbered lanes: the workers 0 to n-1, and the control thread, n, where connecting,
// heartbeats and messages of the session itself run over connection 0 of each path. A request is
// completed on the thread that submitted it; between the two there is no lock and no allocation.
// docs/sessions.md tells the whole of it.
class ClientSession final : private ClientPathOwner {
 public:
  static constexpr size_t kMaxWorkers = Permits::kMaxTakers - 1;
  static constexpr size_t kMaxAreas = 4;

  // Any thread; nothing happens before Start(). `fabric`, rings, `handler` and memory outlive the
  // session.
  static absl::StatusOr<std::unique_ptr<ClientSession>> Create(ClientSessionOptions options,
                                                               Fabric* fabric, Ring* control,
                                                               std::vector<Ring*> workers,
                                                               ClientSessionHandler* handler);
  // Control thread, after Close() has called back, or before Start().
  ~ClientSession();

  // Control thread: connects all paths, and connects again those that fail, until Close().
  void Start();

  // Control thread, once: disconnects every path. Requests still in flight fail with ECONNABORTED
  // on their own threads before `done` runs on the control thread; `done` may destroy the session.
  // Nothing may be submitted from then on.
  void Close(std::function<void()> done);

  // Control thread: connects a further path. EEXIST if the session has it.
  absl::Status AddPath(const PathAddress& address);
  // The same, and tells how that ended, later on the control thread: a path that is not connected
  // is taken away again. A few attempts are made where the server may not be done with an earlier
  // path of these addresses. ESHUTDOWN where Close() came first.
  void AddPath(const PathAddress& address, std::function<void(const absl::Status&)> done);
  // Control thread: takes a path away; requests in flight on it fail with ECONNABORTED. ENOENT if
  // the session has no such path, EBUSY if it has no other.
  absl::Status RemovePath(const PathAddress& address);

  // Control thread.
  ClientSessionState state() const { return state_; }

  // Control thread. Those that were not taken away; the one of this address, or nullptr. Pointers
  // are good until the turn ends.
  std::vector<ClientPath*> Paths() const;
  ClientPath* FindPath(const PathAddress& address) const;
  // Control thread: takes a path down, and leaves it so until ReconnectPath(). `done` runs later on
  // the control thread, when it is down.
  void DisconnectPath(const PathAddress& address, std::function<void(const absl::Status&)> done);
  // Control thread: connects a path at once, anew where it is connected, and tells how the attempt
  // ended, or a few where the server may not be done with the path's earlier connections. EBUSY
  // while it is connecting already.
  void ReconnectPath(const PathAddress& address, std::function<void(const absl::Status&)> done);

  // Control thread: so many attempts in a row to connect a path may fail before it is left
  // disconnected; -1: any number.
  int max_reconnect_attempts() const { return max_reconnect_attempts_; }
  void set_max_reconnect_attempts(int count);
  // Any thread; in force for the next request.
  PathPolicy policy() const { return policy_.load(std::memory_order_relaxed); }
  void set_policy(PathPolicy policy) { policy_.store(policy, std::memory_order_relaxed); }

  // On the thread of `lane`: sends the request over a connected path as soon as it has a permit.
  // Without a connected path it is done with ECONNABORTED. May complete within the call.
  //
  // A request that failed with ECONNABORTED may still be at work on the server. Sent again at once,
  // it could be acknowledged, be followed by another write of the same place, and then by its own
  // first copy. So whoever sends it again waits until fenced().
  void Submit(size_t lane, ClientRequest* request);

  size_t control_lane() const { return workers_.size(); }
  size_t worker_count() const { return workers_.size(); }

  // Any thread. Of the session once it was up; later connections must agree, but for max_io_size,
  // which may be larger. Before, a queue depth of 0.
  SessionGeometry geometry() const;
  bool connected() const { return connected_paths() > 0; }
  // Any thread: permits for workers that nobody holds, at about this moment; 0 before the session
  // was up.
  uint32_t free_permits() const;
  // Control thread, while connected: whether the server does what kRecovery says.
  bool server_has_recovery() const;
  // Any thread: nothing runs any more on the server of the requests that this thread has seen fail
  // with ECONNABORTED so far. OnResendable() comes when this turns true.
  bool fenced() const { return unfenced_paths_.load(std::memory_order_acquire) == 0; }
  int connected_paths() const { return connected_paths_.load(std::memory_order_acquire); }
  const std::string& name() const { return options_.name; }

 private:
  // What one thread needs. Touched by that thread only.
  struct alignas(64) Lane {
    Ring* ring = nullptr;
    std::vector<ClientConnection*> connections;  // one of each connected path
    size_t last_chosen = 0;                      // index among them, for kRoundRobin
    // Of each of them, in flight at the same time.
    uint32_t max_in_flight = 0;
    // Requests without a permit, in order.
    ClientRequest* first_waiting = nullptr;
    ClientRequest* last_waiting = nullptr;
    // Permits that went from one request of this lane straight to the next, since another lane had
    // the chance to get one.
    uint32_t permits_kept = 0;
  };

  // A path that was given up, and the FENCE for what was lost with it.
  class FenceRequest;
  struct Path {
    std::unique_ptr<ClientPath> path;
    std::unique_ptr<FenceRequest> fence;
    bool removed = false;
    // Who waits for the end of an attempt, and for the path to be stopped.
    std::function<void(const absl::Status&)> when_attempted;
    int attempts_left = 0;  // that may fail before
    std::function<void(const absl::Status&)> when_stopped;
  };

  ClientSession(ClientSessionOptions options, Fabric* fabric, Ring* control,
                std::vector<Ring*> workers, ClientSessionHandler* handler);

  absl::StatusOr<ClientTables*> OnGeometry(const SessionGeometry& geometry) override;
  bool HasConnectedPath() const override;
  void OnPathUp(ClientPath* path) override;
  void OnPathDown(ClientPath* path, bool was_connected, const absl::Status& why,
                  absl::Duration retry_in) override;
  void OnPermitsReturned(const std::vector<uint32_t>& permits) override;
  void OnNews(uint32_t news) override;
  void OnRequestsLost() override;
  void OnFenced() override;
  void OnConnectionReady(ClientConnection* connection) override;
  void OnPermitFree(size_t lane, uint32_t permit) override;
  void OnConnectionLost(ClientConnection* connection) override;

  bool closing() const { return state_ == ClientSessionState::kClosing; }
  void Advance(ClientSessionEvent event) { state_ = NextClientSessionState(state_, event); }
  size_t AttemptsUnderWay() const;
  Path* Entry(const ClientPath* path);
  Path* EntryOf(const PathAddress& address);
  void Tell(std::function<void(const absl::Status&)>* waiter, const absl::Status& status);
  absl::Status NoPath(const PathAddress& address) const;
  void ConnectIdlePath();
  Path MakePath(const PathAddress& address);
  void SendFences();
  void ForgetRemovedPaths();
  void Quiesce();
  static bool HasRoom(const Lane& lane);
  ClientConnection* ChooseConnection(Lane* lane) const;
  static bool IsBetter(PathPolicy policy, const ClientConnection& one,
                       const ClientConnection& other);
  void Wait(Lane* lane, ClientRequest* request);
  ClientRequest* NextWaiting(Lane* lane);
  bool SendWaiting(Lane* lane, uint32_t permit);
  void ServeWaiting(size_t lane);
  void FailWaiting(Lane* lane);
  void UsePermit(size_t lane, uint32_t permit);
  void GivePermit(size_t lane, uint32_t permit);
  bool Fits(const ClientRequest& request) const;

  const ClientSessionOptions options_;
  Fabric* const fabric_;
  Ring* const control_;
  const std::vector<Ring*> workers_;
  ClientSessionHandler* const handler_;
  const Uuid uuid_;

  std::vector<Lane> lanes_;
  std::vector<Path> paths_;
  std::atomic<int> connected_paths_{0};
  std::atomic<int> unfenced_paths_{0};
  std::atomic<PathPolicy> policy_;
  int max_reconnect_attempts_ = -1;
  size_t paths_to_close_ = 0;
  std::function<void()> closed_;

  ClientSessionState state_ = ClientSessionState::kIdle;

  // Made when a server has accepted; for good once the session was up.
  UniqueMapping headers_;
  std::unique_ptr<ClientTables> tables_;
  std::unique_ptr<Permits> permits_;
  // What others may see of tables_: nothing before the session was up.
  std::atomic<const ClientTables*> published_tables_{nullptr};
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_CLIENT_SESSION_H_
