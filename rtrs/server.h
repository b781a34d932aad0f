#ifndef RNBD_RTRS_SERVER_H_
#define RNBD_RTRS_SERVER_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/logging.h"
#include "common/ring.h"
#include "rtrs/address.h"
#include "rtrs/fabric.h"
#include "rtrs/messages.h"
#include "rtrs/refusal.h"
#include "rtrs/server_chunks.h"
#include "rtrs/server_handler.h"
#include "rtrs/server_observer.h"
#include "rtrs/server_path.h"
#include "rtrs/server_session_state.h"

namespace rnbd::rtrs {

// What one server gives out at the most; the protocol has no authentication before a session costs
// memory (protocol page, section 10, item 18). All Unix peers count as one address.
struct ServerLimits {
  uint32_t max_sessions = 4096;
  uint32_t max_sessions_per_address = 1024;
  uint32_t max_paths_per_session = 16;
  uint32_t max_connections_per_path = 512;
  uint32_t max_connections = 65536;
  uint32_t max_connections_per_address = 16384;
  uint64_t max_chunk_memory = uint64_t{64} << 30;  // bytes of all sessions' chunks, touched or not
};

struct ServerOptions {
  SessionGeometry geometry;
  ServerLimits limits;
  ServerPathSettings path;
};

// What a server has seen; control thread.
struct ServerCounters {
  uint64_t connections_rejected = 0;
  std::array<uint64_t, kRefusals> connections_rejected_for = {};  // by RejectionNumber()
  uint64_t paths_connected = 0;
  uint64_t paths_closed = 0;     // of those that were connected
  uint64_t paths_abandoned = 0;  // closed before they were connected
  uint64_t sessions_refused = 0;
  uint64_t protocol_violations = 0;
  uint64_t clients_timed_out = 0;
  uint64_t fences = 0;
  uint64_t sessions_taken_over = 0;
};

// The server's end of RTRS: listens, checks who connects (protocol page, section 2.4), and keeps
// sessions and their paths. Everything on the control thread; requests go their way on the workers
// without it. docs/sessions.md tells the whole of it.
class Server final : private ListenHandler, private ServerPathOwner {
 public:
  // `options.geometry` is valid. The rings and the handler outlive the server.
  Server(const ServerOptions& options, Ring* control, std::vector<Ring*> workers,
         ServerHandler* handler);
  // After Shutdown() has called back, or when no listener was ever added.
  ~Server();

  // Is told of every session and path. Before the first one; outlives the server.
  void set_observer(ServerObserver* observer) { observer_ = observer; }

  // From the next session, path and connection on. The layer above is told of it in each session.
  void Reconfigure(const ServerLimits& limits, const ServerPathSettings& path);

  // The address that is really listened on. `fabric` outlives the server.
  absl::StatusOr<Address> Listen(Fabric* fabric, const Address& address);

  // Ends listening, closes every path with `why`, and runs `done` when the last session is gone.
  // Requests that are being worked on delay that until their backend answers.
  void Shutdown(const absl::Status& why, std::function<void()> done);

  // Ends the session of this name; `done` when nothing of it runs any more, its handler is gone and
  // another may have the name: at once where there is none.
  void EndSession(const std::string& name, const absl::Status& why, std::function<void()> done);
  // The same, but the requests that have come are answered first, for `bound` at most.
  void DrainSession(const std::string& name, const absl::Status& why, absl::Duration bound,
                    std::function<void()> done);
  // Refuses new sessions, and drains those that there are; `done` when none is left.
  void Drain(const absl::Status& why, absl::Duration bound, std::function<void()> done);
  bool drained() const { return drained_; }
  // Takes sessions again.
  void Undrain() { drained_ = false; }

  const ServerCounters& counters() const { return counters_; }
  size_t session_count() const { return sessions_.size(); }
  uint64_t chunk_memory() const { return chunk_memory_; }  // bytes given out
  // Those whose names are known, and the client that each began with.
  std::vector<std::pair<std::string, Address>> sessions() const;
  // The same sessions, and how many of their paths are connected.
  std::vector<std::pair<std::string, uint64_t>> session_paths() const;

 private:
  struct Session {
    Uuid uuid;
    std::string name;  // empty until the first INFO_REQ
    Address client;
    Features features = 0;     // of its client
    SessionGeometry geometry;  // what its client can use of options_.geometry
    std::unique_ptr<ServerChunks> chunks;
    std::unique_ptr<ServerSessionHandler> handler;
    std::vector<ServerPath*> paths;
    ServerSessionState state = ServerSessionState::kEstablishing;
    std::vector<std::function<void()>> when_gone;

    bool closing() const { return state == ServerSessionState::kClosing; }
    void Enter(ServerSessionEvent event) { state = NextServerSessionState(state, event); }
  };

  // What the clients at one address, or all, have in use.
  struct Usage {
    uint32_t sessions = 0;
    uint32_t connections = 0;
  };

  void OnIncoming(std::unique_ptr<IncomingConnection> incoming) override;
  absl::Status Admit(IncomingConnection* incoming);
  absl::Status CheckConnectionLimits(const ConnectRequest& request, const Address& client);
  absl::StatusOr<Session*> FindOrAddSession(const ConnectRequest& request, const Address& client);
  absl::StatusOr<ServerPath*> FindOrAddPath(Session* session, const ConnectRequest& request,
                                            IncomingConnection* incoming);
  absl::StatusOr<ServerPath*> FindPath(ServerPath* path, const ConnectRequest& request,
                                       const Address& client);

  absl::StatusOr<ServerChunks*> OnInfo(ServerPath* path, const std::string& session_name) override;
  absl::StatusOr<ServerChunks*> JoinOrOpenSession(ServerPath* path, const std::string& name);
  absl::Status OpenSession(Session* session, const std::string& name);
  absl::Status ClaimName(const Session& session, const std::string& name);
  void OnFence(ServerPath* from, const FenceMessage& fence,
               std::function<void(int error)> done) override;
  void OnPathConnected(ServerPath* path) override;
  void OnPathClosing(ServerPath* path, bool was_connected, const absl::Status& why) override;
  void OnPathClosed(ServerPath* path) override;
  Session* FindNamed(const std::string& name);
  static void DrainPaths(Session* session, const absl::Status& why, absl::Duration bound);
  void ForgetSessionIfEmpty(const Uuid& uuid);
  void TellIfEmpty();
  void CountUsage(const Address& client, int sessions, int connections);
  std::string Describe(const ServerPath& path) const;

  ServerOptions options_;
  Ring* const control_;
  const std::vector<Ring*> workers_;
  ServerHandler* const handler_;
  ServerObserver* observer_ = nullptr;
  ServerCounters counters_;
  LogEvery log_rejections_;
  LogEvery log_violations_;
  LogEvery log_abandoned_;

  std::vector<std::unique_ptr<Listener>> listeners_;
  absl::flat_hash_map<Uuid, std::unique_ptr<Session>> sessions_;  // by paths_uuid
  absl::flat_hash_map<std::string, Uuid> session_names_;
  absl::flat_hash_map<Uuid, std::unique_ptr<ServerPath>> paths_;  // by sess_uuid
  // What waits for the end of a path, by its sess_uuid.
  absl::flat_hash_map<Uuid, std::vector<std::function<void(int error)>>> fences_;
  Usage usage_;
  absl::flat_hash_map<std::string, Usage> usage_by_address_;
  uint64_t chunk_memory_ = 0;
  size_t next_worker_ = 0;
  bool shutting_down_ = false;
  bool drained_ = false;
  std::vector<std::function<void()>> when_empty_;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_SERVER_H_
