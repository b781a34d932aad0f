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

}  // namespace

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
      lanes_(workers_.size() + 1) {
  for (size_t lane = 0; lane < lanes_.size(); ++lane) {
    const bool control = lane == control_lane();
    lanes_[lane].ring = control ? control_ : workers_[lane];
    lanes_[lane].max_in_flight = control ? kMaxServiceRequests : kMaxQueueDepth;
  }
  for (const PathAddress& address : options_.paths) {
    ClientPathOwner* owner = this;
    paths_.push_back(std::make_unique<ClientPath>(owner, fabric_, address, uuid_, options_.name,
                                                  options_.path, control_, workers_));
  }
}

ClientSession::~ClientSession() = default;

// One path begins, and makes the session known to the server. The others follow when it is
// connected, so that a path to a server that does not know the session is refused; one by one they
// begin as well while none succeeds.
void ClientSession::Start() { ConnectIdlePath(); }

void ClientSession::ConnectIdlePath() {
  for (const auto& path : paths_) {
    if (path->state() != ClientPath::State::kIdle) continue;
    path->Connect();
    return;
  }
}

absl::StatusOr<ClientTables*> ClientSession::OnGeometry(const SessionGeometry& geometry) {
  if (tables_ != nullptr && (was_up_ || AttemptsUnderWay() > 1)) {
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
  return static_cast<size_t>(std::count_if(paths_.begin(), paths_.end(), [](const auto& path) {
    return path->state() == ClientPath::State::kConnecting ||
           path->state() == ClientPath::State::kDisconnecting;
  }));
}

SessionGeometry ClientSession::geometry() const {
  const ClientTables* tables = published_tables_.load(std::memory_order_acquire);
  return tables == nullptr ? SessionGeometry{.queue_depth = 0, .max_io_size = 0, .max_hdr_size = 0}
                           : tables->geometry;
}

bool ClientSession::HasConnectedPath() const {
  return std::any_of(paths_.begin(), paths_.end(), [](const auto& path) {
    return path->state() == ClientPath::State::kConnected;
  });
}

void ClientSession::OnPathUp(ClientPath* path) {
  spdlog::info("session {}: path {} connected", name(), path->address().ToString());
  if (!std::exchange(was_up_, true)) {
    published_tables_.store(tables_.get(), std::memory_order_release);
  }
  const bool first = connected_paths_.fetch_add(1, std::memory_order_acq_rel) == 0;
  for (const auto& other : paths_) {
    if (other->state() == ClientPath::State::kIdle) other->Connect();
  }
  if (first) handler_->OnSessionUp();
}

void ClientSession::OnPathDown(ClientPath* path, bool was_connected, const absl::Status& why,
                               absl::Duration retry_in) {
  if (was_connected) {
    if (!closing_) {
      spdlog::warn("session {}: path {} lost: {}; connecting again in {}", name(),
                   path->address().ToString(), why.message(),
                   absl::FormatDuration(absl::Trunc(retry_in, absl::Milliseconds(1))));
    }
    if (connected_paths_.fetch_sub(1, std::memory_order_acq_rel) == 1) handler_->OnSessionDown(why);
    return;
  }
  if (closing_) return;
  if (!HasConnectedPath()) ConnectIdlePath();
  handler_->OnConnectFailed(path->address(), why, retry_in);
}

void ClientSession::Close(std::function<void()> done) {
  closing_ = true;
  closed_ = std::move(done);
  paths_to_close_ = paths_.size();
  for (const auto& path : paths_) {
    path->Close([this] {
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
  ClientConnection* connection = lane.first_waiting == nullptr ? ChooseConnection(lane) : nullptr;
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

// Of several paths the one with the fewest requests of this thread in flight; null when all have as
// many as they may.
ClientConnection* ClientSession::ChooseConnection(const Lane& lane) const {
  ClientConnection* best = nullptr;
  uint32_t fewest = lane.max_in_flight;
  for (ClientConnection* connection : lane.connections) {
    if (connection->in_flight() >= fewest) continue;
    fewest = connection->in_flight();
    best = connection;
  }
  return best;
}

void ClientSession::Wait(Lane* lane, ClientRequest* request) {
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
  if (request != nullptr) lane->first_waiting = request->next_waiting_;
  return request;
}

// False when no request waits or none can be sent.
bool ClientSession::SendWaiting(Lane* lane, uint32_t permit) {
  if (lane->first_waiting == nullptr) return false;
  ClientConnection* connection = ChooseConnection(*lane);
  if (connection == nullptr) return false;
  connection->Send(NextWaiting(lane), permit);
  return true;
}

// While requests wait, the lane waits for a permit, or has requests in flight whose end serves the
// next: so each of them is served in the end.
void ClientSession::ServeWaiting(size_t lane_number) {
  Lane& lane = lanes_[lane_number];
  while (lane.first_waiting != nullptr && ChooseConnection(lane) != nullptr) {
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
