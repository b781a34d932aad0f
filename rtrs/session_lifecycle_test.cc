// Sessions that come, break, come back and end, at every possible moment.

#include <dirent.h>

#include <atomic>
#include <cerrno>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "gtest/gtest.h"
#include "rtrs/client_session.h"
#include "rtrs/server.h"
#include "testing/cutting_fabric.h"
#include "testing/raw_peer.h"
#include "testing/session_fixture.h"
#include "testing/session_harness.h"

namespace rnbd::rtrs {
namespace {

int OpenFiles() {
  int count = 0;
  DIR* directory = opendir("/proc/self/fd");
  while (readdir(directory) != nullptr) ++count;
  closedir(directory);
  return count;
}

class SessionLifecycleTest : public SessionFixture {
 protected:
  void StartServer(Fabric* fabric) {
    server_ = std::make_unique<TestServer>(fabric, std::vector<Address>{ListenAddress()});
    ASSERT_NO_FATAL_FAILURE(server_->Start());
  }
  void StartServer() { StartServer(fabric()); }

  std::unique_ptr<TestClient> NewClient(const std::string& name = "blya",
                                        TestThreads* threads = nullptr) {
    return std::make_unique<TestClient>(fabric(), name, std::vector<PathAddress>{server_->path()},
                                        TinyPathSettings(), threads);
  }

  std::unique_ptr<TestServer> server_;
};

// Every point of what happens at an end, from connecting to the end of a request, is once the one
// where things break. The session is there in the end each time, and everything is given back.
TEST_P(SessionLifecycleTest, SurvivesABreakAtEveryPointOfTheClient) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  CuttingFabric cutting(fabric());
  TestThreads threads("client", 2);
  for (int point = 0;; ++point) {
    SCOPED_TRACE(point);
    cutting.CutAt(point);
    TestClient client(&cutting, "blya", {server_->path()}, TinyPathSettings(), &threads);
    client.Start();
    ASSERT_TRUE(client.WaitUp(1)) << client.last();
    for (size_t lane = 0; lane <= client.control_lane(); ++lane) {
      EXPECT_TRUE(Eventually([&] {
        const int error = client.Write(lane, 0x31, 4096);
        EXPECT_TRUE(error == 0 || error == ECONNABORTED) << error;
        return error == 0;
      }));
      EXPECT_TRUE(Eventually([&] { return client.Read(lane, 0x32, 4096) == 0; }));
    }
    client.Close();
    ASSERT_TRUE(server_->WaitForSessions(0));
    if (!cutting.has_cut()) {
      EXPECT_GT(point, 20);
      break;
    }
  }
}

TEST_P(SessionLifecycleTest, SurvivesABreakAtEveryPointOfTheServer) {
  CuttingFabric cutting(fabric());
  ASSERT_NO_FATAL_FAILURE(StartServer(&cutting));
  TestThreads threads("client", 2);
  for (int point = 0;; ++point) {
    SCOPED_TRACE(point);
    cutting.CutAt(point);
    std::unique_ptr<TestClient> client = NewClient("blya", &threads);
    client->Start();
    ASSERT_TRUE(client->WaitUp(1)) << client->last();
    for (size_t lane = 0; lane <= client->control_lane(); ++lane) {
      EXPECT_TRUE(Eventually([&] { return client->Write(lane, 0x31, 4096) == 0; }));
      EXPECT_TRUE(Eventually([&] { return client->Read(lane, 0x32, 4096) == 0; }));
    }
    client->Close();
    ASSERT_TRUE(server_->WaitForSessions(0));
    if (!cutting.has_cut()) {
      EXPECT_GT(point, 20);
      break;
    }
  }
  server_.reset();
}

TEST_P(SessionLifecycleTest, ReconnectsHundredsOfTimesUnderLoad) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  CuttingFabric cutting(fabric());
  ClientPathSettings settings = TinyPathSettings();
  settings.reconnect_min = settings.reconnect_max = absl::Milliseconds(1);
  TestClient client(&cutting, "blya", {server_->path()}, settings);
  client.Start();
  ASSERT_TRUE(client.WaitUp(1));
  const int files = OpenFiles();
  Load load(&client, 4, 4096);
  load.Start();
  std::minstd_rand random(7);
  const int rounds = 300 / GetParam().slowness;
  for (int round = 0; round < rounds; ++round) {
    cutting.CutAt(static_cast<int>(random() % 150));
    ASSERT_TRUE(Eventually([&] { return cutting.has_cut(); })) << round;
  }
  cutting.DoNotCut();
  ASSERT_TRUE(load.WaitForMore(100));
  load.Stop();
  EXPECT_EQ(load.wrong(), 0U);
  EXPECT_GT(load.aborted(), static_cast<uint64_t>(rounds / 3));
  EXPECT_TRUE(client.WaitUp(client.downs() + 1));
  EXPECT_GT(client.downs(), rounds / 3);
  // No permit was lost: both can be held at the same time.
  TestRequest first(Direction::kRead, {.hold = 1}, {});
  TestRequest second(Direction::kRead, {.hold = 1}, {});
  client.Submit(0, &first);
  client.Submit(client.control_lane(), &second);
  EXPECT_TRUE(server_->handler().WaitForHeld(2));
  server_->handler().Release();
  EXPECT_EQ(first.Wait(), 0);
  EXPECT_EQ(second.Wait(), 0);
  EXPECT_EQ(OpenFiles(), files);
  client.Close();
  EXPECT_TRUE(server_->WaitForSessions(0));
}

