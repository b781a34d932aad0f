#include <algorithm>
#include <bit>
#include <cassert>
#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "rtrs/stream_connection.h"
#include "rtrs/stream_socket.h"

// Connecting, accepting and closing.
namespace rnbd::rtrs {
namespace {

// Holds a batch of small requests with their headers; what is larger goes straight to its place.
constexpr size_t kStagingBytes = 128 << 10;
// A goodbye may have to wait behind one frame that is half sent.
constexpr uint32_t kFramesOfGoodbye = 2;
// For a peer that has just let a time run out.
constexpr absl::Duration kGoodbyeToTheSilent = absl::Milliseconds(100);

// A connection without its staging buffer fails when it is used, as any other that lacks a
// resource.
UniqueMapping MapStaging() {
  absl::StatusOr<UniqueMapping> mapping = UniqueMapping::Anonymous(kStagingBytes);
  return mapping.ok() ? *std::move(mapping) : UniqueMapping();
}

uint32_t WantedFeatures(const StreamOptions& options) {
  return options.payload_checksum ? kFeaturePayloadCrc : 0;
}

// What a peer is told beside the errno, in a text of bounded length.
std::string Words(const absl::Status& why) {
  absl::string_view words = why.message();
  absl::ConsumeSuffix(&words,
                      absl::StrCat(": ", std::generic_category().message(StatusToErrno(why))));
  return std::string(words.substr(0, kMaxGoodbye));
}

}  // namespace

StreamConnection::StreamConnection(Ring* ring, const StreamOptions& options, PathAddress path,
                                   StreamDomain* domain, const ConnectionLimits& limits,
                                   ConnectionHandler* handler)
    : ring_(ring),
      options_(options),
      path_(std::move(path)),
      domain_(domain),
      limits_(limits),
      handler_(handler),
      lookup_(ring),
      timer_(ring, [this] { OnTimer(); }),
      frames_(std::bit_ceil(std::max(limits.send_requests, kFramesOfGoodbye))),
      staging_(MapStaging()),
      receives_(limits.receives) {}

StreamConnection::StreamConnection(Ring* ring, const StreamOptions& options, UniqueFd socket,
                                   const Hello& hello, StreamDomain* domain,
                                   const ConnectionLimits& limits, ConnectionHandler* handler)
    : StreamConnection(ring, options, PathAddress(), domain, limits, handler) {
  socket_ = std::move(socket);
  features_ = (hello.features & kKnownFeatures) | WantedFeatures(options);
  network_order_.Begin(hello.private_data, /*accepting=*/true, domain_);
  accepting_ = true;
}

StreamConnection::~StreamConnection() { assert(state_ == State::kIdle || state_ == State::kDown); }

bool StreamConnection::MayFollow(State from, State to) {
  switch (from) {
    case State::kIdle:
      return to == State::kConnecting || to == State::kGreeting || to == State::kDraining;
    case State::kConnecting:
      return to == State::kGreeting || to == State::kDraining;
    case State::kGreeting:
      return to == State::kAwaiting || to == State::kEstablished || to == State::kDraining;
    case State::kAwaiting:
      return to == State::kEstablished || to == State::kDraining;
    case State::kEstablished:
      return to == State::kParting || to == State::kDraining;
    case State::kParting:
      return to == State::kDraining;
    case State::kDraining:
      return to == State::kDown;
    case State::kDown:
      return false;
  }
  return false;
}

void StreamConnection::Enter(State next) {
  assert(MayFollow(state_, next));
  state_ = next;
}

void StreamConnection::Connect(absl::Span<const uint8_t> private_data, absl::Duration timeout) {
  assert(ring_->OnOwnThread() && state_ == State::kIdle && !accepting_);
  if (!why_.ok()) {
    Drain();
    return;
  }
  Enter(State::kConnecting);
  hello_ = MakeHello(HelloKind::kConnect, WantedFeatures(options_), private_data);
  network_order_.Begin(private_data, /*accepting=*/false, domain_);
  timeout_ = timeout;
  timer_.Arm(timeout);
  if (path_.destination.is_numeric()) {
    OnResolved(Resolve(path_.destination));
  } else {
    lookup_.Start(path_.destination, [this](absl::StatusOr<std::vector<SocketAddress>> addresses) {
      OnResolved(std::move(addresses));
    });
  }
}

void StreamConnection::OnResolved(absl::StatusOr<std::vector<SocketAddress>> addresses) {
  if (!addresses.ok()) {
    Part(addresses.status(), /*say_goodbye=*/false);
    return;
  }
  addresses_ = *std::move(addresses);
  std::reverse(addresses_.begin(), addresses_.end());
  TryNextAddress(EHOSTUNREACH);
}

void StreamConnection::TryNextAddress(int last_error) {
  absl::Status failure =
      ErrnoToStatus(last_error, absl::StrCat("connect to ", path_.destination.ToString()));
  while (!addresses_.empty()) {
    address_ = addresses_.back();
    addresses_.pop_back();
    absl::StatusOr<UniqueFd> socket = OpenStreamSocket(address_.family(), path_.source);
    if (!socket.ok()) {
      failure = socket.status();
      continue;
    }
    socket_ = *std::move(socket);
    handshake_busy_ = true;
    ring_->Start(&handshake_, [this](io_uring_sqe* entry) {
      io_uring_prep_connect(entry, socket_.get(), address_.get(), address_.length);
    });
    return;
  }
  Part(failure, /*say_goodbye=*/false);
}

void StreamConnection::Accept(absl::Span<const uint8_t> private_data) {
  assert(ring_->OnOwnThread() && state_ == State::kIdle && accepting_);
  if (!why_.ok()) {
    Drain();
    return;
  }
  hello_ = MakeHello(HelloKind::kAccept, features_, private_data);
  timeout_ = options_.hello_timeout;
  timer_.Arm(timeout_);
  SendHello();
}

void StreamConnection::SendHello() {
  Enter(State::kGreeting);
  handshake_busy_ = true;
  ring_->Start(&handshake_, [this](io_uring_sqe* entry) {
    io_uring_prep_send(entry, socket_.get(), &hello_, sizeof(hello_), MSG_NOSIGNAL | MSG_WAITALL);
  });
}

void StreamConnection::AwaitHello() {
  if (state_ != State::kAwaiting) Enter(State::kAwaiting);
  handshake_busy_ = true;
  ring_->Start(&handshake_, [this](io_uring_sqe* entry) {
    io_uring_prep_recv(entry, socket_.get(), reinterpret_cast<uint8_t*>(&hello_) + hello_done_,
                       sizeof(hello_) - hello_done_, 0);
  });
}

void StreamConnection::OnHandshake(int32_t result, uint32_t) {
  handshake_busy_ = false;
  if (state_ == State::kDraining) {
    FinishIfQuiet();
    return;
  }
  if (state_ == State::kConnecting) {
    if (result < 0) {
      TryNextAddress(-result);
    } else {
      SendHello();
    }
    return;
  }
  if (result <= 0 || (state_ == State::kGreeting && result != sizeof(hello_))) {
    Part(ErrnoToStatus(result < 0 ? -result : ECONNRESET,
                       accepting_ ? "answer the peer's hello" : "exchange hellos"),
         /*say_goodbye=*/false);
    return;
  }
  if (state_ == State::kGreeting) {
    if (accepting_) {
      Establish({});
    } else {
      AwaitHello();
    }
    return;
  }
  hello_done_ += static_cast<size_t>(result);
  if (hello_done_ < sizeof(hello_)) {
    AwaitHello();
  } else {
    OnHello();
  }
}

void StreamConnection::OnHello() {
  absl::Status check = CheckHello(hello_, HelloKind::kAccept, HelloKind::kReject);
  if (!check.ok()) {
    Part(check, /*say_goodbye=*/false);
    return;
  }
  if (hello_.kind == static_cast<uint8_t>(HelloKind::kReject)) {
    rejected_ = true;
    Part(ErrnoToStatus(ECONNREFUSED, "the peer rejected the connection"), /*say_goodbye=*/false);
    return;
  }
  features_ = hello_.features;
  const uint32_t wanted = WantedFeatures(options_);
  if ((features_ & ~kKnownFeatures) != 0 || (features_ & wanted) != wanted) {
    Part(ErrnoToStatus(EPROTO, absl::StrCat("the peer agreed to features 0x", absl::Hex(features_),
                                            " where 0x", absl::Hex(wanted), " were wanted")),
         /*say_goodbye=*/false);
    return;
  }
  Establish(hello_.private_data);
}

void StreamConnection::Establish(absl::Span<const uint8_t> private_data) {
  if (staging_.size() == 0) {
    Part(ErrnoToStatus(ENOMEM, "map a staging buffer"), /*say_goodbye=*/false);
    return;
  }
  Enter(State::kEstablished);
  timer_.Cancel();
  StartReceive();
  handler_->OnEstablished(private_data);
}

void StreamConnection::Disconnect(const absl::Status& reason) {
  Part(reason.ok() ? ErrnoToStatus(ECONNRESET, "closed") : reason, /*say_goodbye=*/true);
}

// The one way to the end: the first reason counts. A connection that has not begun may be on any
// thread; Connect() or Accept() finds the reason.
LocalEnd StreamConnection::local_end() const {
  LocalEnd end;
  absl::StatusOr<Address> address = LocalAddress(socket_.get(), path_.destination.scheme);
  if (address.ok()) end.source = *std::move(address);
  end.source.scheme = path_.destination.scheme;
  end.source.port = path_.source.has_value() ? path_.source->port : 0;
  return end;
}

void StreamConnection::Part(const absl::Status& why, bool say_goodbye) {
  if (!why_.ok()) return;
  why_ = why;
  if (state_ == State::kIdle) return;
  assert(ring_->OnOwnThread());
  if (state_ != State::kEstablished || !say_goodbye || !send_failure_.ok()) {
    Drain();
    return;
  }
  Enter(State::kParting);
  // It will hardly answer now, and requests wait for the end of this.
  const bool silent = StatusToErrno(why) == ETIMEDOUT;
  timer_.Arm(silent ? std::min(options_.goodbye_timeout, kGoodbyeToTheSilent)
                    : options_.goodbye_timeout);
  if (!send_busy_) SendGoodbye();
}

// Queues the goodbye and sends what is queued. When all is out, ends our direction of the socket:
// the peer reads the goodbye, closes, and we read the end.
void StreamConnection::SendGoodbye() {
  if (!goodbye_queued_) QueueGoodbye();
  if (head_ == tail_) {
    shutdown(socket_.get(), SHUT_WR);
  } else {
    Flush();
  }
}

// Replaces what is queued, but for a request that is half on the wire. Frames carry consecutive
// numbers: the first one that is dropped gives the goodbye its own.
void StreamConnection::QueueGoodbye() {
  goodbye_queued_ = true;
  goodbye_ = Words(why_);
  const uint32_t keep = head_sent_ > 0 ? 1 : 0;
  send_sequence_ = static_cast<uint16_t>(send_sequence_ - (tail_ - head_ - keep));
  tail_ = head_ + keep;
  Frame& frame = FrameAt(tail_++);
  frame = Frame();
  frame.header.opcode = static_cast<uint8_t>(FrameOpcode::kGoodbye);
  frame.header.sequence = send_sequence_++;
  frame.header.immediate = static_cast<uint32_t>(StatusToErrno(why_));
  frame.header.length = static_cast<uint32_t>(goodbye_.size());
  frame.span_count = 1;
  frame.spans[0] = {goodbye_.data(), goodbye_.size()};
  frame.bytes = static_cast<uint32_t>(sizeof(FrameHeader) + goodbye_.size());
  frame.header.payload_crc = PayloadCrc(frame);
  SealHeader(&frame.header);
}

void StreamConnection::OnTimer() {
  if (state_ == State::kParting) {
    Drain();
    return;
  }
  if (!send_failure_.ok()) {
    Part(send_failure_, /*say_goodbye=*/false);
    return;
  }
  Part(ErrnoToStatus(
           ETIMEDOUT,
           absl::StrCat(accepting_ ? "accept a connection"
                                   : absl::StrCat("connect to ", path_.destination.ToString()),
                        " within ", absl::FormatDuration(timeout_))),
       /*say_goodbye=*/false);
}

void StreamConnection::Drain() {
  Enter(State::kDraining);
  lookup_.Cancel();
  timer_.Cancel();
  ring_->Unregister(&flush_);
  if (socket_.valid()) shutdown(socket_.get(), SHUT_RDWR);
  if (handshake_busy_) ring_->Cancel(&handshake_);
  if (send_busy_) ring_->Cancel(&send_);
  if (receive_busy_) ring_->Cancel(&receive_);
  FinishIfQuiet();
}

void StreamConnection::FinishIfQuiet() {
  if (handshake_busy_ || send_busy_ || receive_busy_) return;
  ring_->AtTurnEnd(&report_);
}

void StreamConnection::Report() {
  Enter(State::kDown);
  socket_.reset(-1);
  handler_->OnDisconnected(
      why_, rejected_ ? absl::MakeConstSpan(hello_.private_data) : absl::Span<const uint8_t>());
}

}  // namespace rnbd::rtrs
