#include "rtrs/client_session.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status.h"
#include "rtrs/ring_round.h"
#include "rtrs/uuid.h"

namespace rnbd::rtrs {
namespace {

// Connection 0 has receives for so many on either end, heartbeats beside them; a kernel server
// posts kServiceConnectionDepth.
constexpr uint32_t kMaxServiceRequests = kServiceConnectionDepth / 2;

// A lane whose requests wait keeps the permits it gets for so many of them in a row, which costs
// nothing, before it passes one to another lane that waits, which costs a message between threads.
constexpr uint32_t kMaxPermitsKept = 8;

// Of ReconnectPath() and AddPath(), where the server may not be done with earlier connections of
// the path.
constexpr int kFurtherAttempts = 3;

bool IsPassing(const absl::Status& why) {
  const int error = StatusToErrno(why);
  return error == EEXIST || error == EBUSY || error == ECONNRESET;
}

}  // namespace

// On the control lane. One for each path, sent again when the path that carries it is lost too.
class ClientSession::FenceRequest final : public ClientRequest {
 public:
  FenceRequest(ClientSession* session, ClientPath* path) : session_(session), path_(path) {}

  bool busy() const { return busy_; }
  void Send() {
    busy_ = true;
    message_ = path_->MakeFence();
    direction = Direction::kWrite;
    fence = true;
    user_message = MessageBytes(message_);
    session_->Submit(session_->control_lane(), this);
  }

  void OnDone(int error) override {
    busy_ = false;
    if (error == 0) {
      path_->OnFenceAnswered(message_);
      session_->SendFences();
    } else if (error != ECONNABORTED) {
      spdlog::warn(
          "session {}: the server refused to fence path {}: {}; what was lost with it waits "
          "until it is connected again",
          session_->name(), path_->address().ToString(), ErrnoToStatus(error, "FENCE"));
    }
  }

