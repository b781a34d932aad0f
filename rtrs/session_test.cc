// Sessions end to end: a client and a server of ours with limits small enough that every boundary
// is met.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/client_session.h"
#include "rtrs/server.h"
#include "testing/session_fixture.h"
#include "testing/session_harness.h"

namespace rnbd::rtrs {
namespace {

using ::testing::HasSubstr;

class SessionTest : public SessionFixture {
 protected:
  void Start(const ServerOptions& options = TinyServerOptions(), size_t workers = 2) {
    server_ = std::make_unique<TestServer>(fabric(), std::vector<Address>{ListenAddress()}, options,
                                           workers);
    ASSERT_NO_FATAL_FAILURE(server_->Start());
    client_ =
        std::make_unique<TestClient>(fabric(), "blya", std::vector<PathAddress>{server_->path()});
    client_->Start();
    ASSERT_TRUE(client_->WaitUp(1)) << client_->last();
  }

  ClientSessionState State() {
    ClientSessionState state = ClientSessionState::kIdle;
    client_->threads().control()->RunAndWait([&] { state = client_->session()->state(); });
    return state;
  }

  std::unique_ptr<TestServer> server_;
  std::unique_ptr<TestClient> client_;
  PathAddress path_;
};

TEST_P(SessionTest, CarriesRequestsOfEveryLane) {
  ASSERT_NO_FATAL_FAILURE(Start());
  EXPECT_EQ(client_->session()->geometry(), TinyServerOptions().geometry);
  EXPECT_TRUE(client_->session()->connected());
  for (size_t lane = 0; lane <= client_->control_lane(); ++lane) {
    for (uint32_t bytes : {1, 511, 512, 4095, 4096}) {
      EXPECT_EQ(client_->Write(lane, 0x5a, bytes), 0);
      EXPECT_EQ(client_->Read(lane, 0xc3, bytes), 0);
    }
    TestRequest flush(Direction::kRead, {}, {});
    client_->Submit(lane, &flush);
    EXPECT_EQ(flush.Wait(), 0);
    TestRequest discard(Direction::kWrite, {}, {});
    client_->Submit(lane, &discard);
    EXPECT_EQ(discard.Wait(), 0);
  }
}

TEST_P(SessionTest, GathersTheSpansOfAWrite) {
  ASSERT_NO_FATAL_FAILURE(Start());
  std::fill(client_->memory().begin(), client_->memory().end(), 0x77);
  TestRequest write(Direction::kWrite, {.fill = 0x77}, client_->memory().first(100));
  write.span_count = 3;
  write.spans[1] = {client_->memory().data() + 5000, 3000};
  write.spans[2] = {client_->memory().data() + 900, 996};
  client_->Submit(0, &write);
  EXPECT_EQ(write.Wait(), 0);
  // And notices when one of them is not what it should be.
  client_->memory()[900 + 995] = 0;
  TestRequest spoiled(Direction::kWrite, {.fill = 0x77}, client_->memory().first(100));
  spoiled.span_count = 3;
  spoiled.spans[1] = write.spans[1];
  spoiled.spans[2] = write.spans[2];
  client_->Submit(0, &spoiled);
  EXPECT_EQ(spoiled.Wait(), EILSEQ);
}

TEST_P(SessionTest, BringsTheServersErrnoToTheRequest) {
  ASSERT_NO_FATAL_FAILURE(Start());
  EXPECT_EQ(client_->Read(0, 1, 4096, ENOSPC), ENOSPC);
  EXPECT_EQ(client_->Write(1, 1, 512, EIO), EIO);
  EXPECT_EQ(client_->Read(0, 1, 4096), 0);
}

TEST_P(SessionTest, ManyRequestsShareFewPermits) {
  ASSERT_NO_FATAL_FAILURE(Start());
  std::vector<std::unique_ptr<TestRequest>> requests;
  for (uint32_t i = 0; i < 200; ++i) {
    requests.push_back(std::make_unique<TestRequest>(Direction::kRead,
                                                     EchoMessage{.fill = static_cast<uint8_t>(i)},
                                                     client_->memory().subspan(i * 4096, 4096)));
    client_->Submit(i % (client_->control_lane() + 1), requests.back().get());
  }
  for (uint32_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(requests[i]->Wait(), 0);
    EXPECT_EQ(client_->memory()[i * 4096 + 4095], i & 0xff);
  }
}

TEST_P(SessionTest, RefusesWhatFitsNoChunk) {
  ASSERT_NO_FATAL_FAILURE(Start());
  TestRequest large(Direction::kWrite, {}, client_->memory().first(4097));
  client_->Submit(0, &large);
  EXPECT_EQ(large.Wait(), EMSGSIZE);
  const std::vector<uint8_t> long_message(ClientTables::kHeaderBytes);
  TestRequest chatty(Direction::kRead, {}, {});
  chatty.user_message = long_message;
  client_->Submit(0, &chatty);
  EXPECT_EQ(chatty.Wait(), EMSGSIZE);
  TestRequest scattered(Direction::kRead, {}, client_->memory().first(512));
  scattered.span_count = 2;
  scattered.spans[1] = {client_->memory().data() + 512, 512};
  client_->Submit(0, &scattered);
  EXPECT_EQ(scattered.Wait(), EMSGSIZE);
  EXPECT_EQ(client_->Read(0, 1, 4096), 0);
}

TEST_P(SessionTest, WorksAtEveryGeometry) {
  const SessionGeometry geometries[] = {
      {.queue_depth = 1, .max_io_size = 4096, .max_hdr_size = 4096},
      {.queue_depth = 3, .max_io_size = 4096, .max_hdr_size = 4096},
      {.queue_depth = 2,
       .max_io_size = 8192 - kMinMaxHeaderSize,
       .max_hdr_size = kMinMaxHeaderSize},
      // A chunk that is no power of two, and a depth that is none.
      {.queue_depth = 5, .max_io_size = 12288, .max_hdr_size = 4096},
      {.queue_depth = 512, .max_io_size = 64 << 10, .max_hdr_size = 4096},
      // As deep as it gets with the smallest chunk.
      {.queue_depth = std::min(32768U, GetParam().max_queue_depth),
       .max_io_size = 4096,
       .max_hdr_size = 4096},
  };
  for (const SessionGeometry& geometry : geometries) {
    ASSERT_TRUE(ValidateSessionGeometry(geometry).ok());
    ServerOptions options = TinyServerOptions();
    options.geometry = geometry;
    ASSERT_NO_FATAL_FAILURE(Start(options));
    EXPECT_EQ(client_->session()->geometry(), geometry);
    Load load(client_.get(), 4, std::min<uint32_t>(geometry.max_io_size, 64 << 10));
    load.Start();
    EXPECT_TRUE(load.WaitForMore(300));
    load.Stop();
    EXPECT_EQ(load.wrong(), 0U);
    EXPECT_EQ(load.aborted(), 0U);
    client_.reset();
    EXPECT_TRUE(server_->WaitForSessions(0));
    server_.reset();
  }
}

TEST_P(SessionTest, WorksWithOneWorkerAndWithMany) {
  for (size_t server_workers : {1, 5}) {
    server_ = std::make_unique<TestServer>(fabric(), std::vector<Address>{ListenAddress()},
                                           TinyServerOptions(), server_workers);
    ASSERT_NO_FATAL_FAILURE(server_->Start());
    for (size_t client_workers : {1, 6}) {
      TestThreads threads("client", client_workers);
      TestClient client(fabric(), "blya", {server_->path()}, TinyPathSettings(), &threads);
      client.Start();
      ASSERT_TRUE(client.WaitUp(1));
      Load load(&client, 3, 4096);
      load.Start();
      EXPECT_TRUE(load.WaitForMore(300));
      load.Stop();
      EXPECT_EQ(load.wrong(), 0U);
      client.Close();
      EXPECT_TRUE(server_->WaitForSessions(0));
    }
    server_.reset();
  }
}

// One lane that always has requests waiting does not keep the permits for itself.
TEST_P(SessionTest, ABusyLaneLeavesPermitsToTheOthers) {
  for (uint32_t queue_depth : {1U, 2U}) {
    ServerOptions options = TinyServerOptions();
    options.geometry.queue_depth = queue_depth;
    ASSERT_NO_FATAL_FAILURE(Start(options));
    // Ten lanes' worth of requests on lane 0, again and again.
    class Greedy final : public ClientRequest {
     public:
      Greedy(TestClient* client, std::atomic<bool>* stop, std::atomic<int>* running)
          : client_(client), stop_(stop), running_(running) {
        user_message =
            absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&message_), sizeof(message_));
        running_->fetch_add(1);
      }
      void OnDone(int error) override {
        EXPECT_EQ(error, 0);
        if (stop_->load()) {
          running_->fetch_sub(1);
        } else {
          client_->session()->Submit(0, this);
        }
      }

     private:
      EchoMessage message_;
      TestClient* const client_;
      std::atomic<bool>* const stop_;
      std::atomic<int>* const running_;
    };
    std::atomic<bool> stop{false};
    std::atomic<int> running{0};
    std::vector<std::unique_ptr<Greedy>> greedy;
    for (int i = 0; i < 10; ++i) {
      greedy.push_back(std::make_unique<Greedy>(client_.get(), &stop, &running));
      client_->Submit(0, greedy.back().get());
    }
    for (int i = 0; i < 50; ++i) {
      const uint64_t before = server_->handler().executed();
      ASSERT_EQ(client_->Read(1, static_cast<uint8_t>(i), 512), 0);
      ASSERT_EQ(client_->Read(client_->control_lane(), static_cast<uint8_t>(i), 512), 0);
      // A handful of requests of the busy lane in between, and those of a slow machine.
      EXPECT_LT(server_->handler().executed() - before, 20000U);
    }
    stop.store(true);
    EXPECT_TRUE(Eventually([&] { return running.load() == 0; }));
    client_.reset();
    server_.reset();
  }
}

