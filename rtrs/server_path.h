#ifndef RNBD_RTRS_SERVER_PATH_H_
#define RNBD_RTRS_SERVER_PATH_H_

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
#include "rtrs/fabric.h"
#include "rtrs/heartbeat.h"
#include "rtrs/messages.h"
#include "rtrs/path_counters.h"
#include "rtrs/server_chunks.h"
#include "rtrs/server_connection.h"

namespace rnbd::rtrs {

class ServerPath;

// The server of a path, on the control thread.
class ServerPathOwner {
 public:
  // All connections are there and the client says who it is: the session's chunks, or why the path
  // is refused.
  virtual absl::StatusOr<ServerChunks*> OnInfo(ServerPath* path,
                                               const std::string& session_name) = 0;
  // The client has given up a path of the session of `path`, and all that came over it: `done`, on
  // this thread, when nothing of it runs any more, with 0 or a positive errno.
  virtual void OnFence(ServerPath* path, const FenceMessage& fence,
                       std::function<void(int error)> done) = 0;
  // INFO_REQ is being answered.
  virtual void OnPathConnected(ServerPath* path) = 0;
  // The path is closing: nothing more is sent, requests may still be worked on.
  virtual void OnPathClosing(ServerPath* path, bool was_connected, const absl::Status& why) = 0;
  // The last call: the path can be destroyed, though not within this call.
  virtual void OnPathClosed(ServerPath* path) = 0;

 protected:
  ~ServerPathOwner() = default;
};

struct ServerPathSettings {
  // From the first connection to INFO_REQ.
  absl::Duration establishment_timeout;
  HeartbeatSettings heartbeat;         // with a client of ours
  HeartbeatSettings kernel_heartbeat;  // with any other
  // Over fabrics that have windows, a client can write to a chunk only while no request is in it.
  bool always_invalidate = false;
};

// One path of a session on the server (protocol page, sections 2.4 to 2.8 and 6.3). Lives on the
// control thread; its connections live on the workers.
class ServerPath final : private ServerConnectionOwner {
 public:
  enum class State : uint8_t {
    kConnecting,  // until INFO_REQ was answered
    kConnected,
    kClosing,  // until the last request is done
    kClosed,
  };

  // The path that `request`, the first of its connections to come, begins.
  ServerPath(ServerPathOwner* owner, const ConnectRequest& request, Address client, Address server,
             const SessionGeometry& geometry, const ServerPathSettings& settings, Ring* control,
             std::vector<Ring*> workers, size_t first_worker);
  ~ServerPath();

  // Accepts a further connection. A failure has the errno to reject it with (section 2.4, check 7
  // and 10); the first one brings the path's memory.
  absl::Status AddConnection(const ConnectRequest& request, IncomingConnection* incoming);

  // Takes the path down.
  void Close(const absl::Status& why);

  // Takes no more requests, and the path down when those that it has taken are answered, or when
  // `bound` has passed.
  void Drain(const absl::Status& why, absl::Duration bound);

  // Sends NEWS, which the client takes; nothing where the path is not connected.
  void SendNews(uint32_t news);

  State state() const { return state_; }
  bool closing() const { return state_ == State::kClosing || state_ == State::kClosed; }
  // Connections that were accepted ever, and those of them that are not quiet yet.
  size_t connections_seen() const { return connections_seen_; }
  size_t connections_open() const { return connections_open_; }
  const Uuid& uuid() const { return uuid_; }
  const Uuid& session_uuid() const { return session_uuid_; }
  uint16_t recon_cnt() const { return recon_cnt_; }
  const Address& client() const { return client_; }
  const Address& server() const { return server_; }
  // Where the client's path ends on this machine; known from when the path is connected.
  const LocalEnd& local_end() const { return local_end_; }

  // What has come over it since it was connected or the numbers were reset. Nothing fails over
  // here.
  PathTraffic traffic() const;
  void ResetTraffic();

 private:
  static bool MayFollow(State from, State to);
  void Enter(State next);
  absl::Status MayAdd(const ConnectRequest& request) const;
  void TakeInfoRequest(const InfoRequest& message);
  absl::Status AnswerInfoRequest(const InfoRequest& message);
  absl::Status CreateNextKeys(uint32_t count);
  void OnEstablishmentTimer();
  void OnHeartbeatTimer();
  void OnDrainTimer();
  void Quiesce();
  PathTraffic AllTraffic() const;

  void OnInfoRequest(ServerConnection* connection, const InfoRequest& message) override;
  void OnFence(ServerRequest* request, const FenceMessage& message) override;
  void OnConnectionDrained(ServerConnection* connection) override;
  void OnConnectionLost(ServerConnection* connection, const absl::Status& why) override;
  void OnConnectionQuiet(ServerConnection* connection) override;

  ServerPathOwner* const owner_;
  const Uuid uuid_;
  const Uuid session_uuid_;
  const uint16_t recon_cnt_;
  const Address client_;
  const Address server_;
  const SessionGeometry geometry_;
  const ServerPathSettings settings_;
  Ring* const control_;
  const std::vector<Ring*> workers_;
  const size_t first_worker_;

  State state_ = State::kConnecting;
  ServerPathState shared_;
  LocalEnd local_end_;
  PathTraffic counted_;  // before the last reset
  std::unique_ptr<Domain> domain_;
  // By cid; empty where none has come yet.
  std::vector<std::unique_ptr<ServerConnection>> connections_;
  size_t connections_seen_ = 0;
  size_t connections_open_ = 0;
  UniqueMapping info_response_;
  bool windows_ = false;
  UniqueMapping next_keys_;
  Ring::Timer establishment_timer_;
  Ring::Timer heartbeat_timer_;
  Ring::Timer drain_timer_;
  absl::Status drained_for_;
  size_t undrained_ = 0;  // connections, after Drain()
  const HeartbeatSettings heartbeat_settings_;
  Heartbeat heartbeat_;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_SERVER_PATH_H_
