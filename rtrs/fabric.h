#ifndef RNBD_RTRS_FABRIC_H_
#define RNBD_RTRS_FABRIC_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/ring.h"
#include "rtrs/address.h"

// What RTRS needs of the wire below it, in the shape of RDMA verbs: SEND (plain, with immediate,
// with invalidate), RDMA WRITE (plain, with immediate), posted receives, registered memory, and a
// private message of 56 bytes in each direction while connecting. No RDMA READ, no atomics.
// Everything above this header is one code path for all fabrics.
//
// Threads: a connection belongs to the ring it was created with; from Connect() or Accept() on, all
// of its functions are called on, and all callbacks come from, that ring's thread. A listener calls
// back on its own ring. A Domain may be used on any thread.
namespace rnbd::rtrs {

// Bytes of private data in a connection request, and in its acceptance or rejection.
inline constexpr size_t kPrivateDataBytes = 56;
// Pieces of local memory that one work request may gather.
inline constexpr size_t kMaxLocalSpans = 4;
// Bytes that one work request may carry; far above any chunk.
inline constexpr uint32_t kMaxPayload = 64U << 20;

// Registered memory as the two ends name it.
struct Region {
  uint64_t address = 0;     // of the first byte, for the peer
  uint32_t local_key = 0;   // for LocalSpan
  uint32_t remote_key = 0;  // for the peer
};

// The memory that the connections of one path may reach: a protection domain. Keys are worth
// nothing on another path.
class Domain {
 public:
  // Regions of one domain, at the most.
  static constexpr size_t kMaxRegions = 8;

  // After its connections.
  virtual ~Domain() = default;

  // Registers memory, which must outlive the domain. With `remote_write` the peer may write to all
  // of it at any time from now on. Errors say which limit was hit and how to raise it.
  virtual absl::StatusOr<Region> Register(absl::Span<uint8_t> memory, bool remote_write) = 0;

  // Windows: pieces of memory that the peer can write to only while they are open, each time with
  // another key. False where the fabric does not know them, EOPNOTSUPP where the device lacks them.
  virtual absl::StatusOr<bool> HasWindows() { return false; }
  // Registers memory that consists of windows of `window_bytes` each, numbered from 0 on and
  // closed. Once, and only where there are windows. The region's remote key is of no use.
  virtual absl::StatusOr<Region> RegisterWindows(absl::Span<uint8_t> memory, uint32_t window_bytes);
};

// A piece of memory that a work request sends.
struct LocalSpan {
  // Stands for memory of no region, where Connection::SendsAnyMemory().
  static constexpr uint32_t kAnyMemory = 0xFFFFFFFF;

  const uint8_t* data = nullptr;
  uint32_t length = 0;
  uint32_t key = 0;  // Region::local_key
};

enum class Opcode : uint8_t {
  kSend = 1,
  kSendWithImmediate = 2,
  kSendWithInvalidate = 3,
  kWrite = 4,
  kWriteWithImmediate = 5,
};

// One thing to put on the wire. The spans' memory stays untouched until the peer's answer shows
// that it has arrived, or this or a later signalled request of the same connection was reported
// sent, or the connection is down.
struct WorkRequest {
  Opcode opcode = Opcode::kSend;
  bool signalled = false;       // report OnSent(id)
  uint8_t span_count = 0;       // at most kMaxLocalSpans; 0: no payload
  uint32_t immediate = 0;       // host byte order
  uint32_t key = 0;             // kWrite*: the peer's remote key; kSendWithInvalidate: the key that
                                // the peer shall invalidate
  uint64_t remote_address = 0;  // kWrite*; address and key are ignored when there is no payload
  uint64_t id = 0;
  LocalSpan spans[kMaxLocalSpans];
};

// Something that consumed a posted receive.
struct Receipt {
  absl::Span<const uint8_t> data;  // in the receive's buffer; empty for kWriteWithImmediate
  bool has_immediate = false;
  bool has_invalidated = false;
  uint32_t immediate = 0;  // host byte order
  uint32_t invalidated_key = 0;
};

// What a connection reports. From Disconnect() on only OnDisconnected() is left to come.
class ConnectionHandler {
 public:
  // The connection works. For the side that connected `private_data` is what the peer accepted
  // with, otherwise it is empty.
  virtual void OnEstablished(absl::Span<const uint8_t> private_data) = 0;

  // A message or an immediate arrived; everything that the peer wrote before it on this connection
  // is in its place. The receive it used up is not posted again.
  virtual void OnReceipt(const Receipt& receipt) = 0;

  // A signalled request, and all before it, were handed to the network; their memory is free.
  virtual void OnSent(uint64_t id) = 0;

  // A window that this connection was to close is closed: the peer's writes do not reach it any
  // more. In the order of CloseWindow().
  virtual void OnWindowClosed(uint32_t) {}

  // The last callback, exactly once after Connect() or Accept(), also when connecting failed: the
  // connection is down and no longer touches any memory but its own. It may be destroyed from now
  // on, though not within this call.
  //
  // `why` has an errno payload: what we gave to Disconnect(), what the peer gave where the fabric
  // can carry it, ETIMEDOUT, EPROTO when the peer broke the fabric's rules (see IsViolation()), or
  // the network's own. A connection that the peer rejected reports ECONNREFUSED, and
  // `private_data` of the rejection if there was any.
  virtual void OnDisconnected(const absl::Status& why, absl::Span<const uint8_t> private_data) = 0;

