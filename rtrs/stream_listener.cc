#include "rtrs/stream_listener.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <list>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status.h"
#include "rtrs/stream_socket.h"

namespace rnbd::rtrs {
namespace {

// After an accept that failed for want of resources.
constexpr absl::Duration kAcceptPause = absl::Milliseconds(100);

// A fresh socket has room for it; if not, the peer sees a connection that ends.
void SendHelloOf(int socket, HelloKind kind, absl::Span<const uint8_t> private_data) {
  const Hello hello = MakeHello(kind, 0, private_data);
  static_cast<void>(send(socket, &hello, sizeof(hello), MSG_NOSIGNAL | MSG_DONTWAIT));
}

// A socket that said hello.
class StreamIncoming final : public IncomingConnection {
 public:
  StreamIncoming(const StreamOptions& options, UniqueFd socket, const Hello& hello, Address source,
                 Address destination)
      : options_(options),
        socket_(std::move(socket)),
        hello_(hello),
        source_(std::move(source)),
        destination_(std::move(destination)) {}

  absl::Span<const uint8_t> private_data() const override { return hello_.private_data; }
  const Address& source() const override { return source_; }
  const Address& destination() const override { return destination_; }

  absl::StatusOr<std::unique_ptr<Domain>> CreateDomain() override {
    return std::make_unique<StreamDomain>();
  }

  absl::StatusOr<std::unique_ptr<Connection>> CreateConnection(
      Ring* ring, Domain* domain, const ConnectionLimits& limits,
      ConnectionHandler* handler) override {
    return std::make_unique<StreamConnection>(ring, options_, std::move(socket_), hello_,
                                              static_cast<StreamDomain*>(domain), limits, handler);
  }

  void Reject(absl::Span<const uint8_t> private_data) override {
    SendHelloOf(socket_.get(), HelloKind::kReject, private_data);
    socket_.reset(-1);
  }

 private:
  const StreamOptions options_;
  UniqueFd socket_;
  const Hello hello_;
  const Address source_;
  const Address destination_;
};

// A peer that is dropped is no reason to fill the log: anybody can connect and say anything.
void LogDropped(const absl::StatusOr<Address>& source, const absl::Status& why) {
  static LogEvery limit(std::chrono::seconds(10));
  if (!limit.Allow()) return;
  spdlog::warn("dropped a connection from {}: {} ({} more not shown)",
               source.ok() ? source->ToString() : "a peer that has left", why,
               limit.TakeSuppressed());
}

struct AtomicCounters {
  std::atomic<uint64_t> incoming{0};
  std::atomic<uint64_t> violations{0};
  std::atomic<uint64_t> silent{0};
  std::atomic<uint64_t> crowded_out{0};
  std::atomic<uint64_t> failures{0};
};

void Count(std::atomic<uint64_t>* counter) { counter->fetch_add(1, std::memory_order_relaxed); }

class Greeting;

// Accepts until it is told to end. Frees itself when neither the listener nor the kernel nor a
// greeting needs it any more.
class AcceptLoop {
 public:
  AcceptLoop(Ring* ring, const StreamOptions& options, ListeningSocket socket,
             ListenHandler* handler)
      : ring_(ring),
        options_(options),
        socket_(std::move(socket)),
        handler_(handler),
        pause_(ring, [this] { Accept(); }) {}

  void Accept();
  // No callback to the handler from now on.
  void End();
  // A greeting ended, with a connection for the handler or without; it is gone after this call.
  void Greeted(Greeting* greeting, std::unique_ptr<IncomingConnection> incoming);

  Ring* ring() const { return ring_; }
  const StreamOptions& options() const { return options_; }
  const Address& address() const { return socket_.address(); }
  AtomicCounters* counters() { return &counters_; }
  bool ended() const { return ended_; }

 private:
  void OnAccepted(int32_t result, uint32_t flags);
  void Greet(UniqueFd socket);
  void FreeIfDone();

