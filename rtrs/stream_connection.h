#ifndef RNBD_RTRS_STREAM_CONNECTION_H_
#define RNBD_RTRS_STREAM_CONNECTION_H_

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/ring.h"
#include "common/unique_fd.h"
#include "common/unique_mapping.h"
#include "rtrs/address.h"
#include "rtrs/fabric.h"
#include "rtrs/name_lookup.h"
#include "rtrs/network_order.h"
#include "rtrs/receive_queue.h"
#include "rtrs/stream_domain.h"
#include "rtrs/stream_frame.h"

namespace rnbd::rtrs {

struct StreamOptions {
  // Ask for a CRC32C of every payload. It is used when either end asks.
  bool payload_checksum = false;
  // How long an accepted socket may take to say hello.
  absl::Duration hello_timeout = absl::Seconds(10);
  // Accepted sockets that have not said hello, at the most; beyond it the oldest are dropped.
  size_t max_greeting = 1024;
  // How long a closing connection waits for the peer to read the goodbye.
  absl::Duration goodbye_timeout = absl::Seconds(1);
};

// One socket as a queue pair.
//
// Sending: requests of a turn are gathered into one sendmsg; payloads are never copied. Receiving:
// what the socket has is read into a staging buffer and, where a payload is known to follow,
// straight to its place; only what arrived in one read behind its own header is copied. One send
// and one receive are with the kernel at a time, so that the order on the wire is the order of the
// posts.
//
// stream_handshake.cc holds connecting and closing, stream_connection.cc the data path.
class StreamConnection final : public Connection {
 public:
  // To be used with Connect().
  StreamConnection(Ring* ring, const StreamOptions& options, PathAddress path, StreamDomain* domain,
                   const ConnectionLimits& limits, ConnectionHandler* handler);
  // To be used with Accept(): a socket whose peer said `hello`.
  StreamConnection(Ring* ring, const StreamOptions& options, UniqueFd socket, const Hello& hello,
                   StreamDomain* domain, const ConnectionLimits& limits,
                   ConnectionHandler* handler);
  ~StreamConnection() override;

  void Connect(absl::Span<const uint8_t> private_data, absl::Duration timeout) override;
  void Accept(absl::Span<const uint8_t> private_data) override;
  void PostReceive(absl::Span<uint8_t> buffer, uint32_t count) override;
  void Post(const WorkRequest& request) override;
  LocalEnd local_end() const override;
  // Not with a checksum, which is made before the bytes go.
  bool SendsAnyMemory() const override { return (features_ & kFeaturePayloadCrc) == 0; }
  void Disconnect(const absl::Status& reason) override;

 private:
  enum class State : uint8_t {
    kIdle,        // neither Connect() nor Accept() yet
    kConnecting,  // the name is looked up, the socket connects
    kGreeting,    // our hello is being sent
    kAwaiting,    // the accepting end's hello is awaited
    kEstablished,
    kParting,   // the goodbye is being sent; what arrives is thrown away
    kDraining,  // waiting for the kernel to let go of our operations
    kDown,      // OnDisconnected() was called
  };
  static bool MayFollow(State from, State to);

  // One posted request.
  struct Frame {
    FrameHeader header;
    bool signalled = false;
    uint8_t span_count = 0;
    uint32_t bytes = 0;  // header and payload
    uint64_t id = 0;
    iovec spans[kMaxLocalSpans];
  };

  // stream_handshake.cc
  void Enter(State next);
  void OnResolved(absl::StatusOr<std::vector<SocketAddress>> addresses);
  void TryNextAddress(int last_error);
  void OnHandshake(int32_t result, uint32_t flags);
  void SendHello();
  void AwaitHello();
  void OnHello();
  void Establish(absl::Span<const uint8_t> private_data);
  void Part(const absl::Status& why, bool say_goodbye);
  void SendGoodbye();
  void QueueGoodbye();
  void OnTimer();
  void Drain();
  void FinishIfQuiet();
  void Report();

  // stream_connection.cc: sending
  absl::Status CheckRequest(const WorkRequest& request) const;
  void Flush();
  void SendWhenThereIsRoom();
  size_t Gather();
  void OnFlushed(int32_t result, uint32_t flags);
  void OnSendFailed(const absl::Status& failure);
  void Sent(size_t bytes);
  Frame& FrameAt(uint32_t index) { return frames_[index & (frames_.size() - 1)]; }
  uint32_t PayloadCrc(const Frame& frame) const;

  // stream_connection.cc: receiving
  void StartReceive();
  void SetReceiveMark(size_t bytes);
  void OnReceived(int32_t result, uint32_t flags);
  void Arrived(size_t bytes);
  void TakeStaged();
  bool BeginFrame();
  bool FindPlace();
  void PayloadArrived(size_t bytes);
  void FinishFrame();
  void TakeGoodbye();
  void DeliverFrame();
  void Violation(absl::string_view what);

  Ring* const ring_;
  const StreamOptions options_;
  const PathAddress path_;
  StreamDomain* const domain_;
  const ConnectionLimits limits_;
  ConnectionHandler* const handler_;

  State state_ = State::kIdle;
  UniqueFd socket_;
  uint32_t features_ = 0;
  NetworkOrder network_order_;
  bool accepting_ = false;

  // Handshake and end.
  NameLookup lookup_;
  std::vector<SocketAddress> addresses_;  // still to be tried, the next one last
  SocketAddress address_;                 // being connected to
  Hello hello_;
  size_t hello_done_ = 0;
  absl::Duration timeout_;     // of connecting or accepting
  absl::Status why_;           // not OK from the moment on that the end is certain
  absl::Status send_failure_;  // nothing can be sent any more; what has arrived is still taken
  bool rejected_ = false;
  std::string goodbye_;
  bool goodbye_queued_ = false;
  bool handshake_busy_ = false;
  Ring::Timer timer_;
  MethodOperation<&StreamConnection::OnHandshake> handshake_{this};
  MethodHook<&StreamConnection::Report> report_{this};

  // Sending. Frames head_ to tail_ - 1 are waiting or in the sendmsg under way; the first
  // head_sent_ bytes of the first one are out already. The number of slots is a power of two.
  std::vector<Frame> frames_;
  uint32_t head_ = 0;
  uint32_t tail_ = 0;
  size_t head_sent_ = 0;
  uint16_t send_sequence_ = 0;
  bool send_busy_ = false;
  std::array<iovec, 256> send_spans_;
  msghdr send_message_ = {};
  MethodOperation<&StreamConnection::OnFlushed> send_{this};
  MethodHook<&StreamConnection::Flush> flush_{this};

  // Receiving. Bytes staged_ to staged_end_ of the staging buffer wait to be parsed.
  UniqueMapping staging_;
  size_t staged_ = 0;
  size_t staged_end_ = 0;
  FrameHeader frame_;         // whose payload is arriving
  uint8_t* place_ = nullptr;  // where its next byte goes
  size_t payload_left_ = 0;
  uint32_t payload_crc_ = 0;
  bool last_was_large_ = false;
  uint16_t receive_sequence_ = 0;
  bool receive_busy_ = false;
  bool drained_ = false;
  size_t asked_ = 0;
  size_t receive_mark_ = 1;
  size_t direct_bytes_ = 0;  // of the receive under way that go to place_
  ReceiveQueue receives_;
  uint8_t parting_words_[kMaxGoodbye];
  iovec receive_spans_[2];
  msghdr receive_message_ = {};
  MethodOperation<&StreamConnection::OnReceived> receive_{this};
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_STREAM_CONNECTION_H_