TEST_P(SessionLifecycleTest, TheServerRestartsUnderLoad) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  std::unique_ptr<TestClient> client = NewClient();
  client->Start();
  ASSERT_TRUE(client->WaitUp(1));
  Load load(client.get(), 4, 4096);
  load.Start();
  for (int round = 1; round <= 10; ++round) {
    EXPECT_TRUE(load.WaitForMore(50));
    server_->Stop();
    ASSERT_TRUE(client->WaitDown(round));
    ASSERT_NO_FATAL_FAILURE(server_->Start());
    ASSERT_TRUE(client->WaitUp(round + 1));
  }
  load.Stop();
  EXPECT_EQ(load.wrong(), 0U);
}

TEST_P(SessionLifecycleTest, ClosesInEveryState) {
  std::unique_ptr<RingThread> thread = StartRingThread("raw");
  CuttingFabric cutting(fabric());
  // Idle, not started.
  {
    RawServer server(fabric(), ListenAddress(), thread.get());
    ASSERT_NO_FATAL_FAILURE(server.Start());
    TestClient client(fabric(), "blya", {server.path()});
    client.Close();
    EXPECT_EQ(server.attempts(), 0);
  }
  // Connecting: at each connection, and waiting for INFO_RSP.
  for (int stall = 0; stall <= 3; ++stall) {
    SCOPED_TRACE(stall);
    RawServer server(fabric(), ListenAddress(), thread.get());
    std::atomic<int> last_cid{-1};
    server.on_connect = [&](const ConnectRequest& request) {
      last_cid = request.cid;
      return request.cid == stall ? RawServer::Answer::kStall : RawServer::Answer::kAccept;
    };
    server.info_response = [] { return std::vector<uint8_t>(); };
    ASSERT_NO_FATAL_FAILURE(server.Start());
    TestClient client(fabric(), "blya", {server.path()});
    client.Start();
    ASSERT_TRUE(Eventually([&] { return stall < 3 ? last_cid == stall : server.infos() == 1; }));
    client.Close();
    EXPECT_EQ(client.ups(), 0);
    EXPECT_EQ(client.failures(), 0);
  }
  // Connecting, straight after the start.
  {
    RawServer server(fabric(), ListenAddress(), thread.get());
    ASSERT_NO_FATAL_FAILURE(server.Start());
    for (int i = 0; i < 20; ++i) {
      TestClient client(fabric(), "blya", {server.path()});
      client.Start();
      absl::SleepFor(absl::Microseconds(50 * i));
      client.Close();
    }
  }
  // Waiting for the next attempt.
  {
    ClientPathSettings settings = TinyPathSettings();
    settings.reconnect_min = settings.reconnect_max = absl::Seconds(1000);
    RawServer server(fabric(), ListenAddress(), thread.get());
    server.on_connect = [](const ConnectRequest&) { return RawServer::Answer::kDrop; };
    ASSERT_NO_FATAL_FAILURE(server.Start());
    TestClient client(fabric(), "blya", {server.path()}, settings);
    client.Start();
    ASSERT_TRUE(client.WaitFailed(1));
    client.Close();
    EXPECT_EQ(server.attempts(), 1);
  }
  // Connected, with requests in flight and others that wait for a permit.
  ASSERT_NO_FATAL_FAILURE(StartServer());
  {
    std::unique_ptr<TestClient> client = NewClient();
    client->Start();
    ASSERT_TRUE(client->WaitUp(1));
    std::vector<std::unique_ptr<TestRequest>> requests;
    for (int i = 0; i < 12; ++i) {
      requests.push_back(std::make_unique<TestRequest>(Direction::kRead, EchoMessage{.hold = 1},
                                                       absl::Span<uint8_t>()));
      client->Submit(i % 3, requests.back().get());
    }
    ASSERT_TRUE(server_->handler().WaitForHeld(2));
    client->Close();
    for (const auto& request : requests) {
      EXPECT_TRUE(request->done());
      EXPECT_EQ(request->Wait(), ECONNABORTED);
    }
    EXPECT_EQ(client->downs(), 1);
    server_->handler().Release();
    EXPECT_TRUE(server_->WaitForSessions(0));
  }
  // Disconnecting.
  for (int i = 0; i < 20; ++i) {
    TestClient client(&cutting, "blya", {server_->path()});
    client.Start();
    ASSERT_TRUE(client.WaitUp(1));
    cutting.CutPath(server_->path().destination);
    absl::SleepFor(absl::Microseconds(20 * i));
    client.Close();
    EXPECT_TRUE(server_->WaitForSessions(0));
  }
}

