#include <poll.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "rtrs/features.h"
#include "rtrs/iwarp.h"
#include "rtrs/verbs_address.h"
#include "rtrs/verbs_connection.h"

// Connecting, accepting and closing.
namespace rnbd::rtrs {
namespace {

// Kernel peers use the largest there are: retries are counted by the device, and a peer without a
// posted receive is waited for (protocol page, section 2.3).
constexpr uint8_t kRetries = 7;
// "Consumer defined": the peer's program has rejected us, not its connection manager.
constexpr int kRejectedByConsumer = 28;
// What is written within a work request when it is no larger, if the device can: headers and
// heartbeats.
constexpr std::array<uint32_t, 3> kInlineSizes = {128, 64, 0};
constexpr uint32_t kLargestSignalInterval = 64;
// How long an iWARP connection manager waits for the peer's answer, with time to spare.
constexpr absl::Duration kIwarpConnectTimeout = absl::Seconds(15);

rdma_conn_param ConnectionParameters(absl::Span<const uint8_t> private_data) {
  rdma_conn_param parameters = {};
  parameters.private_data = private_data.data();
  parameters.private_data_len = static_cast<uint8_t>(private_data.size());
  parameters.retry_count = kRetries;
  parameters.rnr_retry_count = kRetries;
  return parameters;
}

// The connection manager says EINVAL of an identifier whose peer has left meanwhile.
absl::Status PeerLeft() {
  return ErrnoToStatus(ECONNRESET, "the peer left before it was accepted");
}

// The errno of an event's status, which is negative where it is one.
int EventError(int status, int otherwise) { return status < 0 ? -status : otherwise; }

}  // namespace

VerbsConnection::VerbsConnection(Ring* ring, const VerbsOptions& options, const PathAddress& path,
                                 VerbsDomain* domain, const ConnectionLimits& limits,
                                 ConnectionHandler* handler)
    : ring_(ring),
      options_(options),
      path_(path),
      domain_(domain),
      limits_(limits),
      handler_(handler),
      header_bytes_(domain->is_iwarp() ? sizeof(IwarpHeader) : 0),
      timer_(ring, [this] { OnTimer(); }),
      receives_(limits.receives),
      unposted_(limits.receives),
      staging_(domain),
      places_(limits.receives) {}

VerbsConnection::~VerbsConnection() {
  assert(state_ == State::kIdle || state_ == State::kDown);
  if (id_ != nullptr && id_->qp != nullptr) rdma_destroy_qp(id_.get());
}

absl::StatusOr<std::unique_ptr<VerbsConnection>> VerbsConnection::ForConnect(
    Ring* ring, const VerbsOptions& options, const PathAddress& path, VerbsDomain* domain,
    const ConnectionLimits& limits, ConnectionHandler* handler) {
  std::unique_ptr<VerbsConnection> connection(
      new VerbsConnection(ring, options, path, domain, limits, handler));
  RETURN_IF_ERROR(connection->OpenChannel());
  rdma_cm_id* id = nullptr;
  if (rdma_create_id(connection->channel_.get(), &id, nullptr,
                     PortSpace(path.destination.scheme)) != 0) {
    return NoConnectionManager(errno);
  }
  connection->id_.reset(id);
  // As the kernel's client does, so that a source port can be used again at once.
  int yes = 1;
  rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_REUSEADDR, &yes, sizeof(yes));
  return connection;
}

absl::StatusOr<std::unique_ptr<VerbsConnection>> VerbsConnection::ForAccept(
    Ring* ring, const VerbsOptions& options, UniqueCmId* id, VerbsDomain* domain,
    const ConnectionLimits& limits, ConnectionHandler* handler) {
  std::unique_ptr<VerbsConnection> connection(
      new VerbsConnection(ring, options, PathAddress(), domain, limits, handler));
  connection->accepting_ = true;
  RETURN_IF_ERROR(connection->OpenChannel());
  if ((*id)->verbs != domain->device()) {
    return ErrnoToStatus(EXDEV, "accept a connection over another RDMA device than the path's");
  }
  connection->id_ = std::move(*id);
  absl::Status taken = connection->CreateQueues();
  if (taken.ok() && rdma_migrate_id(connection->id_.get(), connection->channel_.get()) != 0) {
    taken = errno == EINVAL ? PeerLeft() : ErrnoToStatus(errno, "take over a connection");
  }
  if (taken.ok()) return connection;
  if (connection->id_->qp != nullptr) rdma_destroy_qp(connection->id_.get());
  // Accept() will find it.
  if (StatusToErrno(taken) == ECONNRESET) {
    connection->id_.reset();
    connection->why_ = taken;
    return connection;
  }
  // For the owner to reject it.
  *id = std::move(connection->id_);
  return taken;
}