  Ring* const ring_;
  const StreamOptions options_;
  ListeningSocket socket_;
  ListenHandler* const handler_;
  AtomicCounters counters_;
  bool busy_ = false;
  bool ended_ = false;
  Ring::Timer pause_;
  // The oldest first.
  std::list<Greeting*> greetings_;
  MethodOperation<&AcceptLoop::OnAccepted> accept_{this};
};

// One accepted socket until its hello is complete. Frees itself.
class Greeting {
 public:
  Greeting(AcceptLoop* loop, UniqueFd socket)
      : loop_(loop), socket_(std::move(socket)), timer_(loop->ring(), [this] { TimeOut(); }) {
    timer_.Arm(loop->options().hello_timeout);
    Receive();
  }

  // Is over soon, for this reason unless the hello is there already.
  void Cancel(const absl::Status& why, std::atomic<uint64_t>* counter) {
    if (!why_.ok()) return;
    why_ = why;
    counter_ = counter;
    loop_->ring()->Cancel(&receive_);
  }
  bool cancelled() const { return !why_.ok(); }

  // Where the loop keeps this.
  std::list<Greeting*>::iterator place;

 private:
  void TimeOut() {
    Cancel(ErrnoToStatus(ETIMEDOUT,
                         absl::StrCat("no hello within ",
                                      absl::FormatDuration(loop_->options().hello_timeout))),
           &loop_->counters()->silent);
  }

  void Receive() {
    loop_->ring()->Start(&receive_, [this](io_uring_sqe* entry) {
      io_uring_prep_recv(entry, socket_.get(), reinterpret_cast<uint8_t*>(&hello_) + done_,
                         sizeof(hello_) - done_, 0);
    });
  }

  void OnReceived(int32_t result, uint32_t) {
    if (result <= 0) {
      if (!cancelled()) {
        // A health check, say, of those that only look whether somebody is there.
        quiet_ = result == 0 && done_ == 0;
        why_ = ErrnoToStatus(result == 0 ? ECONNRESET : -result, "wait for a hello");
        counter_ = &loop_->counters()->silent;
      }
      Drop();
      return;
    }
    done_ += static_cast<size_t>(result);
    if (done_ == sizeof(hello_)) {
      TakeHello();
    } else if (cancelled()) {
      Drop();
    } else {
      Receive();
    }
  }

  void TakeHello() {
    why_ = CheckHello(hello_, HelloKind::kConnect, HelloKind::kConnect);
    if (!why_.ok()) {
      counter_ = &loop_->counters()->violations;
      TellVersion();
      Drop();
      return;
    }
    absl::StatusOr<Address> source = PeerAddress(socket_.get(), loop_->address().scheme);
    absl::StatusOr<Address> destination = LocalAddress(socket_.get(), loop_->address().scheme);
    if (!source.ok() || !destination.ok()) {
      why_ = source.ok() ? destination.status() : source.status();
      counter_ = &loop_->counters()->silent;
      Drop();
      return;
    }
    Count(&loop_->counters()->incoming);
    Finish(std::make_unique<StreamIncoming>(loop_->options(), std::move(socket_), hello_,
                                            *std::move(source), *std::move(destination)));
  }

  // So that a peer of another version can say what the matter is.
  void TellVersion() {
    if (StatusToErrno(why_) == EPROTONOSUPPORT) SendHelloOf(socket_.get(), HelloKind::kReject, {});
  }

  void Drop() {
    if (!loop_->ended()) {
      Count(counter_);
      if (!quiet_) LogDropped(PeerAddress(socket_.get(), loop_->address().scheme), why_);
    }
    Finish(nullptr);
  }

  void Finish(std::unique_ptr<IncomingConnection> incoming) {
    const std::unique_ptr<Greeting> self(this);
    timer_.Cancel();
    loop_->Greeted(this, std::move(incoming));
  }

