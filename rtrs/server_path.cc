#include "rtrs/server_path.h"

#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "rtrs/refusal.h"
#include "rtrs/ring_round.h"

namespace rnbd::rtrs {
namespace {

// What was posted before a connection closes may not reach the peer any more.
constexpr absl::Duration kAnswersGoOut = absl::Milliseconds(50);

}  // namespace

ServerPath::ServerPath(ServerPathOwner* owner, const ConnectRequest& request, Address client,
                       Address server, const SessionGeometry& geometry,
                       const ServerPathSettings& settings, Ring* control,
                       std::vector<Ring*> workers, size_t first_worker)
    : owner_(owner),
      uuid_(request.sess_uuid),
      session_uuid_(request.paths_uuid),
      recon_cnt_(request.recon_cnt),
      client_(std::move(client)),
      server_(std::move(server)),
      geometry_(geometry),
      settings_(settings),
      control_(control),
      workers_(std::move(workers)),
      first_worker_(first_worker),
      connections_(request.cid_num),
      establishment_timer_(control, [this] { OnEstablishmentTimer(); }),
      heartbeat_timer_(control, [this] { OnHeartbeatTimer(); }),
      drain_timer_(control, [this] { OnDrainTimer(); }),
      heartbeat_settings_(request.features() != 0 ? settings.heartbeat : settings.kernel_heartbeat),
      heartbeat_(heartbeat_settings_) {
  shared_.may_fence = (request.features() & kRecovery) != 0;
  establishment_timer_.Arm(settings_.establishment_timeout);
}

ServerPath::~ServerPath() = default;

bool ServerPath::MayFollow(State from, State to) {
  switch (from) {
    case State::kConnecting:
      return to == State::kConnected || to == State::kClosing;
    case State::kConnected:
      return to == State::kClosing;
    case State::kClosing:
      return to == State::kClosed;
    case State::kClosed:
      return false;
  }
  return false;
}

void ServerPath::Enter(State next) {
  assert(MayFollow(state_, next));
  state_ = next;
}

// Section 2.4, check 7.
absl::Status ServerPath::MayAdd(const ConnectRequest& request) const {
  if (state_ == State::kConnected) return Refuse(Refusal::kPathConnected);
  if (state_ != State::kConnecting) return Refuse(Refusal::kPathClosing);
  if (request.cid_num != connections_.size()) return Refuse(Refusal::kOtherCidNum);
  if (connections_[request.cid] != nullptr) return Refuse(Refusal::kSameCid);
  return absl::OkStatus();
}

absl::Status ServerPath::AddConnection(const ConnectRequest& request,
                                       IncomingConnection* incoming) {
  RETURN_IF_ERROR(MayAdd(request));
  if (domain_ == nullptr) {
    ASSIGN_OR_RETURN(domain_, incoming->CreateDomain());
    if (settings_.always_invalidate) {
      ASSIGN_OR_RETURN(windows_, domain_->HasWindows());
    }
  }
  const size_t worker = (first_worker_ + request.cid) % workers_.size();
  ServerConnectionOwner* owner = this;
  auto connection =
      std::make_unique<ServerConnection>(request.cid, workers_[worker], worker, owner, &shared_);
  ASSIGN_OR_RETURN(auto fabric_connection,
                   incoming->CreateConnection(
                       workers_[worker], domain_.get(),
                       ServerConnection::Limits(request.cid, geometry_.queue_depth, windows_),
                       connection.get()));
  connection->Prepare(std::move(fabric_connection), geometry_.queue_depth);
  ++connections_seen_;
  ++connections_open_;
  connections_[request.cid] = std::move(connection);
  ConnectResponse response = MakeConnectResponse(geometry_, windows_);
  if (request.features() != 0) response.extension = Extension::Ours();
  workers_[worker]->Post(
      [connection = connections_[request.cid].get(), response] { connection->Accept(response); });
  return absl::OkStatus();
}

void ServerPath::OnEstablishmentTimer() {
  const absl::Duration limit = settings_.establishment_timeout;
  Close(ErrnoToStatus(
      ETIMEDOUT,
      connections_seen_ < connections_.size()
          ? absl::StrCat("the client opened ", connections_seen_, " of ", connections_.size(),
                         " connections within ", absl::FormatDuration(limit))
          : absl::StrCat("the client sent no INFO_REQ within ", absl::FormatDuration(limit))));
}

void ServerPath::OnInfoRequest(ServerConnection*, const InfoRequest& message) {
  control_->Post([this, message] { TakeInfoRequest(message); });
}

void ServerPath::OnFence(ServerRequest* request, const FenceMessage& message) {
  // The path lives until the request is completed.
  control_->Post([this, request, message] {
    owner_->OnFence(this, message, [request](int error) {
      request->ring()->Post([request, error] { request->Complete(error); });
    });
  });
}

void ServerPath::TakeInfoRequest(const InfoRequest& message) {
  if (closing()) return;
  absl::Status answered = AnswerInfoRequest(message);
  if (!answered.ok()) Close(answered);
}

// Section 2.8: the order of the checks is the kernel's.
absl::Status ServerPath::AnswerInfoRequest(const InfoRequest& message) {
  if (state_ != State::kConnecting) return ErrnoToStatus(EPROTO, "the client sent INFO_REQ twice");
  if (message.type != static_cast<uint16_t>(MessageType::kInfoRequest)) {
    return ErrnoToStatus(EPROTO, absl::StrCat("the client sent a message of type ",
                                              uint16_t{message.type}, " instead of INFO_REQ"));
  }
  if (connections_seen_ < connections_.size()) {
    return ErrnoToStatus(EPROTO, absl::StrCat("the client sent INFO_REQ with ", connections_seen_,
                                              " of ", connections_.size(), " connections"));
  }
  ASSIGN_OR_RETURN(std::string name, ParseInfoRequest(MessageBytes(message)));
  ASSIGN_OR_RETURN(ServerChunks * chunks, owner_->OnInfo(this, name));
  const SessionGeometry& geometry = chunks->geometry();
  absl::StatusOr<Region> region =
      windows_ ? domain_->RegisterWindows(chunks->memory(), geometry.chunk_size())
               : domain_->Register(chunks->memory(), /*remote_write=*/true);
  RETURN_IF_ERROR(region.status());
  if (windows_) RETURN_IF_ERROR(CreateNextKeys(geometry.queue_depth));

  Descriptor descriptor;
  descriptor.addr = region->address;
  descriptor.rkey = region->remote_key;
  descriptor.len = static_cast<uint32_t>(chunks->memory().size());
  std::vector<uint8_t> response = MakeInfoResponse({descriptor});
  if (windows_) response.resize(InfoResponseSize(geometry.queue_depth));
  ASSIGN_OR_RETURN(info_response_, UniqueMapping::Anonymous(response.size()));
  std::memcpy(info_response_.data(), response.data(), response.size());
  absl::Span<uint8_t> sent = info_response_.span();
  ASSIGN_OR_RETURN(Region sent_region, domain_->Register(sent, /*remote_write=*/false));

  Enter(State::kConnected);
  local_end_ = connections_.front()->local_end();
  establishment_timer_.Cancel();
  shared_.chunks_key = region->local_key;
  // The client sends nothing before it has the response, so every connection sees the chunks before
  // their first request.
  shared_.chunks.store(chunks, std::memory_order_release);
  shared_.heard.store(true, std::memory_order_relaxed);
  heartbeat_timer_.Arm(heartbeat_settings_.interval);
  owner_->OnPathConnected(this);
  ServerConnection* service = connections_.front().get();
  service->ring()->Post(
      [service, sent, key = sent_region.local_key, windows = windows_, address = region->address] {
        if (windows) {
          service->SendWindows(address, sent, key);
        } else {
          service->SendInfoResponse(sent, key);
        }
      });
  return absl::OkStatus();
}

PathTraffic ServerPath::AllTraffic() const {
  PathTraffic sum;
  for (const auto& connection : connections_) {
    if (connection != nullptr) connection->counters().AddTo(&sum);
  }
  return sum;
}

PathTraffic ServerPath::traffic() const {
  PathTraffic traffic = AllTraffic();
  traffic.reads -= counted_.reads;
  traffic.read_bytes -= counted_.read_bytes;
  traffic.writes -= counted_.writes;
  traffic.write_bytes -= counted_.write_bytes;
  return traffic;
}

void ServerPath::ResetTraffic() { counted_ = AllTraffic(); }

absl::Status ServerPath::CreateNextKeys(uint32_t count) {
  ASSIGN_OR_RETURN(next_keys_, UniqueMapping::Anonymous(size_t{count} * sizeof(RkeyResponse)));
  ASSIGN_OR_RETURN(Region region, domain_->Register(next_keys_.span(), /*remote_write=*/false));
  shared_.next_keys =
      absl::MakeSpan(reinterpret_cast<RkeyResponse*>(next_keys_.data()), size_t{count});
  shared_.next_keys_key = region.local_key;
  return absl::OkStatus();
}

void ServerPath::OnHeartbeatTimer() {
  heartbeat_timer_.Arm(heartbeat_settings_.interval);
  bool heard = shared_.heard.exchange(false, std::memory_order_relaxed);
  switch (heartbeat_.Tick(heard, control_->now_ns())) {
    case Heartbeat::Action::kNothing:
      return;
    case Heartbeat::Action::kSend: {
      ServerConnection* service = connections_.front().get();
      service->ring()->Post([service] { service->SendBare(kHeartbeatImmediate); });
      return;
    }
    case Heartbeat::Action::kDead:
      Close(ErrnoToStatus(
          ETIMEDOUT, absl::StrCat("the client gave no sign of life for ",
                                  absl::FormatDuration(heartbeat_settings_.DetectionBound()))));
      return;
  }
}

// Behind INFO_RSP, which the same thread has sent.
void ServerPath::SendNews(uint32_t news) {
  if (state_ != State::kConnected) return;
  ServerConnection* service = connections_.front().get();
  service->ring()->Post([service, news] { service->SendBare(EncodeNews(news)); });
}

void ServerPath::Drain(const absl::Status& why, absl::Duration bound) {
  if (state_ != State::kConnected) return Close(why);
  if (drain_timer_.armed()) return;
  drained_for_ = why;
  undrained_ = connections_.size();
  drain_timer_.Arm(bound);
  for (const auto& connection : connections_) {
    connection->ring()->Post([connection = connection.get()] { connection->Drain(); });
  }
}

void ServerPath::OnConnectionDrained(ServerConnection*) {
  control_->Post([this] {
    if (--undrained_ == 0 && !closing()) drain_timer_.Arm(kAnswersGoOut);
  });
}

void ServerPath::OnDrainTimer() { Close(drained_for_); }

void ServerPath::OnConnectionLost(ServerConnection* connection, const absl::Status& why) {
  control_->Post([this, cid = connection->cid(), why] {
    Close(Annotate(why, absl::StrCat("connection ", cid)));
  });
}

void ServerPath::OnConnectionQuiet(ServerConnection*) {
  control_->Post([this] {
    if (--connections_open_ == 0) Quiesce();
  });
}

void ServerPath::Close(const absl::Status& why) {
  if (closing()) return;
  const bool was_connected = state_ == State::kConnected;
  Enter(State::kClosing);
  establishment_timer_.Cancel();
  heartbeat_timer_.Cancel();
  drain_timer_.Cancel();
  for (const auto& connection : connections_) {
    if (connection == nullptr) continue;
    connection->ring()->Post([connection = connection.get(), why] { connection->Disconnect(why); });
  }
  owner_->OnPathClosing(this, was_connected, why);
  if (connections_open_ == 0) Quiesce();
}

// No connection is left to call, but tasks for them may still wait on their threads.
void ServerPath::Quiesce() {
  AfterRound(control_, workers_, [this] {
    Enter(State::kClosed);
    connections_.clear();
    domain_.reset();
    owner_->OnPathClosed(this);
  });
}

}  // namespace rnbd::rtrs
