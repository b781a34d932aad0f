#include "rtrs/server.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <chrono>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "rtrs/refusal.h"

namespace rnbd::rtrs {
namespace {

constexpr std::chrono::seconds kLogInterval(5);

// A client's port is a new one for each connection.
bool SameHost(const Address& a, const Address& b) {
  return a.scheme == b.scheme && a.host == b.host;
}

// What limits per address are counted by.
std::string HostKey(const Address& client) {
  return absl::StrCat(SchemeName(client.scheme), ":", client.host);
}

// Reconnect counters wrap around.
bool IsLater(uint16_t recon_cnt, uint16_t than) {
  return static_cast<int16_t>(static_cast<uint16_t>(recon_cnt - than)) > 0;
}

}  // namespace

Server::Server(const ServerOptions& options, Ring* control, std::vector<Ring*> workers,
               ServerHandler* handler)
    : options_(options),
      control_(control),
      workers_(std::move(workers)),
      handler_(handler),
      log_rejections_(kLogInterval),
      log_violations_(kLogInterval),
      log_abandoned_(kLogInterval) {}

Server::~Server() = default;

void Server::Reconfigure(const ServerLimits& limits, const ServerPathSettings& path) {
  options_.limits = limits;
  options_.path = path;
  for (const auto& [uuid, session] : sessions_) {
    if (session->handler != nullptr) session->handler->OnReconfigured();
  }
}

absl::StatusOr<Address> Server::Listen(Fabric* fabric, const Address& address) {
  ASSIGN_OR_RETURN(std::unique_ptr<Listener> listener, fabric->Listen(control_, address, this));
  listeners_.push_back(std::move(listener));
  return listeners_.back()->address();
}

void Server::OnIncoming(std::unique_ptr<IncomingConnection> incoming) {
  absl::Status admitted = Admit(incoming.get());
  if (admitted.ok()) return;
  ++counters_.connections_rejected;
  ++counters_.connections_rejected_for[RejectionNumber(admitted)];
  if (log_rejections_.Allow()) {
    spdlog::warn("rejected a connection from {} at {}: {} ({} more not shown)",
                 incoming->source().ToString(), incoming->destination().ToString(),
                 admitted.message(), log_rejections_.TakeSuppressed());
  }
  const ConnectResponse refusal = MakeRefusal(admitted);
  incoming->Reject(MessageBytes(refusal));
}

// The checks of section 2.4 in their order.
absl::Status Server::Admit(IncomingConnection* incoming) {
  if (shutting_down_) return Refuse(Refusal::kShuttingDown);
  ASSIGN_OR_RETURN(ConnectRequest request, ParseConnectRequest(incoming->private_data()));
  RETURN_IF_ERROR(CheckConnectionLimits(request, incoming->source()));
  ASSIGN_OR_RETURN(Session * session, FindOrAddSession(request, incoming->source()));
  absl::StatusOr<ServerPath*> path = FindOrAddPath(session, request, incoming);
  absl::Status added = path.ok() ? (*path)->AddConnection(request, incoming) : path.status();
  if (added.ok()) {
    CountUsage((*path)->client(), 0, 1);
    return added;
  }
  // A path that could not get even its first connection goes again, and its session with it.
  if (path.ok() && (*path)->connections_open() == 0) (*path)->Close(added);
  ForgetSessionIfEmpty(request.paths_uuid);
  return added;
}

absl::Status Server::CheckConnectionLimits(const ConnectRequest& request, const Address& client) {
  const ServerLimits& limits = options_.limits;
  if (request.cid_num > limits.max_connections_per_path) {
    return Refuse(Refusal::kMaxConnectionsPerPath, limits.max_connections_per_path);
  }
  if (usage_.connections >= limits.max_connections) {
    return Refuse(Refusal::kMaxConnections, limits.max_connections);
  }
  auto address = usage_by_address_.find(HostKey(client));
  if (address != usage_by_address_.end() &&
      address->second.connections >= limits.max_connections_per_address) {
    return Refuse(Refusal::kMaxConnectionsPerAddress, limits.max_connections_per_address);
  }
  return absl::OkStatus();
}

absl::StatusOr<Server::Session*> Server::FindOrAddSession(const ConnectRequest& request,
                                                          const Address& client) {
  const ServerLimits& limits = options_.limits;
  auto known = sessions_.find(request.paths_uuid);
  if (known != sessions_.end()) return known->second.get();
  if (!request.first_conn()) return Refuse(Refusal::kUnknownSession);
  if (drained_) return Refuse(Refusal::kDrained);
  if (usage_.sessions >= limits.max_sessions) {
    return Refuse(Refusal::kMaxSessions, limits.max_sessions);
  }
  auto address = usage_by_address_.find(HostKey(client));
  if (address != usage_by_address_.end() &&
      address->second.sessions >= limits.max_sessions_per_address) {
    return Refuse(Refusal::kMaxSessionsPerAddress, limits.max_sessions_per_address);
  }
  auto session = std::make_unique<Session>();
  session->uuid = request.paths_uuid;
  session->client = client;
  session->features = request.features();
  session->geometry = GeometryFor(request.features(), options_.geometry);
  Session* added = session.get();
  sessions_[request.paths_uuid] = std::move(session);
  CountUsage(client, 1, 0);
  return added;
}

absl::StatusOr<ServerPath*> Server::FindOrAddPath(Session* session, const ConnectRequest& request,
                                                  IncomingConnection* incoming) {
  auto known = paths_.find(request.sess_uuid);
  if (known != paths_.end()) {
    return FindPath(known->second.get(), request, incoming->source());
  }
  // The client has lost them all. What it sent over them must not run beside what it sends now.
  if (session->closing() || session->state == ServerSessionState::kEnding) {
    return Refuse(Refusal::kSessionClosing);
  }
  if (session->paths.size() >= options_.limits.max_paths_per_session) {
    return Refuse(Refusal::kMaxPathsPerSession, options_.limits.max_paths_per_session);
  }
  for (const ServerPath* other : session->paths) {
    if (SameHost(incoming->source(), other->client()) &&
        incoming->destination() == other->server()) {
      return Refuse(Refusal::kSameEnds);
    }
  }
  ServerPathOwner* owner = this;
  auto path = std::make_unique<ServerPath>(
      owner, request, incoming->source(), incoming->destination(), session->geometry, options_.path,
      control_, workers_, next_worker_++ % workers_.size());
  ServerPath* added = path.get();
  session->paths.push_back(added);
  paths_[request.sess_uuid] = std::move(path);
  return added;
}

// Section 10, item 20: a client that connects a path anew has given up the old connections, whether
// we have noticed or not. It tries again when they are gone.
absl::StatusOr<ServerPath*> Server::FindPath(ServerPath* path, const ConnectRequest& request,
                                             const Address& client) {
  if (path->session_uuid() != request.paths_uuid || !SameHost(path->client(), client)) {
    return Refuse(Refusal::kPathElsewhere);
  }
  if (path->recon_cnt() == request.recon_cnt) return path;
  if (!IsLater(request.recon_cnt, path->recon_cnt())) return Refuse(Refusal::kPathIsNewer);
  path->Close(ErrnoToStatus(ECONNRESET, "the client connects the path anew"));
  return Refuse(Refusal::kPathClosing);
}

absl::StatusOr<ServerChunks*> Server::OnInfo(ServerPath* path, const std::string& session_name) {
  absl::StatusOr<ServerChunks*> chunks = JoinOrOpenSession(path, session_name);
  if (!chunks.ok()) ++counters_.sessions_refused;
  return chunks;
}

absl::StatusOr<ServerChunks*> Server::JoinOrOpenSession(ServerPath* path, const std::string& name) {
  Session* session = sessions_.at(path->session_uuid()).get();
  if (session->state == ServerSessionState::kEstablishing) {
    // Whoever may not have a session takes no name from anybody.
    RETURN_IF_ERROR(handler_->MayBegin(name, session->client));
    RETURN_IF_ERROR(ClaimName(*session, name));
    RETURN_IF_ERROR(OpenSession(session, name));
  } else if (session->name != name) {
    return ErrnoToStatus(EINVAL, absl::StrCat("a path of session \"", session->name,
                                              "\" calls itself \"", absl::CHexEscape(name), "\""));
  } else {
    RETURN_IF_ERROR(session->handler->MayJoin(path->client()));
  }
  return session->chunks.get();
}

// A name belongs to one session. A client that was started anew at the same address takes it over:
// the earlier client's session is closed, and the new one's comes when the last request of that is
// done.
absl::Status Server::ClaimName(const Session& session, const std::string& name) {
  auto known = session_names_.find(name);
  if (known == session_names_.end() || known->second == session.uuid) return absl::OkStatus();
  const Session& other = *sessions_.at(known->second);
  const std::string shown = absl::CHexEscape(name);
  if (!other.closing() && !SameHost(other.client, session.client)) {
    return ErrnoToStatus(
        EPERM, absl::StrCat("session name \"", shown, "\" is in use by a client at ",
                            other.client.ToString(),
                            "; if that one has died, the name is free when its heartbeat has "
                            "timed out"));
  }
  if (!other.closing()) {
    ++counters_.sessions_taken_over;
    spdlog::warn("session {}: another client at the same address, {}, takes it over", shown,
                 session.client.ToString());
    // Closing a path may change the list.
    for (ServerPath* path : std::vector<ServerPath*>(other.paths)) {
      path->Close(ErrnoToStatus(ESTALE, absl::StrCat("another client at the same address has taken "
                                                     "over session \"",
                                                     shown, "\"")));
    }
  }
  return ErrnoToStatus(EBUSY,
                       absl::StrCat("session name \"", shown,
                                    "\" is in use until the last requests of its earlier session "
                                    "are done"));
}

// Later attempts of a path are accepted only when the earlier one is gone, so a path that is not
// there, or is there by a later attempt, has nothing running of the one that was lost.
void Server::OnFence(ServerPath* from, const FenceMessage& fence,
                     std::function<void(int error)> done) {
  ++counters_.fences;
  auto known = paths_.find(fence.path_uuid);
  if (known == paths_.end()) return done(0);
  ServerPath* lost = known->second.get();
  if (lost == from || lost->session_uuid() != from->session_uuid()) return done(EINVAL);
  if (IsLater(lost->recon_cnt(), fence.recon_cnt)) return done(0);
  fences_[fence.path_uuid].push_back(std::move(done));
  lost->Close(ErrnoToStatus(ECONNRESET, "the client has given the path up"));
}

absl::Status Server::OpenSession(Session* session, const std::string& name) {
  const uint64_t bytes = uint64_t{session->geometry.queue_depth} * session->geometry.chunk_size();
  const uint64_t limit = options_.limits.max_chunk_memory;
  if (bytes > limit - std::min(chunk_memory_, limit)) {
    return ErrnoToStatus(ENOMEM, absl::StrCat("the server has given out its ", limit,
                                              " bytes of memory for chunks (max_chunk_memory)"));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<ServerChunks> chunks, ServerChunks::Create(session->geometry));
  ServerSessionInfo info = {name, session->client, session->geometry, session->features,
                            chunks->memory()};
  if ((session->features & kNews) != 0) {
    info.send_news = [session](uint32_t news) {
      for (ServerPath* path : session->paths) path->SendNews(news);
    };
  }
  ASSIGN_OR_RETURN(session->handler, handler_->OnSession(info));
  chunks->set_handler(session->handler.get());
  session->chunks = std::move(chunks);
  session->name = name;
  session->Enter(ServerSessionEvent::kOpened);
  session_names_[name] = session->uuid;
  chunk_memory_ += bytes;
  if (observer_ != nullptr) observer_->OnSession(name);
  return absl::OkStatus();
}

void Server::OnPathConnected(ServerPath* path) {
  ++counters_.paths_connected;
  const std::string& session = sessions_.at(path->session_uuid())->name;
  spdlog::info("session {}: path {} connected", session, Describe(*path));
  if (observer_ != nullptr) observer_->OnPath(session, path);
}

void Server::OnPathClosing(ServerPath* path, bool was_connected, const absl::Status& why) {
  ++(was_connected ? counters_.paths_closed : counters_.paths_abandoned);
  if (StatusToErrno(why) == ETIMEDOUT) ++counters_.clients_timed_out;
  Session* session = sessions_.at(path->session_uuid()).get();
  if (std::all_of(session->paths.begin(), session->paths.end(),
                  [](const ServerPath* each) { return each->closing(); })) {
    session->Enter(ServerSessionEvent::kLastPathClosing);
  }
  const std::string& known_name = session->name;
  if (was_connected && observer_ != nullptr) observer_->OnPathGone(known_name, path);
  const absl::string_view name =
      known_name.empty() ? "(no name yet)" : absl::string_view(known_name);
  if (IsViolation(why)) {
    ++counters_.protocol_violations;
    if (!log_violations_.Allow()) return;
    spdlog::warn("session {}: path {} closed for breaking the protocol: {} ({} more not shown)",
                 name, Describe(*path), why.message(), log_violations_.TakeSuppressed());
  } else if (was_connected) {
    spdlog::info("session {}: path {} closing: {}", name, Describe(*path), why.message());
  } else if (log_abandoned_.Allow()) {
    spdlog::warn("session {}: path {} given up before it was connected: {} ({} more not shown)",
                 name, Describe(*path), why.message(), log_abandoned_.TakeSuppressed());
  }
}

void Server::OnPathClosed(ServerPath* closed) {
  auto place = paths_.find(closed->uuid());
  std::unique_ptr<ServerPath> path = std::move(place->second);
  paths_.erase(place);
  std::vector<ServerPath*>& siblings = sessions_.at(path->session_uuid())->paths;
  siblings.erase(std::remove(siblings.begin(), siblings.end(), closed), siblings.end());
  CountUsage(path->client(), 0, -static_cast<int>(path->connections_seen()));
  if (auto waiting = fences_.extract(path->uuid()); !waiting.empty()) {
    for (const auto& done : waiting.mapped()) done(0);
  }
  Uuid session = path->session_uuid();
  // The path calls us; it may go when it has returned.
  control_->Post([this, session, path = std::shared_ptr<ServerPath>(std::move(path))]() mutable {
    path.reset();
    ForgetSessionIfEmpty(session);
  });
}

void Server::ForgetSessionIfEmpty(const Uuid& uuid) {
  auto known = sessions_.find(uuid);
  if (known == sessions_.end() || !known->second->paths.empty()) return;
  std::unique_ptr<Session> session = std::move(known->second);
  sessions_.erase(known);
  CountUsage(session->client, -1, 0);
  if (session->handler != nullptr) {
    spdlog::info("session {}: gone", session->name);
    session_names_.erase(session->name);
    chunk_memory_ -= session->chunks->memory().size();
    session->handler.reset();
    if (observer_ != nullptr) observer_->OnSessionGone(session->name);
  }
  const std::vector<std::function<void()>> when_gone = std::move(session->when_gone);
  session.reset();
  for (const auto& done : when_gone) done();
  TellIfEmpty();
}

void Server::TellIfEmpty() {
  if (!sessions_.empty()) return;
  for (auto& done : std::exchange(when_empty_, {})) control_->Post(std::move(done));
}

Server::Session* Server::FindNamed(const std::string& name) {
  const auto known = session_names_.find(name);
  return known == session_names_.end() ? nullptr : sessions_.at(known->second).get();
}

void Server::EndSession(const std::string& name, const absl::Status& why,
                        std::function<void()> done) {
  Session* const session = FindNamed(name);
  if (session == nullptr) return done();
  session->Enter(ServerSessionEvent::kEnded);
  session->when_gone.push_back(std::move(done));
  // Closing a path may change the list.
  for (ServerPath* path : std::vector<ServerPath*>(session->paths)) path->Close(why);
}

void Server::DrainSession(const std::string& name, const absl::Status& why, absl::Duration bound,
                          std::function<void()> done) {
  Session* const session = FindNamed(name);
  if (session == nullptr) return done();
  session->when_gone.push_back(std::move(done));
  DrainPaths(session, why, bound);
}

void Server::DrainPaths(Session* session, const absl::Status& why, absl::Duration bound) {
  session->Enter(ServerSessionEvent::kEnded);
  for (ServerPath* path : std::vector<ServerPath*>(session->paths)) path->Drain(why, bound);
}

void Server::Drain(const absl::Status& why, absl::Duration bound, std::function<void()> done) {
  drained_ = true;
  when_empty_.push_back(std::move(done));
  for (const auto& [uuid, session] : sessions_) DrainPaths(session.get(), why, bound);
  TellIfEmpty();
}

void Server::Shutdown(const absl::Status& why, std::function<void()> done) {
  shutting_down_ = true;
  listeners_.clear();
  when_empty_.push_back(std::move(done));
  for (const auto& [uuid, path] : paths_) path->Close(why);
  TellIfEmpty();
}

std::vector<std::pair<std::string, Address>> Server::sessions() const {
  std::vector<std::pair<std::string, Address>> named;
  for (const auto& [uuid, session] : sessions_) {
    if (!session->name.empty()) named.emplace_back(session->name, session->client);
  }
  return named;
}

std::vector<std::pair<std::string, uint64_t>> Server::session_paths() const {
  std::vector<std::pair<std::string, uint64_t>> counted;
  for (const auto& [uuid, session] : sessions_) {
    if (session->name.empty()) continue;
    const auto connected = std::count_if(
        session->paths.begin(), session->paths.end(),
        [](const ServerPath* path) { return path->state() == ServerPath::State::kConnected; });
    counted.emplace_back(session->name, connected);
  }
  return counted;
}

void Server::CountUsage(const Address& client, int sessions, int connections) {
  auto add = [&](Usage* usage) {
    usage->sessions += sessions;
    usage->connections += connections;
  };
  add(&usage_);
  auto address = usage_by_address_.try_emplace(HostKey(client)).first;
  add(&address->second);
  if (address->second.sessions == 0 && address->second.connections == 0) {
    usage_by_address_.erase(address);
  }
}

std::string Server::Describe(const ServerPath& path) const {
  return absl::StrCat(path.client().ToString(), "@", path.server().ToString());
}

}  // namespace rnbd::rtrs