// Messages of the session itself get through while a device that does not answer holds every permit
// that others may have.
TEST_P(SessionTest, KeepsAPermitForTheControlLane) {
  ASSERT_NO_FATAL_FAILURE(Start());
  std::vector<std::unique_ptr<TestRequest>> held;
  for (int i = 0; i < 4; ++i) {
    held.push_back(std::make_unique<TestRequest>(Direction::kRead, EchoMessage{.hold = 1},
                                                 absl::Span<uint8_t>()));
    client_->Submit(i % 2, held.back().get());
  }
  ASSERT_TRUE(server_->handler().WaitForHeld(1));
  EXPECT_EQ(client_->Read(client_->control_lane(), 3, 4096), 0);
  server_->handler().ReleaseForGood();
  for (const auto& request : held) EXPECT_EQ(request->Wait(), 0);
}

// More requests on the control lane than connection 0 has receives for.
TEST_P(SessionTest, TheControlLaneMayBeFlooded) {
  ServerOptions options = TinyServerOptions();
  options.geometry = {.queue_depth = 4096, .max_io_size = 4096, .max_hdr_size = 4096};
  ASSERT_NO_FATAL_FAILURE(Start(options));
  std::vector<std::unique_ptr<TestRequest>> requests;
  for (int i = 0; i < 3000; ++i) {
    requests.push_back(
        std::make_unique<TestRequest>(Direction::kRead, EchoMessage{}, absl::Span<uint8_t>()));
    client_->Submit(client_->control_lane(), requests.back().get());
  }
  for (const auto& request : requests) ASSERT_EQ(request->Wait(), 0);
  EXPECT_EQ(client_->downs(), 0);
}

