#include "rtrs/client_path.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/random.h"
#include "common/status.h"
#include "rtrs/refusal.h"
#include "rtrs/ring_round.h"
#include "rtrs/uuid.h"

namespace rnbd::rtrs {
namespace {

// Heartbeats, their acknowledgements and INFO beside the requests.
constexpr uint32_t kExtraRequests = 16;
// INFO_RSP is written behind this offset.
constexpr size_t kInfoResponseOffset = 512;
static_assert(sizeof(InfoRequest) <= kInfoResponseOffset);

// Section 2.6: what a kernel client provides on connection 0.
constexpr ConnectionLimits kServiceLimits = {.send_requests = 1026, .receives = 1026};

ConnectionLimits IoLimits(uint32_t queue_depth) {
  return {.send_requests = queue_depth + kExtraRequests,
          .receives = 2 * queue_depth + kExtraRequests};
}

}  // namespace

ClientPath::ClientPath(ClientPathOwner* owner, Fabric* fabric, PathAddress address,
                       const Uuid& session_uuid, std::string session_name,
                       const ClientPathSettings& settings, Ring* control,
                       std::vector<Ring*> workers)
    : owner_(owner),
      fabric_(fabric),
      address_(std::move(address)),
      session_uuid_(session_uuid),
      session_name_(std::move(session_name)),
      settings_(settings),
      control_(control),
      workers_(std::move(workers)),
      path_uuid_(RandomUuid()),
      timer_(control, [this] { OnTimer(); }),
      heartbeat_timer_(control, [this] { OnHeartbeatTimer(); }),
      heartbeat_settings_(settings.heartbeat),
      heartbeat_(heartbeat_settings_),
      counters_(workers_.size() + 1),
      permit_timer_(control, [this] { ReturnPermits(); }) {
  local_end_.source.scheme = address_.destination.scheme;
  if (address_.source.has_value()) local_end_.source = *address_.source;
}

ClientPath::~ClientPath() = default;

bool ClientPath::MayFollow(State from, State to) {
  switch (from) {
    case State::kIdle:
    case State::kWaiting:
      return to == State::kConnecting || to == State::kStopped || to == State::kClosed;
    case State::kConnecting:
      return to == State::kConnected || to == State::kDisconnecting;
    case State::kConnected:
      return to == State::kDisconnecting;
    case State::kDisconnecting:
      return to == State::kWaiting || to == State::kStopped || to == State::kClosed;
    case State::kStopped:
      return to == State::kConnecting || to == State::kClosed;
    case State::kClosed:
      return false;
  }
  return false;
}

void ClientPath::Enter(State next) {
  assert(MayFollow(state_, next));
  state_ = next;
}

void ClientPath::Connect() { StartAttempt(); }

void ClientPath::StartAttempt() {
  Enter(State::kConnecting);
  ++recon_cnt_;
  first_ = !owner_->HasConnectedPath();
  was_connected_ = false;
  info_sent_ = false;
  connections_ready_ = 0;
  why_ = absl::OkStatus();
  timer_.Arm(settings_.connect_timeout);
  absl::Status prepared = PrepareAttempt();
  if (!prepared.ok()) Fail(prepared);
}

absl::Status ClientPath::PrepareAttempt() {
  memory_ = PathMemory();
  tables_ = nullptr;
  ASSIGN_OR_RETURN(domain_, fabric_->CreateDomain(address_));
  return AddConnection();
}

// Starts the connection with the next cid.
absl::Status ClientPath::AddConnection() {
  const auto cid = static_cast<uint16_t>(connections_.size());
  const auto cid_num = static_cast<uint16_t>(workers_.size() + 1);
  const size_t lane = cid == 0 ? workers_.size() : cid - 1;
  Ring* ring = cid == 0 ? control_ : workers_[lane];
  ClientConnectionOwner* owner = this;
  auto connection =
      std::make_unique<ClientConnection>(cid, lane, ring, owner, &signals_, &counters_[lane]);
  ConnectionLimits limits = cid == 0 ? kServiceLimits : IoLimits(acceptance_.geometry.queue_depth);
  ASSIGN_OR_RETURN(auto fabric_connection, fabric_->CreateConnection(ring, address_, domain_.get(),
                                                                     limits, connection.get()));
  connection->set_connection(std::move(fabric_connection));
  if (cid > 0) connection->PostResponseReceives(limits.receives, acceptance_.new_rkey);
  ConnectRequest request =
      MakeConnectRequest(cid, cid_num, recon_cnt_, path_uuid_, session_uuid_, first_);
  request.extension = Extension::Ours();
  ++connections_up_;
  connections_.push_back(std::move(connection));
  ring->Post(
      [connection = connections_.back().get(), request, timeout = settings_.connect_timeout] {
        connection->Connect(MessageBytes(request), timeout);
      });
  return absl::OkStatus();
}

void ClientPath::OnConnectionEstablished(ClientConnection* connection,
                                         absl::Span<const uint8_t> private_data) {
  control_->Post(
      [this, connection, copy = std::vector<uint8_t>(private_data.begin(), private_data.end())] {
        Established(connection, copy);
      });
}

void ClientPath::Established(ClientConnection* connection, absl::Span<const uint8_t> private_data) {
  if (state_ != State::kConnecting) return;
  if (connection->cid() == 0) local_end_ = connection->local_end();
  absl::Status next = TakeAcceptance(connection, private_data);
  if (next.ok()) {
    next = connections_.size() <= workers_.size() ? AddConnection() : SendInfoRequest();
  }
  if (!next.ok()) Fail(next);
}

// Section 2.5: connection 0 decides what the path has; the others only have to be accepted.
absl::Status ClientPath::TakeAcceptance(ClientConnection* connection,
                                        absl::Span<const uint8_t> private_data) {
  absl::StatusOr<Acceptance> acceptance = ParseAcceptance(private_data);
  if (connection->cid() > 0) {
    const bool no_geometry = StatusToErrno(acceptance.status()) == EINVAL;
    return no_geometry ? absl::OkStatus() : acceptance.status();
  }
  RETURN_IF_ERROR(acceptance.status());
  acceptance_ = *acceptance;
  ReturnPermits();
  features_ = acceptance_.response.extension.features();
  heartbeat_settings_ = features_ != 0 ? settings_.heartbeat : settings_.kernel_heartbeat;
  ASSIGN_OR_RETURN(tables_, owner_->OnGeometry(acceptance_.geometry));
  return RegisterMemory();
}

absl::Status ClientPath::RegisterMemory() {
  for (absl::Span<uint8_t> area : tables_->areas) {
    ASSIGN_OR_RETURN(Region region, domain_->Register(area, /*remote_write=*/true));
    memory_.areas.push_back(region);
  }
  ASSIGN_OR_RETURN(memory_.headers, domain_->Register(tables_->headers, /*remote_write=*/false));
  ASSIGN_OR_RETURN(info_,
                   UniqueMapping::Anonymous(kInfoResponseOffset +
                                            InfoResponseSize(acceptance_.geometry.queue_depth)));
  ASSIGN_OR_RETURN(info_region_, domain_->Register(info_.span(), /*remote_write=*/false));
  return absl::OkStatus();
}

absl::Status ClientPath::SendInfoRequest() {
  ASSIGN_OR_RETURN(InfoRequest request, MakeInfoRequest(session_name_));
  std::memcpy(info_.data(), &request, sizeof(request));
  ClientConnection* service = connections_.front().get();
  service->PostReceive(info_.span().subspan(kInfoResponseOffset));
  // Before anything can come: over iWARP nobody waits for a receive.
  service->PostResponseReceives(kServiceLimits.receives - 2, acceptance_.new_rkey);
  service->SendInfoRequest(info_.span().first(sizeof(request)), info_region_.local_key);
  info_sent_ = true;
  return absl::OkStatus();
}

// Connection 0 runs on the control thread, so this needs no detour; and must have none, for a
// heartbeat may be right behind.
void ClientPath::OnInfoResponse(ClientConnection*, absl::Span<const uint8_t> message) {
  if (state_ != State::kConnecting) return;
  absl::Status taken = TakeInfoResponse(message);
  if (!taken.ok()) Fail(taken);
}

absl::Status ClientPath::TakeInfoResponse(absl::Span<const uint8_t> message) {
  if (!info_sent_) return ErrnoToStatus(EPROTO, "the server sent INFO_RSP before INFO_REQ");
  // The chunks may have grown since the session was made; this path has what its server accepted
  // with.
  ASSIGN_OR_RETURN(memory_.chunks, ParseInfoResponse(message, acceptance_.geometry));
  const ClientConnection* service = connections_.front().get();
  for (const auto& connection : connections_) {
    auto activate = [this, connection = connection.get()] {
      connection->Activate(tables_, &memory_);
    };
    if (connection.get() == service) {
      activate();
    } else {
      connection->ring()->Post(activate);
    }
  }
  return absl::OkStatus();
}

void ClientPath::OnConnectionReady(ClientConnection* connection) {
  owner_->OnConnectionReady(connection);
  control_->Post([this] { Ready(); });
}

void ClientPath::Ready() {
  if (state_ != State::kConnecting || ++connections_ready_ < connections_.size()) return;
  Enter(State::kConnected);
  was_connected_ = true;
  failed_attempts_ = 0;
  failed_connects_ = 0;
  if (std::exchange(was_ever_connected_, true)) ++reconnects_;
  timer_.Cancel();
  heartbeat_ = Heartbeat(heartbeat_settings_);
  signals_.heard.store(true, std::memory_order_relaxed);
  signals_.latency_ns.store(0, std::memory_order_relaxed);
  heartbeat_timer_.Arm(heartbeat_settings_.interval);
  owner_->OnPathUp(this);
}

void ClientPath::OnHeartbeatTimer() {
  heartbeat_timer_.Arm(heartbeat_settings_.interval);
  bool heard = signals_.heard.exchange(false, std::memory_order_relaxed);
  switch (heartbeat_.Tick(heard, control_->now_ns())) {
    case Heartbeat::Action::kNothing:
      return;
    case Heartbeat::Action::kSend:
      connections_.front()->SendHeartbeat(kHeartbeatImmediate);
      return;
    case Heartbeat::Action::kDead:
      Fail(ErrnoToStatus(ETIMEDOUT,
                         absl::StrCat("the server gave no sign of life for ",
                                      absl::FormatDuration(heartbeat_settings_.DetectionBound()))));
      return;
  }
}

void ClientPath::OnHeartbeatAck(ClientConnection* connection) {
  if (connection->cid() > 0) return;
  heartbeat_.OnAck(control_->now_ns());
  signals_.latency_ns.store(absl::ToInt64Nanoseconds(heartbeat_.latency()),
                            std::memory_order_relaxed);
}

// From any other server, or on a worker's connection, it is an immediate of an unknown type.
void ClientPath::OnNews(ClientConnection* connection, uint32_t news) {
  if (connection->cid() == 0 && (features_ & kNews) != 0) owner_->OnNews(news);
}

void ClientPath::OnPermitFree(ClientConnection* connection, uint32_t permit) {
  owner_->OnPermitFree(connection->lane(), permit);
}

void ClientPath::OnRequestsLost() {
  if (!requests_lost_.exchange(true)) owner_->OnRequestsLost();
}

void ClientPath::OnConnectionLost(ClientConnection* connection) {
  owner_->OnConnectionLost(connection);
}

void ClientPath::OnConnectionDown(ClientConnection* connection, const absl::Status& why,
                                  absl::Span<const uint8_t> private_data) {
  absl::Status reason = private_data.empty() ? why : ReadRefusal(private_data);
  control_->Post([this, connection, reason] { Down(connection, reason); });
}

// Section 6.4: one connection lost takes the whole path down.
void ClientPath::Fail(const absl::Status& why) {
  if (state_ != State::kConnecting && state_ != State::kConnected) return;
  Enter(State::kDisconnecting);
  why_ = why;
  timer_.Cancel();
  heartbeat_timer_.Cancel();
  for (const auto& connection : connections_) {
    connection->ring()->Post([connection = connection.get(), why] { connection->Disconnect(why); });
  }
  if (connections_up_ == 0) Quiesce();
}

void ClientPath::Down(ClientConnection* connection, const absl::Status& why) {
  Fail(Annotate(why, absl::StrCat("connection ", connection->cid())));
  if (--connections_up_ == 0) Quiesce();
}

// Every connection is down, but tasks for them may still wait on their threads.
void ClientPath::Quiesce() {
  AfterRound(control_, workers_, [this] { AttemptOver(); });
}

void ClientPath::AttemptOver() {
  for (const auto& connection : connections_) {
    const std::vector<uint32_t>& permits = connection->stranded_permits();
    stranded_permits_.insert(stranded_permits_.end(), permits.begin(), permits.end());
    if (permits.empty()) continue;
    stranded_by_ = recon_cnt_;
    if (!server_takes_fences()) permit_timer_.Arm(heartbeat_settings_.DetectionBound());
  }
  connections_.clear();
  domain_.reset();
  if (closed_ != nullptr) {
    Enter(State::kClosed);
    owner_->OnPathDown(this, was_connected_, why_, absl::InfiniteDuration());
    std::exchange(closed_, nullptr)();
    return;
  }
  if (!was_connected_) {
    ++failed_connects_;
    if (was_ever_connected_) ++failed_reconnects_;
  }
  const WhenDown next = TakeWhenDown();
  if (next == WhenDown::kStop) {
    Enter(State::kStopped);
    owner_->OnPathDown(this, was_connected_, why_, absl::InfiniteDuration());
    return;
  }
  Enter(State::kWaiting);
  absl::Duration wait = next == WhenDown::kConnect ? absl::ZeroDuration() : NextWait();
  timer_.Arm(wait);
  owner_->OnPathDown(this, was_connected_, why_, wait);
}

ClientPath::WhenDown ClientPath::TakeWhenDown() {
  const WhenDown asked = std::exchange(when_down_, WhenDown::kWait);
  if (asked != WhenDown::kWait) return asked;
  const bool tried_enough =
      max_reconnect_attempts_ >= 0 && failed_connects_ >= max_reconnect_attempts_;
  return tried_enough ? WhenDown::kStop : WhenDown::kWait;
}

void ClientPath::Stop() {
  switch (state_) {
    case State::kConnecting:
    case State::kConnected:
      when_down_ = WhenDown::kStop;
      Fail(ErrnoToStatus(ESHUTDOWN, "disconnected by a person"));
      return;
    case State::kDisconnecting:
      when_down_ = WhenDown::kStop;
      return;
    case State::kIdle:
    case State::kWaiting:
      timer_.Cancel();
      Enter(State::kStopped);
      return;
    case State::kStopped:
    case State::kClosed:
      return;
  }
}

absl::Status ClientPath::Reconnect() {
  switch (state_) {
    case State::kConnected:
      when_down_ = WhenDown::kConnect;
      Fail(ErrnoToStatus(ECONNRESET, "connected anew by a person"));
      break;
    case State::kIdle:
    case State::kWaiting:
    case State::kStopped:
      timer_.Cancel();
      failed_attempts_ = 0;
      failed_connects_ = 0;
      StartAttempt();
      break;
    case State::kConnecting:
    case State::kDisconnecting:
    case State::kClosed:
      return ErrnoToStatus(
          EBUSY, absl::StrCat("connect path ", address_.ToString(), " anew while it connects"));
  }
  return absl::OkStatus();
}

PathTraffic ClientPath::AllTraffic() const {
  PathTraffic sum;
  for (const PathCounters& lane : counters_) lane.AddTo(&sum);
  return sum;
}

PathTraffic ClientPath::traffic() const {
  PathTraffic traffic = AllTraffic();
  traffic.reads -= counted_.reads;
  traffic.read_bytes -= counted_.read_bytes;
  traffic.writes -= counted_.writes;
  traffic.write_bytes -= counted_.write_bytes;
  traffic.failovers -= counted_.failovers;
  traffic.violations -= counted_.violations;
  return traffic;
}

void ClientPath::ResetTraffic() { counted_ = AllTraffic(); }

void ClientPath::ReturnPermits() {
  permit_timer_.Cancel();
  owner_->OnPermitsReturned(std::exchange(stranded_permits_, {}));
  if (requests_lost_.exchange(false)) owner_->OnFenced();
}

FenceMessage ClientPath::MakeFence() const {
  FenceMessage fence;
  fence.path_uuid = path_uuid_;
  fence.recon_cnt = stranded_by_;
  return fence;
}

void ClientPath::OnFenceAnswered(const FenceMessage& fence) {
  if (NeedsFence() && fence.recon_cnt == stranded_by_) ReturnPermits();
}

// Doubles with each failure; a random part keeps many clients from coming back in step.
absl::Duration ClientPath::NextWait() {
  // Two clients under one name would otherwise take the session from each other all the time.
  if (StatusToErrno(why_) == ESTALE) return settings_.reconnect_max * (0.5 + RandomFraction() / 2);
  absl::Duration wait = settings_.reconnect_min;
  for (int i = 0; i < failed_attempts_ && wait < settings_.reconnect_max; ++i) wait *= 2;
  ++failed_attempts_;
  return std::min(wait, settings_.reconnect_max) * (0.5 + RandomFraction() / 2);
}

void ClientPath::OnTimer() {
  if (state_ == State::kWaiting) {
    StartAttempt();
    return;
  }
  Fail(ErrnoToStatus(ETIMEDOUT, absl::StrCat(MissingStep(), " within ",
                                             absl::FormatDuration(settings_.connect_timeout))));
}

// What an attempt that takes too long waits for.
std::string ClientPath::MissingStep() const {
  if (info_sent_) return "the server did not answer INFO_REQ";
  return absl::StrCat("connection ", connections_.size() - 1, " of ", workers_.size() + 1,
                      " was not accepted");
}

void ClientPath::Close(std::function<void()> closed) {
  closed_ = std::move(closed);
  switch (state_) {
    case State::kConnecting:
    case State::kConnected:
      Fail(ErrnoToStatus(ESHUTDOWN, "the client closes the session"));
      return;
    case State::kDisconnecting:
      return;
    case State::kIdle:
    case State::kWaiting:
    case State::kStopped:
      timer_.Cancel();
      Enter(State::kClosed);
      control_->Post(std::exchange(closed_, nullptr));
      return;
    case State::kClosed:
      control_->Post(std::exchange(closed_, nullptr));
      return;
  }
}

}  // namespace rnbd::rtrs