// What is still at work in the backend keeps the server, and nothing else does.
TEST_P(SessionLifecycleTest, ShutdownWaitsForTheBackend) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  std::unique_ptr<TestClient> client = NewClient();
  client->Start();
  ASSERT_TRUE(client->WaitUp(1));
  TestRequest request(Direction::kWrite, {.fill = 0, .hold = 1}, client->memory().first(512));
  client->Submit(1, &request);
  ASSERT_TRUE(server_->handler().WaitForHeld(1));
  server_->BeginStop();
  // The client learns at once.
  EXPECT_EQ(request.Wait(), ECONNABORTED);
  ASSERT_TRUE(client->WaitDown(1));
  EXPECT_TRUE(IsPeersReason(client->last_down(), ESHUTDOWN));
  EXPECT_FALSE(server_->WaitStopped(absl::Milliseconds(100)));
  EXPECT_EQ(server_->handler().sessions(), 1);
  server_->handler().Release();
  EXPECT_TRUE(server_->WaitStopped());
  EXPECT_EQ(server_->handler().sessions(), 0);
}

// A server that stops while clients are at every stage of connecting.
TEST_P(SessionLifecycleTest, ShutdownWhileClientsConnect) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  TestThreads threads("client", 2);
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(NewClient(absl::StrCat("session-", i), &threads));
    clients.back()->Start();
  }
  for (int round = 0; round < 10; ++round) {
    absl::SleepFor(absl::Milliseconds(round));
    server_->Stop();
    ASSERT_NO_FATAL_FAILURE(server_->Start());
  }
  for (const auto& client : clients) {
    EXPECT_TRUE(Eventually([&] { return client->Read(0, 1, 512) == 0; }));
  }
  clients.clear();
  EXPECT_TRUE(server_->WaitForSessions(0));
}