absl::Status VerbsConnection::OpenChannel() {
  channel_.reset(rdma_create_event_channel());
  if (channel_ == nullptr) return NoConnectionManager(errno);
  return SetNonBlocking(channel_->fd);
}

void VerbsConnection::Watch() {
  watch_ =
      domain_->watch()->Register(id_->port_num, ring_, [self = self_](const absl::Status& why) {
        if (*self != nullptr) (*self)->Part(why);
      });
}

// Within the device's limits: what its send queue does not take waits here, but receives cannot.
absl::Status VerbsConnection::CreateQueues() {
  const std::string device = ibv_get_device_name(domain_->device()->device);
  const auto device_limit = static_cast<uint32_t>(domain_->limits().max_qp_wr);
  if (limits_.receives > device_limit) {
    return ErrnoToStatus(ENOSPC, absl::StrCat("RDMA device ", device, " takes ", device_limit,
                                              " receives per connection, ", limits_.receives,
                                              " are needed: lower queue_depth"));
  }
  const uint32_t elements = over_iwarp() ? kMaxLocalSpans + 1 : kMaxLocalSpans;
  if (static_cast<uint32_t>(domain_->limits().max_sge) < elements) {
    return ErrnoToStatus(ENOTSUP,
                         absl::StrCat("RDMA device ", device, " sends ", domain_->limits().max_sge,
                                      " pieces of memory in a request, ", elements, " are needed"));
  }
  const uint32_t work_per_request = over_iwarp() ? 2 : 1;
  const uint32_t bindings = 2 * limits_.windows;
  const uint32_t wanted = limits_.send_requests + kLargestSignalInterval;
  if (bindings >= device_limit / 2) {
    return ErrnoToStatus(ENOSPC, absl::StrCat("RDMA device ", device, " takes ", device_limit,
                                              " requests per connection, ", bindings,
                                              " are needed for memory windows alone: lower "
                                              "queue_depth or set always_invalidate: no"));
  }
  device_slots_ = std::min(wanted, (device_limit - bindings) / work_per_request);
  signal_interval_ = std::clamp(device_slots_ / 4, 1U, kLargestSignalInterval);
  requests_.resize(std::bit_ceil(limits_.send_requests + device_slots_));
  RETURN_IF_ERROR(CreateHeaders());

  completion_channel_.reset(ibv_create_comp_channel(domain_->device()));
  if (completion_channel_ == nullptr) {
    return ErrnoToStatus(errno, absl::StrCat("create a completion channel on ", device));
  }
  RETURN_IF_ERROR(SetNonBlocking(completion_channel_->fd));
  const uint32_t work = work_per_request * device_slots_ + bindings;
  const uint32_t completions = work + limits_.receives + 1;
  if (const auto limit = static_cast<uint32_t>(domain_->limits().max_cqe); completions > limit) {
    return ErrnoToStatus(
        ENOSPC, absl::StrCat("RDMA device ", device, " takes ", limit, " completions, ",
                             completions, " are needed for a connection: lower queue_depth"));
  }
  completion_queue_.reset(ibv_create_cq(domain_->device(), static_cast<int>(completions), nullptr,
                                        completion_channel_.get(), 0));
  if (completion_queue_ == nullptr) {
    return ErrnoToStatus(errno, absl::StrCat("create a completion queue on ", device));
  }
  ibv_qp_init_attr attributes = {};
  attributes.send_cq = attributes.recv_cq = completion_queue_.get();
  attributes.qp_type = IBV_QPT_RC;
  attributes.cap.max_send_wr = work;
  attributes.cap.max_recv_wr = std::max(limits_.receives, 1U);
  attributes.cap.max_send_sge = elements;
  attributes.cap.max_recv_sge = 1;
  int created = -1;
  for (const uint32_t inline_size : kInlineSizes) {
    attributes.cap.max_inline_data = inline_size;
    created = rdma_create_qp(id_.get(), domain_->pd(), &attributes);
    if (created == 0) max_inline_ = inline_size;
    if (created == 0 || errno != EINVAL) break;
  }
  if (created != 0 && errno == EINVAL && accepting_) return PeerLeft();
  if (created != 0) {
    return ErrnoToStatus(errno, absl::StrCat("create a queue pair with ", work, " sends and ",
                                             limits_.receives, " receives on ", device));
  }
  return PostReceives();
}