 private:
  ClientSession* const session_;
  ClientPath* const path_;
  FenceMessage message_;
  bool busy_ = false;
};

absl::StatusOr<std::unique_ptr<ClientSession>> ClientSession::Create(
    ClientSessionOptions options, Fabric* fabric, Ring* control, std::vector<Ring*> workers,
    ClientSessionHandler* handler) {
  RETURN_IF_ERROR(ValidateSessionName(options.name));
  if (options.paths.empty()) return absl::InvalidArgumentError("a session needs a path");
  if (workers.empty() || workers.size() > kMaxWorkers) {
    return absl::InvalidArgumentError(absl::StrCat("a session has 1 to ", kMaxWorkers, " workers"));
  }
  if (options.memory.size() > kMaxAreas) {
    return absl::InvalidArgumentError(
        absl::StrCat("a session has at most ", kMaxAreas, " areas of memory"));
  }
  return std::unique_ptr<ClientSession>(
      new ClientSession(std::move(options), fabric, control, std::move(workers), handler));
}

ClientSession::ClientSession(ClientSessionOptions options, Fabric* fabric, Ring* control,
                             std::vector<Ring*> workers, ClientSessionHandler* handler)
    : options_(std::move(options)),
      fabric_(fabric),
      control_(control),
      workers_(std::move(workers)),
      handler_(handler),
      uuid_(RandomUuid()),
      lanes_(workers_.size() + 1),
      policy_(options_.policy) {
  for (size_t lane = 0; lane < lanes_.size(); ++lane) {
    const bool control = lane == control_lane();
    lanes_[lane].ring = control ? control_ : workers_[lane];
    lanes_[lane].max_in_flight = control ? kMaxServiceRequests : kMaxQueueDepth;
  }
  for (const PathAddress& address : options_.paths) paths_.push_back(MakePath(address));
}

ClientSession::Path ClientSession::MakePath(const PathAddress& address) {
  ClientPathOwner* owner = this;
  Path made;
  made.path = std::make_unique<ClientPath>(owner, fabric_, address, uuid_, options_.name,
                                           options_.path, control_, workers_);
  made.path->set_max_reconnect_attempts(max_reconnect_attempts_);
  made.fence = std::make_unique<FenceRequest>(this, made.path.get());
  return made;
}

ClientSession::~ClientSession() = default;

// One path begins, and makes the session known to the server. The others follow when it is
// connected, so that a path to a server that does not know the session is refused; one by one they
// begin as well while none succeeds.
void ClientSession::Start() {
  Advance(ClientSessionEvent::kStart);
  ConnectIdlePath();
}

void ClientSession::ConnectIdlePath() {
  for (const Path& each : paths_) {
    if (each.path->state() != ClientPath::State::kIdle) continue;
    each.path->Connect();
    return;
  }
}

absl::Status ClientSession::AddPath(const PathAddress& address) {
  assert(!closing());
  for (const Path& each : paths_) {
    if (each.path->address() == address && !each.removed) {
      return ErrnoToStatus(
          EEXIST, absl::StrCat("session ", name(), " has path ", address.ToString(), " already"));
    }
  }
  paths_.push_back(MakePath(address));
  paths_.back().path->Connect();
  handler_->OnPathsChanged();
  return absl::OkStatus();
}

void ClientSession::AddPath(const PathAddress& address,
                            std::function<void(const absl::Status&)> done) {
  const absl::Status added = AddPath(address);
  if (!added.ok()) {
    control_->Post([added, done = std::move(done)] { done(added); });
    return;
  }
  paths_.back().attempts_left = kFurtherAttempts;
  paths_.back().when_attempted = [this, address,
                                  done = std::move(done)](const absl::Status& status) {
    if (!status.ok() && !closing()) static_cast<void>(RemovePath(address));
    done(status);
  };
}

std::vector<ClientPath*> ClientSession::Paths() const {
  std::vector<ClientPath*> paths;
  for (const Path& each : paths_) {
    if (!each.removed) paths.push_back(each.path.get());
  }
  return paths;
}

ClientPath* ClientSession::FindPath(const PathAddress& address) const {
  for (const Path& each : paths_) {
    if (!each.removed && each.path->address() == address) return each.path.get();
  }
  return nullptr;
}

ClientSession::Path* ClientSession::Entry(const ClientPath* path) {
  for (Path& each : paths_) {
    if (each.path.get() == path) return &each;
  }
  return nullptr;
}

ClientSession::Path* ClientSession::EntryOf(const PathAddress& address) {
  const ClientPath* path = FindPath(address);
  return path == nullptr ? nullptr : Entry(path);
}

absl::Status ClientSession::NoPath(const PathAddress& address) const {
  return ErrnoToStatus(ENOENT,
                       absl::StrCat("session ", name(), " has no path ", address.ToString()));
}

// Later, for whoever is told may add and take away paths.
void ClientSession::Tell(std::function<void(const absl::Status&)>* waiter,
                         const absl::Status& status) {
  if (*waiter == nullptr) return;
  control_->Post([waiter = std::exchange(*waiter, nullptr), status] { waiter(status); });
}

void ClientSession::DisconnectPath(const PathAddress& address,
                                   std::function<void(const absl::Status&)> done) {
  Path* const entry = EntryOf(address);
  if (entry == nullptr || closing()) return Tell(&done, NoPath(address));
  Tell(&entry->when_stopped, ErrnoToStatus(EALREADY, "another one disconnects the path"));
  entry->when_stopped = std::move(done);
  entry->path->Stop();
  if (entry->path->state() != ClientPath::State::kStopped) return;
  Tell(&entry->when_attempted, ErrnoToStatus(ESHUTDOWN, "the path is disconnected"));
  Tell(&entry->when_stopped, absl::OkStatus());
  handler_->OnPathsChanged();
}

void ClientSession::ReconnectPath(const PathAddress& address,
                                  std::function<void(const absl::Status&)> done) {
  Path* const entry = EntryOf(address);
  if (entry == nullptr || closing()) return Tell(&done, NoPath(address));
  const absl::Status begun = entry->path->Reconnect();
  if (!begun.ok()) return Tell(&done, begun);
  Tell(&entry->when_attempted, ErrnoToStatus(EALREADY, "another one connects the path"));
  entry->when_attempted = std::move(done);
  entry->attempts_left = kFurtherAttempts;
}

void ClientSession::set_max_reconnect_attempts(int count) {
  max_reconnect_attempts_ = count;
  for (const Path& each : paths_) each.path->set_max_reconnect_attempts(count);
}

absl::Status ClientSession::RemovePath(const PathAddress& address) {
  assert(!closing());
  size_t others = 0;
  Path* found = nullptr;
  for (Path& each : paths_) {
    if (each.removed) continue;
    if (each.path->address() == address) {
      found = &each;
    } else {
      ++others;
    }
  }
  if (found == nullptr) {
    return NoPath(address);
  }
  if (others == 0) {
    return ErrnoToStatus(
        EBUSY, absl::StrCat("path ", address.ToString(), " is the only one of session ", name()));
  }
  found->removed = true;
  Tell(&found->when_attempted, ErrnoToStatus(ESHUTDOWN, "the path was taken away"));
  Tell(&found->when_stopped, absl::OkStatus());
  spdlog::info("session {}: path {} is taken away", name(), address.ToString());
  found->path->Close([this] {
    if (closing()) return;
    ForgetRemovedPaths();
    ConnectIdlePath();
  });
  handler_->OnPathsChanged();
  return absl::OkStatus();
}

// Those that are down and fenced.
void ClientSession::ForgetRemovedPaths() {
  paths_.erase(std::remove_if(paths_.begin(), paths_.end(),
                              [](const Path& each) {
                                return each.removed && !each.fence->busy() &&
                                       !each.path->NeedsFence() &&
                                       each.path->state() == ClientPath::State::kClosed;
                              }),
               paths_.end());
}

// A lost path is fenced over another one that is connected to the same server.
void ClientSession::SendFences() {
  if (closing()) return;
  for (const Path& each : paths_) {
    const bool down = each.path->state() != ClientPath::State::kConnected &&
                      each.path->state() != ClientPath::State::kDisconnecting;
    if (!down || !each.path->NeedsFence() || !each.path->server_takes_fences()) continue;
    if (!each.fence->busy() && connected()) each.fence->Send();
  }
}

void ClientSession::OnNews(uint32_t news) {
  if (state_ == ClientSessionState::kUp) handler_->OnNews(news);
}

void ClientSession::OnRequestsLost() { unfenced_paths_.fetch_add(1, std::memory_order_acq_rel); }

void ClientSession::OnFenced() {
  const bool last = unfenced_paths_.fetch_sub(1, std::memory_order_acq_rel) == 1;
  if (closing()) return;
  if (last) handler_->OnResendable();
  // The path calls us; it may go when it has returned.
  control_->Post([this] { ForgetRemovedPaths(); });
}

absl::StatusOr<ClientTables*> ClientSession::OnGeometry(const SessionGeometry& geometry) {
  const bool connecting = state_ == ClientSessionState::kConnecting;
  if (tables_ != nullptr && (!connecting || AttemptsUnderWay() > 1)) {
    const SessionGeometry& known = tables_->geometry;
    // Requests were cut to what is known, and permits count the chunks that are known.
    if (geometry.queue_depth != known.queue_depth || geometry.max_io_size < known.max_io_size ||
        geometry.max_hdr_size < known.max_hdr_size) {
      return ErrnoToStatus(
          EINVAL,
          absl::StrCat("the server now offers ", geometry.queue_depth, " chunks of ",
                       geometry.max_io_size, "+", geometry.max_hdr_size, " bytes, the session has ",
                       known.queue_depth, " of ", known.max_io_size, "+", known.max_hdr_size,
                       "; give the server its old settings, or map the session's devices anew"));
    }
    return tables_.get();
  }
  auto tables = std::make_unique<ClientTables>(geometry);
  ASSIGN_OR_RETURN(headers_, UniqueMapping::Anonymous(size_t{geometry.queue_depth} *
                                                      ClientTables::kHeaderBytes));
  tables->headers = headers_.span();
  tables->areas = options_.memory;
  permits_ = std::make_unique<Permits>(geometry.queue_depth, lanes_.size(), control_lane());
  tables_ = std::move(tables);
  return tables_.get();
}

// Paths that may know the tables.
size_t ClientSession::AttemptsUnderWay() const {
  return static_cast<size_t>(std::count_if(paths_.begin(), paths_.end(), [](const Path& each) {
    return each.path->state() == ClientPath::State::kConnecting ||
           each.path->state() == ClientPath::State::kDisconnecting;
  }));
}

SessionGeometry ClientSession::geometry() const {
  const ClientTables* tables = published_tables_.load(std::memory_order_acquire);
  return tables == nullptr ? SessionGeometry{.queue_depth = 0, .max_io_size = 0, .max_hdr_size = 0}
                           : tables->geometry;
}

// A path that is disconnecting counts: until OnSessionDown() has been called, the layer above
// relies on the session that the server had, and no other may begin.
bool ClientSession::HasConnectedPath() const { return connected(); }

uint32_t ClientSession::free_permits() const {
  if (published_tables_.load(std::memory_order_acquire) == nullptr) return 0;
  const uint32_t left = permits_->count() - permits_->taken();
  return left > 0 ? left - 1 : 0;  // one is the control lane's
}

bool ClientSession::server_has_recovery() const {
  return std::any_of(paths_.begin(), paths_.end(), [](const Path& each) {
    return each.path->state() == ClientPath::State::kConnected && each.path->server_takes_fences();
  });
}

void ClientSession::OnPathUp(ClientPath* path) {
  spdlog::info("session {}: path {} connected", name(), path->address().ToString());
  published_tables_.store(tables_.get(), std::memory_order_release);
  Tell(&Entry(path)->when_attempted, absl::OkStatus());
  const bool first = connected_paths_.fetch_add(1, std::memory_order_acq_rel) == 0;
  if (first) Advance(ClientSessionEvent::kFirstPathUp);
  for (const Path& other : paths_) {
    if (other.path->state() == ClientPath::State::kIdle) other.path->Connect();
  }
  if (first) {
    handler_->OnSessionUp();
  } else {
    handler_->OnResendable();
  }
  SendFences();
  handler_->OnPathsChanged();
}

namespace {

std::string WhenNext(absl::Duration retry_in) {
  if (retry_in == absl::InfiniteDuration()) return "it stays so";
  return absl::StrCat("connecting again in ",
                      absl::FormatDuration(absl::Trunc(retry_in, absl::Milliseconds(1))));
}

}  // namespace

void ClientSession::OnPathDown(ClientPath* path, bool was_connected, const absl::Status& why,
                               absl::Duration retry_in) {
  Path* const entry = Entry(path);
  const bool stopped = path->state() == ClientPath::State::kStopped;
  const bool over = !IsPassing(why) || entry->attempts_left-- <= 0;
  if (stopped || (!was_connected && over)) Tell(&entry->when_attempted, why);
  if (stopped) Tell(&entry->when_stopped, absl::OkStatus());
  if (was_connected) {
    if (!closing()) {
      spdlog::warn("session {}: path {} lost: {}; {}", name(), path->address().ToString(),
                   why.message(), WhenNext(retry_in));
    }
    if (connected_paths_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      Advance(ClientSessionEvent::kLastPathDown);
      handler_->OnSessionDown(why);
    }
    SendFences();
    if (!closing()) handler_->OnPathsChanged();
    return;
  }
  if (closing()) return;
  if (!HasConnectedPath()) ConnectIdlePath();
  SendFences();
  handler_->OnConnectFailed(path->address(), why, retry_in);
}

void ClientSession::Close(std::function<void()> done) {
  Advance(ClientSessionEvent::kClose);
  closed_ = std::move(done);
  for (Path& each : paths_) {
    Tell(&each.when_attempted, ErrnoToStatus(ESHUTDOWN, "the session is closed"));
    Tell(&each.when_stopped, ErrnoToStatus(ESHUTDOWN, "the session is closed"));
  }
  paths_to_close_ = paths_.size();
  for (const Path& each : paths_) {
    each.path->Close([this] {
      if (--paths_to_close_ == 0) Quiesce();
    });
  }
}

// No path has a connection any more, so no permit becomes free; but a lane that another one woke
// for a permit may not have run yet.
void ClientSession::Quiesce() {
  AfterRound(control_, workers_, [this] { std::exchange(closed_, nullptr)(); });
}

// The data path: from here on on the thread of the lane.

void ClientSession::OnConnectionReady(ClientConnection* connection) {
  if (connection->lost()) return;
  lanes_[connection->lane()].connections.push_back(connection);
}

void ClientSession::OnConnectionLost(ClientConnection* connection) {
  Lane& lane = lanes_[connection->lane()];
  lane.connections.erase(std::remove(lane.connections.begin(), lane.connections.end(), connection),
                         lane.connections.end());
  if (lane.connections.empty()) FailWaiting(&lane);
}

void ClientSession::Submit(size_t lane_number, ClientRequest* request) {
  Lane& lane = lanes_[lane_number];
  if (lane.connections.empty()) {
    request->OnDone(ECONNABORTED);
    return;
  }
  if (!Fits(*request)) {
    request->OnDone(EMSGSIZE);
    return;
  }
  // Who came first is served first.
  ClientConnection* connection = lane.first_waiting == nullptr ? ChooseConnection(&lane) : nullptr;
  const int32_t permit = connection != nullptr ? permits_->Take(lane_number) : Permits::kNone;
  if (permit == Permits::kNone) {
    Wait(&lane, request);
    return;
  }
  connection->Send(request, static_cast<uint32_t>(permit));
}

// Sections 2.9 and 3.1: data, user message and trailer fit the chunk, and the latter two their part
// of it.
bool ClientSession::Fits(const ClientRequest& request) const {
  assert(request.user_message.size() >= kMinUserMessageSize);
  uint64_t data = 0;
  for (uint8_t i = 0; i < request.span_count; ++i) data += request.spans[i].length;
  const SessionGeometry& geometry = tables_->geometry;
  const size_t header = request.user_message.size() + sizeof(ReadTrailerWithDescriptor);
  return data <= geometry.max_io_size && header <= ClientTables::kHeaderBytes &&
         header <= geometry.max_hdr_size &&
         (request.direction == Direction::kWrite || request.span_count <= 1);
}

bool ClientSession::HasRoom(const Lane& lane) {
  return std::any_of(lane.connections.begin(), lane.connections.end(),
                     [&lane](const ClientConnection* connection) {
                       return connection->in_flight() < lane.max_in_flight;
                     });
}

// By the policy, of those that have fewer requests in flight than they may; null when none has. The
// one behind the last comes first, so that equals take turns.
ClientConnection* ClientSession::ChooseConnection(Lane* lane) const {
  const PathPolicy policy = this->policy();
  ClientConnection* best = nullptr;
  size_t chosen = 0;
  const size_t count = lane->connections.size();
  for (size_t step = 1; step <= count; ++step) {
    const size_t index = (lane->last_chosen + step) % count;
    ClientConnection* connection = lane->connections[index];
    if (connection->in_flight() >= lane->max_in_flight) continue;
    if (best != nullptr && !IsBetter(policy, *connection, *best)) continue;
    best = connection;
    chosen = index;
  }
  if (best != nullptr) lane->last_chosen = chosen;
  return best;
}

bool ClientSession::IsBetter(PathPolicy policy, const ClientConnection& one,
                             const ClientConnection& other) {
  switch (policy) {
    case PathPolicy::kRoundRobin:
      return false;
    case PathPolicy::kMinInflight:
      return one.in_flight() < other.in_flight();
    case PathPolicy::kMinLatency:
      return one.latency_ns() < other.latency_ns();
  }
  return false;
}

void ClientSession::Wait(Lane* lane, ClientRequest* request) {
  request->waits_ = true;
  request->next_waiting_ = nullptr;
  if (lane->first_waiting == nullptr) {
    lane->first_waiting = request;
  } else {
    lane->last_waiting->next_waiting_ = request;
  }
  lane->last_waiting = request;
}

ClientRequest* ClientSession::NextWaiting(Lane* lane) {
  ClientRequest* request = lane->first_waiting;
  if (request == nullptr) return nullptr;
  lane->first_waiting = request->next_waiting_;
  request->waits_ = false;
  return request;
}

// False when no request waits or none can be sent.
bool ClientSession::SendWaiting(Lane* lane, uint32_t permit) {
  if (lane->first_waiting == nullptr) return false;
  ClientConnection* connection = ChooseConnection(lane);
  if (connection == nullptr) return false;
  connection->Send(NextWaiting(lane), permit);
  return true;
}

// While requests wait, the lane waits for a permit, or has requests in flight whose end serves the
// next: so each of them is served in the end.
void ClientSession::ServeWaiting(size_t lane_number) {
  Lane& lane = lanes_[lane_number];
  while (lane.first_waiting != nullptr && HasRoom(lane)) {
    const int32_t permit = permits_->Take(lane_number);
    if (permit == Permits::kNone) return;
    SendWaiting(&lane, static_cast<uint32_t>(permit));
  }
}

void ClientSession::FailWaiting(Lane* lane) {
  while (ClientRequest* request = NextWaiting(lane)) request->OnDone(ECONNABORTED);
}

void ClientSession::OnPermitFree(size_t lane_number, uint32_t permit) {
  Lane& lane = lanes_[lane_number];
  if (lane.permits_kept < kMaxPermitsKept && SendWaiting(&lane, permit)) {
    ++lane.permits_kept;
    return;
  }
  lane.permits_kept = 0;
  const int32_t next = permits_->Pass(lane_number, permit);
  if (next == Permits::kNone) {
    GivePermit(lane_number, permit);
  } else if (static_cast<size_t>(next) == lane_number) {
    UsePermit(lane_number, permit);
  } else {
    lanes_[next].ring->Post([this, next, permit] { UsePermit(next, permit); });
  }
  ServeWaiting(lane_number);
}

// A permit that was passed to the lane.
void ClientSession::UsePermit(size_t lane_number, uint32_t permit) {
  if (!SendWaiting(&lanes_[lane_number], permit)) GivePermit(lane_number, permit);
  ServeWaiting(lane_number);
}

void ClientSession::GivePermit(size_t lane_number, uint32_t permit) {
  uint64_t waiting = permits_->Give(permit);
  for (size_t lane = 0; waiting != 0; ++lane, waiting >>= 1) {
    if ((waiting & 1) == 0) continue;
    if (lane == lane_number) {
      ServeWaiting(lane);
    } else {
      lanes_[lane].ring->Post([this, lane] { ServeWaiting(lane); });
    }
  }
}

void ClientSession::OnPermitsReturned(const std::vector<uint32_t>& permits) {
  for (uint32_t permit : permits) GivePermit(control_lane(), permit);
}

}  // namespace rnbd::rtrs