 protected:
  ~ConnectionHandler() = default;
};

// Of OnDisconnected(): true when the peer broke the rules of the fabric; false for every other
// reason, also when it is the peer that accuses us.
bool IsViolation(const absl::Status& why);

// Marks a reason as one that the peer gave. For those who implement a fabric.
absl::Status GivenByPeer(absl::Status why);

// How much a connection must be able to hold.
struct ConnectionLimits {
  uint32_t send_requests = 0;  // posted and not yet handed to the network
  uint32_t receives = 0;       // posted and not yet used up
  uint32_t windows = 0;        // of the domain, each of which is opened and closed in turn
};

// How a connection leaves this machine, for people.
struct LocalEnd {
  Address source;      // a port that the system chose is left out
  std::string device;  // of RDMA; empty elsewhere
  int port = 0;        // of the device
};

// One reliable, ordered connection: a queue pair.
//
// Mistakes of the caller close the connection as those of the peer do: ENOBUFS where the limits are
// passed, EFAULT for memory outside of the region that its key names, EMSGSIZE for more than
// kMaxPayload, ENOTCONN for a request before OnEstablished().
class Connection {
 public:
  // After OnDisconnected(), or when neither Connect() nor Accept() was called; on any thread.
  virtual ~Connection() = default;

  // One of these once, with exactly kPrivateDataBytes. Connecting ends with OnEstablished() or
  // OnDisconnected() within `timeout`. Accept() is for connections made by an IncomingConnection.
  virtual void Connect(absl::Span<const uint8_t> private_data, absl::Duration timeout) = 0;
  virtual void Accept(absl::Span<const uint8_t> private_data) = 0;

  // Offers `count` receives into the same buffer, used in the order posted. A message must fit its
  // buffer; immediates without a message use up a receive as well, whatever its size. The next
  // message into the same buffer may overwrite one that is not reported yet. Also before Connect()
  // and Accept(), then on any one thread.
  virtual void PostReceive(absl::Span<uint8_t> buffer, uint32_t count) = 0;

  // Queues a request; the requests of one turn of the ring go out together at its end, in order.
  // Does nothing once the connection is closing.
  virtual void Post(const WorkRequest& request) = 0;

  // Once established: whether it sends memory that is registered nowhere and may change while it is
  // being sent; the peer then gets some of the bytes as they were and some as they are.
  virtual bool SendsAnyMemory() const { return false; }

  // Opens a window of the connection's domain: its key is in force before anything that is posted
  // later. Nothing is opened, and the key is 0, once the connection is closing. Windows belong to
  // one thread at a time, which may pass them on.
  virtual uint32_t OpenWindow(uint32_t) { return 0; }
  // Closes it, and reports OnWindowClosed().
  virtual void CloseWindow(uint32_t) {}

  // Once established. What is not known is empty.
  virtual LocalEnd local_end() const { return {}; }

  // Starts to close: what was posted before may or may not reach the peer, the reason does where
  // the fabric can carry it. Callable repeatedly; the first reason counts. A connection that is
  // neither connected nor accepted yet closes when it is.
  virtual void Disconnect(const absl::Status& reason) = 0;
};

// A peer that wants to connect. Destroying it unanswered drops the peer.
class IncomingConnection {
 public:
  virtual ~IncomingConnection() = default;

  virtual absl::Span<const uint8_t> private_data() const = 0;
  virtual const Address& source() const = 0;       // the peer
  virtual const Address& destination() const = 0;  // the address it reached us at

  // Memory for the path that this connection begins.
  virtual absl::StatusOr<std::unique_ptr<Domain>> CreateDomain() = 0;

  // Ends the request with the connection to answer it on; nothing is sent before its Accept(). At
  // most once.
  virtual absl::StatusOr<std::unique_ptr<Connection>> CreateConnection(
      Ring* ring, Domain* domain, const ConnectionLimits& limits, ConnectionHandler* handler) = 0;

  // Ends the request with kPrivateDataBytes for the peer.
  virtual void Reject(absl::Span<const uint8_t> private_data) = 0;
};

class ListenHandler {
 public:
  virtual void OnIncoming(std::unique_ptr<IncomingConnection> incoming) = 0;

 protected:
  ~ListenHandler() = default;
};

// What became of those who came to a listener.
struct ListenerCounters {
  uint64_t incoming = 0;     // shown to the handler
  uint64_t violations = 0;   // dropped for saying something that is no request to connect
  uint64_t silent = 0;       // left, or were dropped, without having said in time what they want
  uint64_t crowded_out = 0;  // dropped to make room, for too many were there at the same time
  uint64_t failures = 0;     // attempts to accept that failed for want of resources
};

// Accepts until it is destroyed, which must happen on its ring's thread; its address is free then.
// Logs, at a bounded rate, whom it drops.
class Listener {
 public:
  virtual ~Listener() = default;
  // Where it really listens: with the port that the system chose if none was given.
  virtual const Address& address() const = 0;
  // On any thread.
  virtual ListenerCounters counters() const = 0;
};

// Thread-safe.
class Fabric {
 public:
  virtual ~Fabric() = default;

  // On the ring's thread. EADDRINUSE and the like name the address.
  virtual absl::StatusOr<std::unique_ptr<Listener>> Listen(Ring* ring, const Address& address,
                                                           ListenHandler* handler) = 0;

  // Memory for one path to `path`.
  virtual absl::StatusOr<std::unique_ptr<Domain>> CreateDomain(const PathAddress& path) = 0;

  // A connection to be used with Connect().
  virtual absl::StatusOr<std::unique_ptr<Connection>> CreateConnection(
      Ring* ring, const PathAddress& path, Domain* domain, const ConnectionLimits& limits,
      ConnectionHandler* handler) = 0;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_FABRIC_H_