absl::Status VerbsConnection::CreateHeaders() {
  if (!over_iwarp()) return absl::OkStatus();
  ASSIGN_OR_RETURN(headers_, UniqueMapping::Anonymous(requests_.size() * header_bytes_));
  ASSIGN_OR_RETURN(headers_mr_, domain_->RegisterStaging(headers_.span()));
  return absl::OkStatus();
}

bool VerbsConnection::MayFollow(State from, State to) {
  switch (from) {
    case State::kIdle:
      return to == State::kResolving || to == State::kAccepting || to == State::kDraining;
    case State::kResolving:
      return to == State::kConnecting || to == State::kDraining;
    case State::kConnecting:
      return to == State::kEstablished || to == State::kTakingBack || to == State::kParting ||
             to == State::kDraining;
    case State::kAccepting:
      return to == State::kEstablished || to == State::kParting || to == State::kDraining;
    case State::kTakingBack:
      return to == State::kDraining;
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

void VerbsConnection::Enter(State next) {
  assert(MayFollow(state_, next));
  state_ = next;
}

void VerbsConnection::Connect(absl::Span<const uint8_t> private_data, absl::Duration timeout) {
  assert(ring_->OnOwnThread() && state_ == State::kIdle && !accepting_);
  if (!why_.ok()) {
    Drain();
    return;
  }
  Enter(State::kResolving);
  std::copy(private_data.begin(), private_data.end(), private_data_.begin());
  timeout_ = timeout;
  timer_.Arm(timeout);
  AwaitEvent();
  absl::StatusOr<SocketAddress> destination = ToRdmaAddress(path_.destination);
  if (!destination.ok()) {
    Part(destination.status());
    return;
  }
  // From the address that the domain was made for, so that it is the domain's device.
  SocketAddress source = domain_->source();
  const auto limit = static_cast<int>(absl::ToInt64Milliseconds(timeout));
  if (rdma_resolve_addr(id_.get(), source.get(), destination->get(), std::max(limit, 1)) != 0) {
    Part(CannotConnect(errno, "resolve the address"));
  }
}

void VerbsConnection::Accept(absl::Span<const uint8_t> private_data) {
  assert(ring_->OnOwnThread() && state_ == State::kIdle && accepting_);
  if (!why_.ok()) {
    if (id_ != nullptr) rdma_reject(id_.get(), nullptr, 0);
    Drain();
    return;
  }
  Enter(State::kAccepting);
  timeout_ = options_.accept_timeout;
  timer_.Arm(timeout_);
  Watch();
  AwaitEvent();
  StartPolling();
  rdma_conn_param parameters = ConnectionParameters(private_data);
  if (rdma_accept(id_.get(), &parameters) != 0) {
    Part(ErrnoToStatus(errno, "accept a connection that has gone"));
  }
}

void VerbsConnection::AwaitEvent() {
  event_busy_ = true;
  ring_->Start(&event_, [this](io_uring_sqe* entry) {
    io_uring_prep_poll_add(entry, channel_->fd, POLLIN);
  });
}

void VerbsConnection::OnEventReady(int32_t, uint32_t) {
  event_busy_ = false;
  if (state_ == State::kDraining) {
    FinishIfQuiet();
    return;
  }
  while (TakeEvent()) {
  }
  if (state_ != State::kDraining) AwaitEvent();
}

// False when there is none, or the connection has ended.
bool VerbsConnection::TakeEvent() {
  rdma_cm_event* event = nullptr;
  if (rdma_get_cm_event(channel_.get(), &event) != 0) return false;
  const rdma_cm_event_type type = event->event;
  const int status = event->status;
  std::array<uint8_t, kPrivateDataBytes> copy;
  size_t bytes = 0;
  if (event->param.conn.private_data != nullptr) {
    bytes = std::min<size_t>(event->param.conn.private_data_len, copy.size());
    std::memcpy(copy.data(), event->param.conn.private_data, bytes);
  }
  // Before anything else: the identifier cannot go as long as an event of it is out.
  rdma_ack_cm_event(event);
  OnEvent(type, status, absl::MakeConstSpan(copy.data(), bytes));
  return state_ != State::kDraining;
}

void VerbsConnection::OnEvent(rdma_cm_event_type type, int status,
                              absl::Span<const uint8_t> private_data) {
  answered_ = state_ == State::kConnecting || state_ == State::kTakingBack;
  if (state_ == State::kTakingBack) {
    LetGo();
    Drain();
    return;
  }
  switch (type) {
    case RDMA_CM_EVENT_ADDR_RESOLVED:
      return OnAddressResolved();
    case RDMA_CM_EVENT_ROUTE_RESOLVED:
      return OnRouteResolved();
    case RDMA_CM_EVENT_ESTABLISHED:
      return Establish(private_data);
    case RDMA_CM_EVENT_REJECTED:
      return OnRejected(status, private_data);
    case RDMA_CM_EVENT_ADDR_ERROR:
      return Part(CannotConnect(EventError(status, EHOSTUNREACH), "resolve the address"));
    case RDMA_CM_EVENT_ROUTE_ERROR:
      return Part(CannotConnect(EventError(status, EHOSTUNREACH), "find a route"));
    case RDMA_CM_EVENT_CONNECT_ERROR:
      return Part(CannotConnect(EventError(status, ECONNRESET), "connect"));
    case RDMA_CM_EVENT_UNREACHABLE:
      return Part(CannotConnect(EventError(status, ENETUNREACH), "reach the peer"));
    case RDMA_CM_EVENT_DISCONNECTED:
      return OnPeerLeft();
    case RDMA_CM_EVENT_DEVICE_REMOVAL:
      return Part(ErrnoToStatus(ENODEV, "the RDMA device is being removed"));
    case RDMA_CM_EVENT_ADDR_CHANGE:
      return Part(ErrnoToStatus(EADDRNOTAVAIL, "the address of the RDMA device has changed"));
    default:
      return;
  }
}

void VerbsConnection::OnAddressResolved() {
  if (state_ != State::kResolving) return;
  if (id_->verbs != domain_->device()) {
    Part(CannotConnect(EXDEV, "go over the RDMA device that the path's memory is registered with"));
    return;
  }
  if (absl::Status created = CreateQueues(); !created.ok()) {
    Part(Annotate(created, absl::StrCat("connect to ", path_.destination.ToString())));
    return;
  }
  const auto limit = static_cast<int>(absl::ToInt64Milliseconds(timeout_));
  if (rdma_resolve_route(id_.get(), std::max(limit, 1)) != 0) {
    Part(CannotConnect(errno, "find a route"));
  }
}

void VerbsConnection::OnRouteResolved() {
  if (state_ != State::kResolving) return;
  Enter(State::kConnecting);
  Watch();
  StartPolling();
  rdma_conn_param parameters = ConnectionParameters(private_data_);
  if (rdma_connect(id_.get(), &parameters) == 0) return;
  answered_ = true;
  Part(CannotConnect(errno, "connect"));
}

// A peer that drops the request without an answer shows as one that rejects with nothing but
// zeroes.
void VerbsConnection::OnRejected(int status, absl::Span<const uint8_t> private_data) {
  const bool empty =
      std::all_of(private_data.begin(), private_data.end(), [](uint8_t byte) { return byte == 0; });
  // iWARP's has no word of its own in this.
  const bool by_consumer = over_iwarp() || status == kRejectedByConsumer;
  if (!accepting_ && by_consumer && private_data.size() == kPrivateDataBytes && !empty) {
    rejected_ = true;
    std::copy(private_data.begin(), private_data.end(), private_data_.begin());
    Part(ErrnoToStatus(ECONNREFUSED, "the peer rejected the connection"));
    return;
  }
  Part(CannotConnect(
      ECONNREFUSED,
      absl::StrCat("connect (the peer's connection manager gave reason ", status, ")")));
}

// What the peer sent before it left is in the completion queue.
void VerbsConnection::OnPeerLeft() {
  if (state_ == State::kEstablished) TakeCompletions();
  if (state_ == State::kParting) {
    Drain();
    return;
  }
  if (!why_.ok()) return;
  why_ = ErrnoToStatus(ECONNRESET, "the peer closed the connection");
  LetGo();  // Confirms.
  Drain();
}

void VerbsConnection::Establish(absl::Span<const uint8_t> private_data) {
  // The peer's first message may have been faster.
  if (state_ != State::kConnecting && state_ != State::kAccepting) return;
  if (!accepting_ && over_iwarp() && (FeaturesIn(private_data) & kImmediatesInMessages) == 0) {
    Part(CannotConnect(EPROTONOSUPPORT, "use iWARP, which needs an rnbd-server as the server"));
    return;
  }
  Enter(State::kEstablished);
  timer_.Cancel();
  handler_->OnEstablished(accepting_ ? absl::Span<const uint8_t>() : private_data);
}

absl::Status VerbsConnection::CannotConnect(int error, absl::string_view what) const {
  if (accepting_) return ErrnoToStatus(error, absl::StrCat("accept a connection: ", what));
  return ErrnoToStatus(error,
                       absl::StrCat("connect to ", path_.destination.ToString(), ": ", what));
}

void VerbsConnection::Disconnect(const absl::Status& reason) {
  Part(reason.ok() ? ErrnoToStatus(ECONNRESET, "closed") : reason);
}

// The one way to the end: the first reason counts. A connection that has not begun may be on any
// thread; Connect() or Accept() finds the reason. With the queue pair the device lets go of all
// memory.
LocalEnd VerbsConnection::local_end() const {
  LocalEnd end;
  if (id_.get() == nullptr || id_.get()->verbs == nullptr) return end;
  absl::StatusOr<Address> address = FromRdmaAddress(rdma_get_local_addr(id_.get()));
  if (address.ok()) end.source = *std::move(address);
  end.source.scheme = path_.destination.scheme;
  end.source.port = path_.source.has_value() ? path_.source->port : 0;
  end.device = ibv_get_device_name(id_.get()->verbs->device);
  end.port = id_.get()->port_num;
  return end;
}

void VerbsConnection::Part(const absl::Status& why) {
  if (!why_.ok()) return;
  why_ = why;
  if (state_ == State::kIdle) return;
  assert(ring_->OnOwnThread());
  if (state_ == State::kConnecting && over_iwarp() && !answered_) {
    Enter(State::kTakingBack);
    timer_.Arm(kIwarpConnectTimeout);
    return;
  }
  const bool told = LetGo();
  if (state_ != State::kEstablished || !told) {
    Drain();
    return;
  }
  Enter(State::kParting);
  timer_.Arm(options_.goodbye_timeout);
}

// True when the peer is told.
bool VerbsConnection::LetGo() {
  if (id_->qp == nullptr) return false;
  const bool told = rdma_disconnect(id_.get()) == 0;
  rdma_destroy_qp(id_.get());
  return told;
}

void VerbsConnection::OnTimer() {
  if (state_ == State::kParting || state_ == State::kTakingBack) {
    LetGo();
    Drain();
    return;
  }
  Part(CannotConnect(ETIMEDOUT, absl::StrCat("not within ", absl::FormatDuration(timeout_))));
}

void VerbsConnection::Drain() {
  Enter(State::kDraining);
  timer_.Cancel();
  ring_->Unregister(&flush_);
  ring_->Unregister(&poll_);
  ring_->Unregister(&rest_);
  if (event_busy_) ring_->Cancel(&event_);
  if (completion_busy_) ring_->Cancel(&completion_);
  FinishIfQuiet();
}

void VerbsConnection::FinishIfQuiet() {
  if (event_busy_ || completion_busy_) return;
  ring_->AtTurnEnd(&report_);
}

void VerbsConnection::Report() {
  Enter(State::kDown);
  if (watch_ != 0) domain_->watch()->Unregister(watch_);
  *self_ = nullptr;
  if (unacknowledged_ > 0) ibv_ack_cq_events(completion_queue_.get(), unacknowledged_);
  unacknowledged_ = 0;
  completion_queue_.reset();
  completion_channel_.reset();
  id_.reset();
  channel_.reset();
  handler_->OnDisconnected(
      why_, rejected_ ? absl::MakeConstSpan(private_data_) : absl::Span<const uint8_t>());
}

}  // namespace rnbd::rtrs