TEST_P(SessionTest, TellsTheClientWhyItsSessionIsRefused) {
  server_ = std::make_unique<TestServer>(fabric(), std::vector<Address>{ListenAddress()});
  server_->handler().on_session = [](const ServerSessionInfo& session) {
    return session.name == "stranger" ? ErrnoToStatus(EACCES, "no entry for this session")
                                      : absl::OkStatus();
  };
  ASSERT_NO_FATAL_FAILURE(server_->Start());
  client_ =
      std::make_unique<TestClient>(fabric(), "stranger", std::vector<PathAddress>{server_->path()});
  client_->Start();
  ASSERT_TRUE(client_->WaitFailed(2));
  EXPECT_TRUE(IsPeersReason(WaitForPeersReason(client_.get(), EACCES), EACCES,
                            "no entry for this session"));
  EXPECT_EQ(client_->last_path(), server_->path());
  EXPECT_TRUE(Eventually([&] { return server_->counters().sessions_refused >= 2; }));
  EXPECT_EQ(client_->ups(), 0);
}

TEST_P(SessionTest, WaitsForAServerThatIsNotThereYet) {
  server_ = std::make_unique<TestServer>(fabric(), std::vector<Address>{ListenAddress()});
  // To learn the port.
  server_->Start();
  server_->Stop();
  client_ =
      std::make_unique<TestClient>(fabric(), "blya", std::vector<PathAddress>{server_->path()});
  EXPECT_EQ(State(), ClientSessionState::kIdle);
  client_->Start();
  ASSERT_TRUE(client_->WaitFailed(2));
  EXPECT_EQ(State(), ClientSessionState::kConnecting);
  EXPECT_THAT(StatusToErrno(client_->last()), ::testing::AnyOf(ENOENT, ECONNREFUSED));
  EXPECT_EQ(client_->Read(0, 1, 512), ECONNABORTED);
  EXPECT_EQ(client_->session()->geometry().queue_depth, 0U);
  server_->Start();
  ASSERT_TRUE(client_->WaitUp(1));
  EXPECT_EQ(client_->Read(0, 1, 512), 0);
}

