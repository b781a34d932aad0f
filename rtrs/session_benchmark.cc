// Requests through a client's session, the fabric and a server whose backend does nothing: what
// RTRS itself costs. Run with --benchmark_filter=Unix/read/4096/depth:32 and the like.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "benchmark/benchmark.h"
#include "common/logging.h"
#include "common/ring.h"
#include "common/unique_mapping.h"
#include "rtrs/client_session.h"
#include "rtrs/server.h"
#include "rtrs/stream_fabric.h"
#include "testing/socket_path.h"

namespace rnbd::rtrs {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(30);

class NullSession final : public ServerSessionHandler {
 public:
  absl::Status MayJoin(const Address&) override { return absl::OkStatus(); }
  void OnRequest(ServerRequest* request) override { request->Complete(0); }
};

class NullServer final : public ServerHandler {
 public:
  absl::Status MayBegin(const std::string&, const Address&) override { return absl::OkStatus(); }
  absl::StatusOr<std::unique_ptr<ServerSessionHandler>> OnSession(
      const ServerSessionInfo&) override {
    return std::make_unique<NullSession>();
  }
};

class Events final : public ClientSessionHandler {
 public:
  absl::Notification up;
  void OnSessionUp() override { up.Notify(); }
  void OnSessionDown(const absl::Status&) override {}
  void OnResendable() override {}
  void OnConnectFailed(const PathAddress&, const absl::Status& why, absl::Duration) override {
    spdlog::error("connect: {}", why);
  }
};

// Both ends in one process, with a control thread and one worker each.
class Ends {
 public:
  Ends(const Address& address, uint32_t max_io_size, size_t depth) {
    for (const char* name : {"server", "server-0", "client", "client-0"}) {
      threads_.push_back(*RingThread::Start(name, {}));
    }
    ServerOptions options;
    options.geometry = {.queue_depth = 128, .max_io_size = max_io_size, .max_hdr_size = 4096};
    options.path = {.establishment_timeout = kPatience, .heartbeat = KernelHeartbeat()};
    PathAddress path;
    threads_[0]->RunAndWait([&] {
      server_ = std::make_unique<Server>(options, threads_[0]->ring(),
                                         std::vector<Ring*>{threads_[1]->ring()}, &handler_);
      path.destination = *server_->Listen(&fabric_, address);
    });
    memory_ = *UniqueMapping::Anonymous(depth * max_io_size);
    ClientSessionOptions client;
    client.name = "benchmark";
    client.paths = {path};
    client.memory = {memory_.span()};
    client.path = {.connect_timeout = kPatience,
                   .reconnect_min = kPatience,
                   .reconnect_max = kPatience,
                   .heartbeat = KernelHeartbeat()};
    session_ = *ClientSession::Create(client, &fabric_, threads_[2]->ring(), {threads_[3]->ring()},
                                      &events_);
    threads_[2]->RunAndWait([&] { session_->Start(); });
    events_.up.WaitForNotificationWithTimeout(kPatience);
  }

  ~Ends() {
    absl::Notification closed;
    threads_[2]->RunAndWait([&] { session_->Close([&] { closed.Notify(); }); });
    closed.WaitForNotification();
    threads_[2]->RunAndWait([&] { session_.reset(); });
    absl::Notification stopped;
    threads_[0]->RunAndWait(
        [&] { server_->Shutdown(absl::CancelledError("done"), [&] { stopped.Notify(); }); });
    stopped.WaitForNotification();
    threads_[0]->RunAndWait([&] { server_.reset(); });
  }

  RingThread* worker() { return threads_[3].get(); }
  ClientSession* session() { return session_.get(); }
  uint8_t* memory() { return memory_.data(); }

 private:
  std::vector<std::unique_ptr<RingThread>> threads_;
  StreamFabric fabric_{StreamOptions{}};
  NullServer handler_;
  std::unique_ptr<Server> server_;
  UniqueMapping memory_;
  Events events_;
  std::unique_ptr<ClientSession> session_;
};

// Submits itself until a number of requests, shared with others, is used up.
class Looper final : public ClientRequest {
 public:
  Looper(ClientSession* session, std::atomic<int64_t>* left, absl::Notification* done,
         Direction way, uint8_t* data, uint32_t bytes)
      : session_(session), left_(left), done_(done) {
    direction = way;
    span_count = 1;
    spans[0] = {data, bytes};
    user_message = message_;
  }

  void OnDone(int) override {
    const int64_t left = left_->fetch_sub(1, std::memory_order_relaxed);
    if (left > in_flight_others()) {
      session_->Submit(0, this);
    } else if (left == 1) {
      done_->Notify();
    }
  }

  void set_depth(int64_t depth) { depth_ = depth; }

 private:
  // As many as are still on their way are not submitted again.
  int64_t in_flight_others() const { return depth_; }

  ClientSession* const session_;
  std::atomic<int64_t>* const left_;
  absl::Notification* const done_;
  int64_t depth_ = 1;
  uint8_t message_[32] = {};
};

void RunRequests(benchmark::State& state, const Address& address, Direction way, uint32_t bytes,
                 int64_t depth) {
  Ends ends(address, std::max(bytes, 4096U), static_cast<size_t>(depth));
  constexpr int64_t kBatch = 2000;
  for (auto _ : state) {
    std::atomic<int64_t> left{kBatch};
    absl::Notification done;
    std::vector<std::unique_ptr<Looper>> loopers;
    for (int64_t i = 0; i < depth; ++i) {
      loopers.push_back(std::make_unique<Looper>(ends.session(), &left, &done, way,
                                                 ends.memory() + i * bytes, bytes));
      loopers.back()->set_depth(depth);
    }
    ends.worker()->ring()->Post([&] {
      for (const auto& looper : loopers) ends.session()->Submit(0, looper.get());
    });
    done.WaitForNotification();
    // The last OnDone() has returned when the thread does something else.
    ends.worker()->RunAndWait([] {});
  }
  state.SetItemsProcessed(state.iterations() * kBatch);
  state.SetBytesProcessed(state.iterations() * kBatch * bytes);
}

void RegisterAll() {
  const Address unix_address =
      *ParseServerAddress(AddressScheme::kUnix, testing::UnusedSocketPath());
  const Address tcp_address = *ParseServerAddress(AddressScheme::kTcp, "127.0.0.1:0");
  for (const auto& [wire, address] :
       {std::pair("Unix", unix_address), std::pair("Tcp", tcp_address)}) {
    for (uint32_t bytes : {4096U, 1U << 20}) {
      for (Direction way : {Direction::kRead, Direction::kWrite}) {
        for (int64_t depth : {1, 32, 128}) {
          const std::string name = absl::StrCat(
              wire, way == Direction::kRead ? "/read/" : "/write/", bytes, "/depth:", depth);
          benchmark::RegisterBenchmark(name.c_str(), RunRequests, address, way, bytes, depth)
              ->UseRealTime()
              ->Unit(benchmark::kMicrosecond);
        }
      }
    }
  }
}

}  // namespace
}  // namespace rnbd::rtrs

int main(int argc, char** argv) {
  spdlog::set_level(spdlog::level::warn);
  benchmark::Initialize(&argc, argv);
  rnbd::rtrs::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
