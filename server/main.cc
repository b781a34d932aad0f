// rnbd-server: serves block devices and image files to RNBD sessions.

#include <gflags/gflags.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/attribute_tree.h"
#include "common/blocking_calls.h"
#include "common/logging.h"
#include "common/process.h"
#include "common/ring.h"
#include "common/status.h"
#include "config/heartbeat_settings.h"
#include "config/server_config.h"
#include "rtrs/all_fabrics.h"
#include "rtrs/server.h"
#include "server/block_service.h"
#include "server/control_tree.h"

DEFINE_string(config, "/etc/rnbd/server.yaml",
              "the configuration file; docs/configuration.md describes it");
DEFINE_bool(check, false, "check the configuration, print what it does, and end");

namespace rnbd::server {
namespace {

// Slots for registered buffers in each worker's ring: a session takes one for every 4 MiB of its
// chunks.
constexpr unsigned kRegisteredBuffers = 16384;

// Devices that are being opened at a time: more than disks that hang at once.
constexpr size_t kMostOpening = 32;

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

// The threads and what runs on them, from the configuration to the last session's end.
class Program {
 public:
  explicit Program(const config::ServerConfig& config) : config_(config) {}

  absl::Status Start() {
    ASSIGN_OR_RETURN(control_, RingThread::Start("control", {}));
    control_tree_.set_control(control_->ring());
    ASSIGN_OR_RETURN(device_thread_, RingThread::Start("devices", {}));
    std::vector<Ring*> rings;
    for (int i = 0; i < config_.workers; ++i) {
      Ring::Options options;
      options.buffers = kRegisteredBuffers;
      ASSIGN_OR_RETURN(auto worker, RingThread::Start(absl::StrCat("worker-", i), options));
      rings.push_back(worker->ring());
      workers_.push_back(std::move(worker));
    }
    service_ = std::make_unique<BlockService>(
        &config_,
        DeviceSession::Threads{control_->ring(), device_thread_->ring(), &opening_, rings},
        &control_tree_);
    RETURN_IF_ERROR(service_->KeepPlaces());
    rtrs::StreamOptions stream;
    stream.payload_checksum = config_.payload_checksum;
    rtrs::VerbsOptions verbs;
    verbs.poll = config_.rdma_poll;
    fabrics_ = std::make_unique<rtrs::AllFabrics>(stream, verbs);
    absl::Status listening;
    control_->RunAndWait([&] {
      server_ = std::make_unique<rtrs::Server>(RtrsOptions(config_), control_->ring(), rings,
                                               service_.get());
      server_->set_observer(&control_tree_);
      listening = Listen();
    });
    return listening;
  }

  // Ends every session. False when that took longer than the configuration allows.
  bool Stop() {
    auto done = std::make_shared<absl::Notification>();
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
    return done->WaitForNotificationWithTimeout(config_.drain_timeout);
  }

 private:
  // The kernel may hold the socket of a server that was killed for a moment longer than its
  // process.
  absl::StatusOr<rtrs::Address> ListenOn(const rtrs::Address& wanted) {
    constexpr int kAttempts = 20;
    for (int attempt = 1;; ++attempt) {
      absl::StatusOr<rtrs::Address> address = server_->Listen(fabrics_.get(), wanted);
      if (StatusToErrno(address.status()) != EADDRINUSE || attempt == kAttempts) return address;
      absl::SleepFor(absl::Milliseconds(100));
    }
  }

  absl::Status Listen() {
    int listening = 0;
    for (const config::ListenConfig& listen : config_.listen) {
      absl::StatusOr<rtrs::Address> address = ListenOn(listen.address);
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

  const config::ServerConfig& config_;
  // Destroyed from the last to the first: the sessions are gone before the threads end; the device
  // thread closes what they left, and tells the control tree so, before these go.
  std::unique_ptr<rtrs::AllFabrics> fabrics_;
  AttributeTree attributes_{
      [this](std::function<void()> task) { control_->ring()->Post(std::move(task)); }};
  ControlTree control_tree_{&attributes_};
  std::unique_ptr<BlockService> service_;
  std::unique_ptr<RingThread> control_;
  std::unique_ptr<RingThread> device_thread_;
  BlockingCalls opening_{kMostOpening};
  std::vector<std::unique_ptr<RingThread>> workers_;
  std::unique_ptr<rtrs::Server> server_;
};

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "rnbd-server: %s\n", std::string(status.message()).c_str());
  return 1;
}

int Main() {
  absl::StatusOr<config::ServerConfig> config = config::LoadServerConfig(FLAGS_config);
  if (!config.ok()) return Fail(config.status());
  if (FLAGS_check) {
    std::printf("%s", config::Describe(*config).c_str());
    return 0;
  }
  absl::Status logging = InitLogging({config->log.level});
  if (!logging.ok()) return Fail(logging);
  for (const std::string& sentence : config::NotInForce(*config)) spdlog::warn("{}", sentence);
  RaiseLimits();
  // Blocked here, before there are threads, so that they come to the wait below alone.
  const sigset_t signals = BlockSignals({SIGTERM, SIGINT, SIGHUP});

  Program program(*config);
  absl::Status started = program.Start();
  if (!started.ok()) {
    program.Stop();
    return Fail(started);
  }
  spdlog::info("rnbd-server is ready");
  int signal = 0;
  sigwait(&signals, &signal);
  spdlog::info("ending on {}", strsignal(signal));
  if (!program.Stop()) {
    // Requests hang in a backend, and the threads with them.
    spdlog::error("requests are still running after {}; ending without them",
                  absl::FormatDuration(config->drain_timeout));
    spdlog::shutdown();
    std::_Exit(1);
  }
  return 0;
}

}  // namespace
}  // namespace rnbd::server

int main(int argc, char** argv) {
  gflags::SetUsageMessage("rnbd-server --config server.yaml [--check]");
  gflags::SetVersionString("0.1");
  gflags::ParseCommandLineFlags(&argc, &argv, /*remove_flags=*/true);
  if (argc > 1) {
    std::fprintf(stderr, "rnbd-server: unexpected argument %s\n", argv[1]);
    return 2;
  }
  return rnbd::server::Main();
}