TEST_P(SessionTest, ComesBackWhenTheServerDoes) {
  ASSERT_NO_FATAL_FAILURE(Start());
  for (int round = 1; round <= 3; ++round) {
    ASSERT_TRUE(client_->WaitUp(round));
    EXPECT_EQ(State(), ClientSessionState::kUp);
    EXPECT_EQ(client_->Read(0, 7, 4096), 0);
    server_->Stop();
    ASSERT_TRUE(client_->WaitDown(round));
    EXPECT_EQ(State(), ClientSessionState::kDown);
    EXPECT_TRUE(IsPeersReason(client_->last_down(), ESHUTDOWN, "the test stops the server"));
    EXPECT_EQ(client_->Read(0, 7, 4096), ECONNABORTED);
    server_->Start();
  }
}

// As soon as OnSessionUp() was called, and connected() tells so, every lane takes requests.
TEST_P(SessionTest, EveryLaneIsReadyWhenTheSessionIsUp) {
  server_ = std::make_unique<TestServer>(fabric(), std::vector<Address>{ListenAddress()});
  ASSERT_NO_FATAL_FAILURE(server_->Start());
  TestThreads threads("client", 4);
  for (int round = 0; round < 30 / GetParam().slowness; ++round) {
    TestClient client(fabric(), "blya", {server_->path()}, TinyPathSettings(), &threads);
    client.Start();
    ASSERT_TRUE(Eventually([&] { return client.session()->connected(); }));
    for (size_t lane = 0; lane <= client.control_lane(); ++lane) {
      EXPECT_EQ(client.Read(lane, 9, 512), 0);
    }
    client.Close();
    ASSERT_TRUE(server_->WaitForSessions(0));
  }
}

TEST_P(SessionTest, FreesTheSessionWhenTheClientGoes) {
  ASSERT_NO_FATAL_FAILURE(Start());
  EXPECT_EQ(server_->handler().sessions(), 1);
  client_.reset();
  EXPECT_TRUE(server_->WaitForSessions(0));
  EXPECT_EQ(server_->handler().sessions(), 0);
}

TEST_P(SessionTest, ChecksItsOptions) {
  TestThreads threads("client", 1);
  const PathAddress path = *ParsePathAddress("tcp:127.0.0.1:1");
  auto create = [&](const std::string& name, std::vector<PathAddress> paths, size_t areas,
                    std::vector<Ring*> workers) {
    ClientSessionOptions options;
    options.name = name;
    options.paths = std::move(paths);
    options.memory.resize(areas);
    options.path = TinyPathSettings();
    return ClientSession::Create(options, fabric(), threads.control()->ring(), std::move(workers),
                                 nullptr)
        .status();
  };
  EXPECT_TRUE(create("blya", {path}, 1, threads.workers()).ok());
  EXPECT_FALSE(create("a.b", {path}, 1, threads.workers()).ok());
  EXPECT_FALSE(create("", {path}, 1, threads.workers()).ok());
  EXPECT_FALSE(create("blya", {}, 1, threads.workers()).ok());
  EXPECT_FALSE(create("blya", {path}, ClientSession::kMaxAreas + 1, threads.workers()).ok());
  EXPECT_FALSE(create("blya", {path}, 1, {}).ok());
  EXPECT_FALSE(create("blya", {path}, 1,
                      std::vector<Ring*>(ClientSession::kMaxWorkers + 1, threads.control()->ring()))
                   .ok());
}