  AcceptLoop* const loop_;
  UniqueFd socket_;
  Hello hello_;
  size_t done_ = 0;
  absl::Status why_;
  std::atomic<uint64_t>* counter_ = nullptr;
  bool quiet_ = false;
  Ring::Timer timer_;
  MethodOperation<&Greeting::OnReceived> receive_{this};
};

void AcceptLoop::Accept() {
  busy_ = true;
  ring_->Start(&accept_, [this](io_uring_sqe* entry) {
    io_uring_prep_accept(entry, socket_.get(), nullptr, nullptr, SOCK_CLOEXEC);
  });
}

void AcceptLoop::OnAccepted(int32_t result, uint32_t) {
  busy_ = false;
  UniqueFd socket(result);
  if (ended_) {
    FreeIfDone();
    return;
  }
  if (socket.valid()) {
    Greet(std::move(socket));
    Accept();
    return;
  }
  // The peer left before we came.
  if (result == -ECONNABORTED || result == -EINTR || result == -EAGAIN) {
    Accept();
    return;
  }
  Count(&counters_.failures);
  static LogEvery limit(std::chrono::seconds(10));
  if (limit.Allow()) {
    spdlog::error(
        "{} ({} more not shown)",
        ErrnoToStatus(-result, absl::StrCat("accept a connection on ", address().ToString())),
        limit.TakeSuppressed());
  }
  pause_.Arm(kAcceptPause);
}

// Those who say nothing must not keep out those who do: when there are too many, the oldest goes.
void AcceptLoop::Greet(UniqueFd socket) {
  TuneStreamSocket(socket.get(), address().scheme == AddressScheme::kUnix ? AF_UNIX : AF_INET);
  auto greeting = std::make_unique<Greeting>(this, std::move(socket)).release();
  greeting->place = greetings_.insert(greetings_.end(), greeting);
  if (greetings_.size() <= options_.max_greeting) return;
  auto oldest = std::find_if_not(greetings_.begin(), greetings_.end(),
                                 [](const Greeting* other) { return other->cancelled(); });
  (*oldest)->Cancel(ErrnoToStatus(EBUSY, "too many connect at the same time"),
                    &counters_.crowded_out);
}

void AcceptLoop::Greeted(Greeting* greeting, std::unique_ptr<IncomingConnection> incoming) {
  // The handler may destroy the listener; as long as the greeting is listed, this stays.
  if (!ended_ && incoming != nullptr) handler_->OnIncoming(std::move(incoming));
  greetings_.erase(greeting->place);
  FreeIfDone();
}

void AcceptLoop::End() {
  ended_ = true;
  socket_.Close();
  pause_.Cancel();
  if (busy_) ring_->Cancel(&accept_);
  for (Greeting* greeting : greetings_) {
    greeting->Cancel(ErrnoToStatus(ESHUTDOWN, "no longer listening"), &counters_.silent);
  }
  FreeIfDone();
}

void AcceptLoop::FreeIfDone() {
  if (!ended_ || busy_ || !greetings_.empty()) return;
  const std::unique_ptr<AcceptLoop> self(this);
}

class StreamListener final : public Listener {
 public:
  explicit StreamListener(std::unique_ptr<AcceptLoop> loop)
      : address_(loop->address()), loop_(loop.release()) {
    loop_->Accept();
  }
  ~StreamListener() override { loop_->End(); }

  const Address& address() const override { return address_; }
  ListenerCounters counters() const override {
    auto load = [](const std::atomic<uint64_t>& counter) {
      return counter.load(std::memory_order_relaxed);
    };
    const AtomicCounters& counters = *loop_->counters();
    return {.incoming = load(counters.incoming),
            .violations = load(counters.violations),
            .silent = load(counters.silent),
            .crowded_out = load(counters.crowded_out),
            .failures = load(counters.failures)};
  }

 private:
  const Address address_;
  AcceptLoop* const loop_;  // frees itself after End()
};

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> ListenOnStream(Ring* ring, const Address& address,
                                                         const StreamOptions& options,
                                                         ListenHandler* handler) {
  ASSIGN_OR_RETURN(ListeningSocket socket, ListeningSocket::Open(address));
  return std::make_unique<StreamListener>(
      std::make_unique<AcceptLoop>(ring, options, std::move(socket), handler));
}

}  // namespace rnbd::rtrs
