#include "server/server_program.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/attribute_text.h"
#include "common/logging.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "config/heartbeat_settings.h"
#include "config/server_reload.h"

namespace rnbd::server {
namespace {

// Slots for registered buffers in each worker's ring: a session takes one for every 4 MiB of its
// chunks.
constexpr unsigned kRegisteredBuffers = 16384;

rtrs::ServerOptions RtrsOptions(const config::ServerConfig& config) {
  rtrs::ServerOptions options;
  options.geometry = {config.queue_depth, config.max_io_size, config::kMaxHeaderSize};
  options.limits.max_sessions = config.limits.max_sessions;
  options.limits.max_sessions_per_address = config.limits.max_sessions_per_address;
  options.limits.max_paths_per_session = config.limits.max_paths_per_session;
  options.limits.max_connections_per_path = config.limits.max_connections_per_path;
  options.limits.max_chunk_memory = config.limits.chunk_memory;
  options.path = {config.establishment_timeout, config::ToHeartbeatSettings(config.heartbeat),
                  config::ToKernelHeartbeatSettings(config.heartbeat), config.always_invalidate};
  return options;
}

// The kernel may hold the socket of a server that was killed for a moment longer than its process.
template <typename Attempt>
auto WhileInUse(Attempt attempt) {
  constexpr int kAttempts = 20;
  for (int i = 1;; ++i) {
    auto result = attempt();
    if (StatusToErrno(result.status()) != EADDRINUSE || i == kAttempts) return result;
    absl::SleepFor(absl::Milliseconds(100));
  }
}

}  // namespace

absl::Status ServerProgram::Start() {
  const auto config = config_.Get();
  ASSIGN_OR_RETURN(control_, RingThread::Start("control", {}));
  control_tree_.set_control(control_->ring());
  ASSIGN_OR_RETURN(device_thread_, RingThread::Start("devices", {}));
  std::vector<Ring*> rings;
  for (int i = 0; i < config->workers; ++i) {
    Ring::Options options;
    options.buffers = kRegisteredBuffers;
    options.poll = config->worker_poll;
    ASSIGN_OR_RETURN(auto worker, RingThread::Start(absl::StrCat("worker-", i), options));
    rings.push_back(worker->ring());
    workers_.push_back(std::move(worker));
  }
  if (config->metrics) metrics_ = std::make_unique<ServerMetrics>(rings.size());
  service_ = std::make_unique<BlockService>(
      &config_,
      DeviceSession::Threads{control_->ring(), device_thread_->ring(), &opening_, &looking_, rings},
      &control_tree_, metrics_.get());
  RETURN_IF_ERROR(service_->KeepPlaces());
  session_control_ = std::make_unique<SessionControl>(SessionControl::Environment{
      .control = control_->ring(),
      .devices = device_thread_->ring(),
      .config = &config_,
      .service = service_.get(),
      .server = [this] { return server_.get(); },
      .sessions_with =
          [this](const std::string& disk) { return control_tree_.SessionsWith(disk); }});
  control_tree_.set_drain([this](const std::string& session, AttributeTree::StoreDone done) {
    session_control_->DrainSession(session, std::move(done));
  });
  rtrs::StreamOptions stream;
  stream.payload_checksum = config->payload_checksum;
  rtrs::VerbsOptions verbs;
  verbs.poll = config->rdma_poll;
  fabrics_ = std::make_unique<rtrs::AllFabrics>(stream, verbs);
  absl::Status listening;
  control_->RunAndWait([&] {
    server_ = std::make_unique<rtrs::Server>(RtrsOptions(*config), control_->ring(), rings,
                                             service_.get());
    server_->set_observer(&control_tree_);
    listening = Listen();
  });
  RETURN_IF_ERROR(listening);
  return StartAdministration();
}

std::vector<Ring*> ServerProgram::rings() const {
  std::vector<Ring*> rings = {control_->ring()};
  for (const auto& worker : workers_) rings.push_back(worker->ring());
  return rings;
}

bool ServerProgram::Stop() {
  metrics_http_.reset();
  control_mount_.reset();
  admin_socket_.reset();
  auto done = std::make_shared<absl::Notification>();
  if (control_ == nullptr) return true;
  control_->RunAndWait([&] {
    if (server_ == nullptr) {
      done->Notify();
      return;
    }
    server_->Shutdown(ErrnoToStatus(ESHUTDOWN, "the server is shutting down"), [this, done] {
      server_.reset();
      done->Notify();
    });
  });
  const absl::Duration limit = config_.Get()->drain_timeout;
  const absl::Time deadline = absl::Now() + limit;
  if (done->WaitForNotificationWithTimeout(limit)) {
    if (looking_.WaitUntilIdle(std::max(deadline - absl::Now(), absl::Milliseconds(100)))) {
      return true;
    }
    spdlog::error("a file system does not tell the size of a disk; ending without it");
    return false;
  }
  // Requests hang in a backend, and the threads with them.
  spdlog::error("requests are still running after {}; ending without them",
                absl::FormatDuration(limit));
  return false;
}

absl::Status ServerProgram::Listen() {
  const auto config = config_.Get();
  int listening = 0;
  for (const config::ListenConfig& listen : config->listen) {
    absl::StatusOr<rtrs::Address> address =
        WhileInUse([&] { return server_->Listen(fabrics_.get(), listen.address); });
    if (address.ok()) {
      spdlog::info("listening on {}", address->ToString());
      ++listening;
      continue;
    }
    if (listen.required) return address.status();
    spdlog::warn("goes without {}: {}", listen.address.ToString(), address.status());
  }
  if (listening == 0) return absl::FailedPreconditionError("there is nothing left to listen on");
  return absl::OkStatus();
}

absl::Status ServerProgram::StartAdministration() {
  const auto config = config_.Get();
  RETURN_IF_ERROR(AddReloadAttribute());
  RETURN_IF_ERROR(session_control_->AddTo(&attributes_));
  if (!config->admin_socket.empty()) {
    ASSIGN_OR_RETURN(admin_socket_, WhileInUse([&] {
                       return AdminSocket::Start(config->admin_socket, &attributes_, {});
                     }));
  }
  if (!config->control_mount.empty()) {
    ASSIGN_OR_RETURN(control_mount_, ControlMount::Start(config->control_mount, &attributes_));
  }
  return config->metrics ? ServeMetrics(*config->metrics) : absl::OkStatus();
}

absl::Status ServerProgram::ServeMetrics(const rtrs::Address& address) {
  metrics_->Register(
      [this] {
        ServerMetrics::State state;
        state.devices_open = control_tree_.devices_open();
        if (server_ == nullptr) return state;
        state.counters = server_->counters();
        state.sessions = server_->session_count();
        state.chunk_memory = server_->chunk_memory();
        return state;
      },
      [this] {
        return server_ == nullptr ? ServerMetrics::SessionPaths() : server_->session_paths();
      },
      &metric_registry_);
  ASSIGN_OR_RETURN(rtrs::ListeningSocket socket,
                   WhileInUse([&] { return rtrs::ListeningSocket::Open(address); }));
  metrics_socket_ = std::make_unique<rtrs::ListeningSocket>(std::move(socket));
  UniqueFd listening(fcntl(metrics_socket_->get(), F_DUPFD_CLOEXEC, 0));
  if (!listening.valid()) return ErrnoToStatus(errno, "keep a socket");
  ASSIGN_OR_RETURN(metrics_http_, MetricsHttp::Start(std::move(listening), [this] {
                     std::string text;
                     control_->RunAndWait([&] { text = metric_registry_.Text(); });
                     return text;
                   }));
  spdlog::info("metrics at http://{}/metrics",
               absl::StripPrefix(metrics_socket_->address().ToString(), "tcp:"));
  return absl::OkStatus();
}

absl::Status ServerProgram::AddReloadAttribute() {
  AttributeTree::Attribute reload;
  reload.mode = 0644;
  reload.show = [this] { return last_reload_.substr(0, AttributeTree::kMaxText); };
  reload.store = [this](const std::string& text, AttributeTree::StoreDone done) {
    if (const absl::Status one = ParseOne(text); !one.ok()) return done(one);
    BeginReload(std::move(done));
  };
  return attributes_.AddAttribute("class/rnbd-server/ctl/reload", std::move(reload));
}

void ServerProgram::BeginReload(AttributeTree::StoreDone done) {
  reloading_.Run([this, done = std::move(done)] {
    const absl::StatusOr<config::ServerConfig> file = config::LoadServerConfig(file_);
    control_->RunAndWait([&] { done(Apply(file)); });
  });
}

absl::Status ServerProgram::Apply(const absl::StatusOr<config::ServerConfig>& file) {
  if (!file.ok()) {
    spdlog::error("nothing is reloaded: {}", file.status());
    last_reload_ = absl::StrCat(file.status().message(), "\n");
    return file.status();
  }
  const config::ServerReload reload = config::PlanReload(*config_.Get(), *file);
  RETURN_IF_ERROR(InitLogging({reload.config.log.level}));
  config_.Set(reload.config);
  const rtrs::ServerOptions options = RtrsOptions(reload.config);
  if (server_ != nullptr) server_->Reconfigure(options.limits, options.path);
  last_reload_ = config::Describe(reload);
  spdlog::info("{} is reloaded, with {} changes", file_, reload.changes.size());
  for (const std::string& line : reload.changes) spdlog::info("{}", line);
  for (const std::string& line : reload.needs_restart) spdlog::warn("takes a restart: {}", line);
  WarnOfStrangers();
  return absl::OkStatus();
}

// Whoever has a device open may be in the middle of a write: to end that is for a person.
void ServerProgram::WarnOfStrangers() const {
  if (server_ == nullptr) return;
  const auto config = config_.Get();
  for (const auto& [name, client] : server_->sessions()) {
    if (config->FindSession(name, client) != nullptr) continue;
    spdlog::warn(
        "session {} is not admitted any more; it keeps what it has open, and may open "
        "nothing: rnbd server disconnect ends it",
        name);
  }
}

}  // namespace rnbd::server