// A client that ends and is started anew with the same name, while the old session still has a
// request at work; and again and again without one.
TEST_P(SessionLifecycleTest, ANameIsUsedAgainAtOnce) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  TestThreads threads("client", 2);
  const int rounds = 30 / GetParam().slowness;
  for (int round = 0; round < rounds; ++round) {
    std::unique_ptr<TestClient> client = NewClient("blya", &threads);
    client->Start();
    ASSERT_TRUE(client->WaitUp(1)) << client->last();
    EXPECT_EQ(client->Read(0, 1, 512), 0);
    client->Close();
  }
  std::unique_ptr<TestClient> first = NewClient("blya", &threads);
  first->Start();
  ASSERT_TRUE(first->WaitUp(1));
  TestRequest request(Direction::kWrite, {.hold = 1}, {});
  first->Submit(0, &request);
  ASSERT_TRUE(server_->handler().WaitForHeld(1));
  first->Close();
  EXPECT_EQ(request.Wait(), ECONNABORTED);
  std::unique_ptr<TestClient> second = NewClient("blya", &threads);
  second->Start();
  ASSERT_TRUE(second->WaitFailed(3));
  EXPECT_TRUE(IsPeersReason(WaitForPeersReason(second.get(), EBUSY), EBUSY));
  EXPECT_EQ(server_->handler().executed(), static_cast<uint64_t>(rounds));
  server_->handler().Release();
  ASSERT_TRUE(second->WaitUp(1));
  EXPECT_EQ(server_->handler().executed(), static_cast<uint64_t>(rounds + 1));
  second->Close();
}

TEST_P(SessionLifecycleTest, ManySessionsAtOnce) {
  const int sessions = 200 / GetParam().slowness;
  ASSERT_NO_FATAL_FAILURE(StartServer());
  TestThreads threads("client", 2);
  const int files = OpenFiles();
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < sessions; ++i) {
    clients.push_back(NewClient(absl::StrCat("session-", i), &threads));
    clients.back()->Start();
  }
  for (const auto& client : clients) ASSERT_TRUE(client->WaitUp(1)) << client->last();
  EXPECT_EQ(server_->session_count(), static_cast<size_t>(sessions));
  EXPECT_EQ(server_->handler().sessions(), sessions);
  std::vector<std::unique_ptr<TestRequest>> requests;
  for (int i = 0; i < sessions; ++i) {
    requests.push_back(std::make_unique<TestRequest>(Direction::kRead,
                                                     EchoMessage{.fill = static_cast<uint8_t>(i)},
                                                     clients[i]->memory().first(4096)));
    clients[i]->Submit(i % 3, requests.back().get());
  }
  for (int i = 0; i < sessions; ++i) {
    EXPECT_EQ(requests[i]->Wait(), 0);
    EXPECT_EQ(clients[i]->memory()[4095], i & 0xff);
  }
  // All lost at once, all back.
  server_->Stop();
  for (const auto& client : clients) ASSERT_TRUE(client->WaitDown(1));
  ASSERT_NO_FATAL_FAILURE(server_->Start());
  for (const auto& client : clients) ASSERT_TRUE(client->WaitUp(2)) << client->last();
  for (const auto& client : clients) client->BeginClose();
  for (const auto& client : clients) EXPECT_TRUE(client->WaitClosed());
  EXPECT_TRUE(server_->WaitForSessions(0));
  EXPECT_TRUE(Eventually([&] { return OpenFiles() == files; }));
}

INSTANTIATE_TEST_SUITE_P(Fabrics, SessionLifecycleTest, ::testing::ValuesIn(SessionFabrics()),
                         SessionFabric::Name);

}  // namespace
}  // namespace rnbd::rtrs
