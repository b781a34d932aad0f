#ifndef RNBD_RTRS_CLIENT_CONNECTION_H_
#define RNBD_RTRS_CLIENT_CONNECTION_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/ring.h"
#include "rtrs/client_request.h"
#include "rtrs/fabric.h"
#include "rtrs/immediate.h"
#include "rtrs/messages.h"
#include "rtrs/path_counters.h"

namespace rnbd::rtrs {

class ClientConnection;

// What a path's connections and threads tell each other without a lock.
struct PathSignals {
  // Set whenever something arrives, for the path's heartbeat.
  std::atomic<bool> heard{false};
  // Of the last heartbeat that was answered, 0 before the first.
  std::atomic<int64_t> latency_ns{0};
};

// A request on the wire. Entry n of a session belongs to whoever holds permit n; others may only
// compare `connection`.
struct InFlight {
  std::atomic<ClientConnection*> connection{nullptr};
  ClientRequest* request = nullptr;
};

// The tables of a session that its connections work with. Constant once the session was up, but for
// the entries in flight.
struct ClientTables {
  // Room for one user message with its trailer and descriptor, in whole cache lines.
  static constexpr uint32_t kHeaderBytes = 320;

  explicit ClientTables(const SessionGeometry& session_geometry)
      : geometry(session_geometry), codec(geometry.queue_depth), in_flight(geometry.queue_depth) {}

  // The area that `data` lies in.
  size_t AreaOf(const uint8_t* data) const {
    size_t area = 0;
    while (area + 1 < areas.size() && !Contains(areas[area], data)) ++area;
    return area;
  }
  static bool Contains(absl::Span<const uint8_t> area, const uint8_t* data) {
    return data >= area.data() && data < area.data() + area.size();
  }

  const SessionGeometry geometry;
  const ImmediateCodec codec;
  std::vector<absl::Span<uint8_t>> areas;  // that requests' data lies in
  absl::Span<uint8_t> headers;             // kHeaderBytes for each permit
  std::vector<InFlight> in_flight;
};

// How the session's memory and the server's chunks are named on one path. Constant while the path
// is connected, but for the keys of chunks, which belong to whoever holds the permit.
struct PathMemory {
  std::vector<Region> areas;  // ClientTables::areas
  Region headers;             // ClientTables::headers
  std::vector<RemoteChunk> chunks;
};

// The path of a connection. All calls come on the connection's thread.
class ClientConnectionOwner {
 public:
  virtual void OnConnectionEstablished(ClientConnection* connection,
                                       absl::Span<const uint8_t> private_data) = 0;
  // INFO_RSP, in the buffer that was posted for it.
  virtual void OnInfoResponse(ClientConnection* connection, absl::Span<const uint8_t> message) = 0;
  // The connection was activated and takes requests, unless it was lost meanwhile.
  virtual void OnConnectionReady(ClientConnection* connection) = 0;
  virtual void OnHeartbeatAck(ClientConnection* connection) = 0;
  // NEWS, of a server that may send them or not.
  virtual void OnNews(ClientConnection* connection, uint32_t news) = 0;
  // A request was answered.
  virtual void OnPermitFree(ClientConnection* connection, uint32_t permit) = 0;
  // Requests are about to fail with the connection; the server may still be at work on them.
  virtual void OnRequestsLost() = 0;
  // The connection takes no more requests. Those in flight are failed when it is down.
  virtual void OnConnectionLost(ClientConnection* connection) = 0;
  // The last call: nothing is in flight any more. The connection may be destroyed after this call.
  virtual void OnConnectionDown(ClientConnection* connection, const absl::Status& why,
                                absl::Span<const uint8_t> private_data) = 0;

 protected:
  ~ClientConnectionOwner() = default;
};

// One connection of a client's path (protocol page, section 3): sends requests and completes them.
//
// Made, prepared and destroyed on the control thread; from Connect() on, everything is on the
// thread of its ring.
class ClientConnection final : public ConnectionHandler {
 public:
  ClientConnection(uint16_t cid, size_t lane, Ring* ring, ClientConnectionOwner* owner,
                   PathSignals* signals, PathCounters* counters)
      : cid_(cid),
        lane_(lane),
        ring_(ring),
        owner_(owner),
        signals_(signals),
        counters_(counters) {}

  uint16_t cid() const { return cid_; }
  // The number of the thread among the session's.
  size_t lane() const { return lane_; }
  Ring* ring() const { return ring_; }
  // True from OnConnectionLost() on.
  bool lost() const { return lost_; }
  // Requests sent and not answered.
  uint32_t in_flight() const { return in_flight_; }
  // Of the path.
  int64_t latency_ns() const { return signals_->latency_ns.load(std::memory_order_relaxed); }
  // Once established.
  LocalEnd local_end() const { return connection_->local_end(); }
  // Permits of the requests that failed with the connection. The server may still be at work in
  // their chunks. Once the connection is down, on the control thread.
  const std::vector<uint32_t>& stranded_permits() const { return stranded_permits_; }

  void set_connection(std::unique_ptr<Connection> connection) {
    connection_ = std::move(connection);
  }
  void PostReceive(absl::Span<uint8_t> buffer) { connection_->PostReceive(buffer, 1); }
  // Receives for `count` responses: bare ones, or with room for an RKEY_RSP each. Once.
  void PostResponseReceives(uint32_t count, bool new_rkey);

  void Connect(absl::Span<const uint8_t> private_data, absl::Duration timeout) {
    connection_->Connect(private_data, timeout);
  }
  // Takes no more requests from now on, and closes.
  void Disconnect(const absl::Status& why);

  // From now on requests may be sent; both outlive the connection.
  void Activate(ClientTables* tables, PathMemory* memory);

  // Sends a request that fits a chunk, with a permit that the caller holds; it comes back by
  // OnPermitFree() or is among the stranded ones.
  void Send(ClientRequest* request, uint32_t permit);

  void SendInfoRequest(absl::Span<const uint8_t> message, uint32_t local_key);
  // HB_MSG or HB_ACK: a write of nothing.
  void SendHeartbeat(uint32_t immediate);

  void OnEstablished(absl::Span<const uint8_t> private_data) override;
  void OnReceipt(const Receipt& receipt) override;
  void OnSent(uint64_t) override {}
  void OnDisconnected(const absl::Status& why, absl::Span<const uint8_t> private_data) override;

 private:
  void Count(const ClientRequest& request, uint32_t bytes);
  uint32_t WriteTrailers(const ClientRequest& request, uint32_t data_length, uint8_t* header) const;
  void TakeMessage(const Receipt& receipt);
  void OnResponse(const Receipt& receipt);
  bool TakeRkey(const Receipt& receipt, uint32_t msg_id);
  void PostResponseReceive();
  void Retire();
  void FailInFlight();
  void Violation(absl::string_view what);

  const uint16_t cid_;
  const size_t lane_;
  Ring* const ring_;
  ClientConnectionOwner* const owner_;
  PathSignals* const signals_;
  PathCounters* const counters_;  // of its lane
  std::unique_ptr<Connection> connection_;
  ClientTables* tables_ = nullptr;
  PathMemory* memory_ = nullptr;
  uint32_t in_flight_ = 0;
  bool lost_ = false;
  bool new_rkey_ = false;
  // Receive buffers of a path with new_rkey, posted in turn.
  std::vector<RkeyResponse> rkey_responses_;
  size_t next_rkey_response_ = 0;
  std::vector<uint32_t> stranded_permits_;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_CLIENT_CONNECTION_H_
