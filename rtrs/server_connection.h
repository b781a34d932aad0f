#ifndef RNBD_RTRS_SERVER_CONNECTION_H_
#define RNBD_RTRS_SERVER_CONNECTION_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/ring.h"
#include "rtrs/fabric.h"
#include "rtrs/immediate.h"
#include "rtrs/messages.h"
#include "rtrs/path_counters.h"
#include "rtrs/server_chunks.h"
#include "rtrs/server_request.h"

namespace rnbd::rtrs {

class ServerConnection;

// What the connections of one path share.
struct ServerPathState {
  // Set when the path is connected; no request is taken before.
  std::atomic<ServerChunks*> chunks{nullptr};
  // Set whenever something arrives, for the path's heartbeat.
  std::atomic<bool> heard{false};
  // The rest is constant once `chunks` is set. Region::local_key of the chunks:
  uint32_t chunks_key = 0;
  // With always_invalidate each chunk is a window, open while no request is in it, and each answer
  // brings the next key. One message for each chunk, and the Region::local_key of them; else empty.
  absl::Span<RkeyResponse> next_keys;
  uint32_t next_keys_key = 0;
  bool has_windows() const { return !next_keys.empty(); }
  // The client has said that it may send FENCE. Constant from the path's beginning.
  bool may_fence = false;
};

// The path of a connection. All calls come on the connection's thread.
class ServerConnectionOwner {
 public:
  // INFO_REQ: a copy of the message.
  virtual void OnInfoRequest(ServerConnection* connection, const InfoRequest& message) = 0;
  // FENCE: `request`, which is to be completed on this thread when it is done, brings `message`.
  virtual void OnFence(ServerRequest* request, const FenceMessage& message) = 0;
  // After Drain(): every request that it has taken is answered.
  virtual void OnConnectionDrained(ServerConnection* connection) = 0;
  // The connection is lost; requests may still be worked on.
  virtual void OnConnectionLost(ServerConnection* connection, const absl::Status& why) = 0;
  // The last call: it is lost and no request of it is being worked on any more. It may be destroyed
  // after this call.
  virtual void OnConnectionQuiet(ServerConnection* connection) = 0;

 protected:
  ~ServerConnectionOwner() = default;
};

// One connection of a server's path (protocol page, section 3): takes requests out of chunks and
// sends the answers.
//
// Made, prepared and destroyed on the control thread; from Accept() on, everything is on the thread
// of its ring.
class ServerConnection final : public ConnectionHandler {
 public:
  ServerConnection(uint16_t cid, Ring* ring, size_t worker, ServerConnectionOwner* owner,
                   ServerPathState* path);

  // How much the fabric's connection must hold: all responses at once, and what else is said on the
  // path.
  static ConnectionLimits Limits(uint16_t cid, uint32_t queue_depth, bool windows);

  uint16_t cid() const { return cid_; }
  Ring* ring() const { return ring_; }
  // On its thread: nothing is sent any more.
  bool lost() const { return lost_; }
  // On its thread: answers may be sent from any memory.
  bool sends_any_memory() const { return connection_->SendsAnyMemory(); }
  // What came over it; any thread.
  const PathCounters& counters() const { return counters_; }
  // Once it has received something: any thread that knows of that.
  const LocalEnd& local_end() const { return local_end_; }

  // Takes over the fabric's connection and posts its receives (section 2.7).
  void Prepare(std::unique_ptr<Connection> connection, uint32_t queue_depth);
  void Accept(const ConnectResponse& response) { connection_->Accept(MessageBytes(response)); }
  // Takes no more requests from now on, and closes.
  void Disconnect(const absl::Status& why);

  // Takes no more requests from now on: what comes is not answered, and is the client's to send
  // again when the path has ended.
  void Drain();

  // `message` stays in place until the connection is quiet.
  void SendInfoResponse(absl::Span<const uint8_t> message, uint32_t local_key);
  // Opens all windows, the first of which has this address, and sends their keys. `message` has
  // room for an INFO_RSP with a descriptor for each chunk.
  void SendWindows(uint64_t address, absl::Span<uint8_t> message, uint32_t local_key);
  // HB_MSG, HB_ACK or NEWS: a write of nothing.
  void SendBare(uint32_t immediate);
  // The answer to a request that came over this connection.
  void Respond(ServerRequest* request, int error);

  void OnEstablished(absl::Span<const uint8_t>) override { local_end_ = connection_->local_end(); }
  void OnReceipt(const Receipt& receipt) override;
  void OnSent(uint64_t) override {}
  void OnWindowClosed(uint32_t chunk) override;
  void OnDisconnected(const absl::Status& why, absl::Span<const uint8_t> private_data) override;

 private:
  // A request in a chunk in which one of another path still runs.
  struct Parked {
    RequestImmediate place;
    bool may_be_spoiled = false;  // the other one may have written into the chunk since
  };

  void TakeMessage(const Receipt& receipt);
  void TakeRequest(uint32_t immediate);
  bool Acquire(ServerRequest* request, uintptr_t* user);
  void Start(const RequestImmediate& place, bool may_be_spoiled);
  void Begin(const RequestImmediate& place, bool may_be_spoiled);
  void Park(const RequestImmediate& place, uintptr_t user);
  void RetryParked();
  void DropParked();
  void DropClosing();
  void SendAnswer(const Request& request, uint32_t chunk, const LocalSpan& data, int error);
  void TellLost();
  void TellIfDrained();
  void Violation(absl::string_view what);
  void Count(const Request& request);

  const uint16_t cid_;
  Ring* const ring_;
  const size_t worker_;
  ServerConnectionOwner* const owner_;
  ServerPathState* const path_;
  std::unique_ptr<Connection> connection_;
  std::array<uint8_t, sizeof(InfoRequest)> info_request_;
  LocalEnd local_end_;
  PathCounters counters_;
  uint32_t active_ = 0;  // requests being worked on
  bool draining_ = false;
  bool drained_ = false;  // and the owner knows
  bool closing_ = false;
  bool lost_ = false;
  // Requests whose windows are being closed, in order.
  ServerRequest* first_closing_ = nullptr;
  ServerRequest* last_closing_ = nullptr;
  std::vector<Parked> parked_;
  Ring::Timer parked_timer_;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_SERVER_CONNECTION_H_