// A server that comes back with other settings.
TEST_P(SessionTest, TakesALargerMaxIoSizeAndRefusesOtherChanges) {
  const Address address = ListenAddress();
  auto start = [&](uint32_t queue_depth, uint32_t max_io_size) {
    server_.reset();
    ServerOptions options = TinyServerOptions();
    options.geometry.queue_depth = queue_depth;
    options.geometry.max_io_size = max_io_size;
    Address listen = client_ == nullptr ? address : path_.destination;
    server_ = std::make_unique<TestServer>(fabric(), std::vector<Address>{listen}, options);
    server_->Start();
    path_ = server_->path();
  };
  start(2, 8192);
  client_ = std::make_unique<TestClient>(fabric(), "blya", std::vector<PathAddress>{path_});
  client_->Start();
  ASSERT_TRUE(client_->WaitUp(1));
  // Larger: the session keeps what it has, in larger chunks.
  start(2, 65536);
  ASSERT_TRUE(client_->WaitUp(2)) << client_->last();
  EXPECT_EQ(client_->session()->geometry().max_io_size, 8192U);
  for (size_t lane = 0; lane <= client_->control_lane(); ++lane) {
    EXPECT_EQ(client_->Write(lane, 5, 8192), 0);
    EXPECT_EQ(client_->Read(lane, 6, 8192), 0);
  }
  for (auto [queue_depth, max_io_size] : {std::pair(2, 4096), {3, 8192}, {1, 8192}}) {
    start(queue_depth, max_io_size);
    const int failures = client_->failures();
    ASSERT_TRUE(client_->WaitFailed(failures + 2));
    EXPECT_THAT(client_->WaitFailedWith(EINVAL).ToString(), HasSubstr("the server now offers"));
  }
  start(2, 8192);
  ASSERT_TRUE(client_->WaitUp(3)) << client_->last();
  EXPECT_EQ(client_->Read(1, 6, 8192), 0);
}

// Nothing is settled before the session was up.
TEST_P(SessionTest, TakesAnyGeometryBeforeItWasUp) {
  auto refuse = [](const ServerSessionInfo&) { return ErrnoToStatus(EACCES, "not yet"); };
  server_ = std::make_unique<TestServer>(fabric(), std::vector<Address>{ListenAddress()});
  server_->handler().on_session = refuse;
  ASSERT_NO_FATAL_FAILURE(server_->Start());
  const PathAddress path = server_->path();
  client_ = std::make_unique<TestClient>(fabric(), "blya", std::vector<PathAddress>{path});
  client_->Start();
  ASSERT_TRUE(client_->WaitFailed(2));
  EXPECT_EQ(client_->session()->geometry().queue_depth, 0U);
  ServerOptions options = TinyServerOptions();
  options.geometry = {.queue_depth = 7, .max_io_size = 16384, .max_hdr_size = 4096};
  server_.reset();
  server_ = std::make_unique<TestServer>(fabric(), std::vector<Address>{path.destination}, options);
  ASSERT_NO_FATAL_FAILURE(server_->Start());
  ASSERT_TRUE(client_->WaitUp(1)) << client_->last();
  EXPECT_EQ(client_->session()->geometry(), options.geometry);
  EXPECT_EQ(client_->Read(1, 6, 16384), 0);
}

INSTANTIATE_TEST_SUITE_P(Fabrics, SessionTest, ::testing::ValuesIn(SessionFabrics()),
                         SessionFabric::Name);

}  // namespace
}  // namespace rnbd::rtrs
