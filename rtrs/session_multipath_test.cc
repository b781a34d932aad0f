// Sessions with several paths, of which some fail.

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/client_session.h"
#include "rtrs/server.h"
#include "testing/cutting_fabric.h"
#include "testing/raw_peer.h"
#include "testing/session_fixture.h"
#include "testing/session_harness.h"

namespace rnbd::rtrs {
namespace {

using ::testing::HasSubstr;

class SessionMultipathTest : public SessionFixture {
 protected:
  SessionMultipathTest() : cutting_(fabric()), thread_(StartRingThread("raw")) {
    options_ = TinyServerOptions();
  }

  void StartServer() {
    server_ = std::make_unique<TestServer>(
        fabric(), std::vector<Address>{ListenAddress(0), ListenAddress(1)}, options_);
    ASSERT_NO_FATAL_FAILURE(server_->Start());
  }

  // A client with a path to each of the server's addresses, both connected.
  void StartBoth(const ClientPathSettings& settings = TinyPathSettings()) {
    ASSERT_NO_FATAL_FAILURE(StartServer());
    client_ = std::make_unique<TestClient>(
        &cutting_, "blya", std::vector<PathAddress>{server_->path(0), server_->path(1)}, settings);
    client_->Start();
    ASSERT_TRUE(WaitForPaths(2));
  }

  // True when that many paths are connected, and both ends know.
  bool WaitForPaths(int count) {
    return WaitForServerPaths(count) &&
           Eventually([&] { return client_->session()->connected_paths() == count; });
  }
  bool WaitForServerPaths(int count) {
    return server_->WaitForCounters([count](const ServerCounters& counters) {
      return static_cast<int>(counters.paths_connected - counters.paths_closed) == count;
    });
  }

  // Breaks a path, and waits until the server knows.
  void CutPath(int number) {
    const uint64_t closed = server_->counters().paths_closed;
    cutting_.CutPath(server_->path(number).destination);
    EXPECT_TRUE(server_->WaitForCounters(
        [closed](const ServerCounters& counters) { return counters.paths_closed > closed; }));
  }

  std::unique_ptr<RawClient> NewClient(int address = 0) {
    return std::make_unique<RawClient>(fabric(), server_->path(address), thread_.get());
  }
  // The second path of a session that the first one began.
  std::unique_ptr<RawClient> NewPath(const RawClient& first) {
    auto path = NewClient(1);
    path->request.paths_uuid = first.request.paths_uuid;
    path->request.bits = 0;
    return path;
  }

  CuttingFabric cutting_;
  ServerOptions options_;
  std::unique_ptr<RingThread> thread_;
  std::unique_ptr<TestServer> server_;
  std::unique_ptr<TestClient> client_;
};

TEST_P(SessionMultipathTest, BothPathsCarryRequests) {
  options_.geometry.queue_depth = 8;
  ASSERT_NO_FATAL_FAILURE(StartBoth());
  EXPECT_EQ(client_->ups(), 1);
  EXPECT_EQ(server_->session_count(), 1U);
  EXPECT_EQ(server_->handler().sessions(), 1);
  Load load(client_.get(), 4, 4096);
  load.Start();
  EXPECT_TRUE(load.WaitForMore(500));
  load.Stop();
  EXPECT_EQ(load.wrong(), 0U);
  EXPECT_EQ(load.aborted(), 0U);
}

// By whichever policy.
TEST_P(SessionMultipathTest, EveryPolicyUsesEveryPath) {
  options_.geometry.queue_depth = 8;
  ASSERT_NO_FATAL_FAILURE(StartServer());
  for (PathPolicy policy :
       {PathPolicy::kRoundRobin, PathPolicy::kMinInflight, PathPolicy::kMinLatency}) {
    client_ = std::make_unique<TestClient>(
        &cutting_, "blya", std::vector<PathAddress>{server_->path(0), server_->path(1)},
        TinyPathSettings(), nullptr, policy);
    client_->Start();
    ASSERT_TRUE(WaitForPaths(2));
    // Held, so that each of them takes the room of one on its path.
    std::vector<std::unique_ptr<TestRequest>> requests;
    for (size_t i = 0; i < 4; ++i) {
      requests.push_back(std::make_unique<TestRequest>(Direction::kWrite,
                                                       EchoMessage{.fill = 1, .hold = 1},
                                                       client_->memory().subspan(i * 4096, 512)));
      client_->Submit(0, requests.back().get());
    }
    ASSERT_TRUE(server_->handler().WaitForHeld(4));
    cutting_.CutPath(server_->path(0).destination);
    const auto lost = [&] {
      return std::count_if(requests.begin(), requests.end(),
                           [](const auto& request) { return request->done(); });
    };
    ASSERT_TRUE(Eventually([&] { return client_->session()->connected_paths() == 1; }));
    // Before the first heartbeat all paths are equally fast.
    EXPECT_EQ(lost(), 2) << static_cast<int>(policy);
    server_->handler().Release();
    for (const auto& request : requests) request->Wait();
    client_->Close();
    ASSERT_TRUE(server_->WaitForSessions(0));
  }
}

// The session stays up, what was on the other path is not touched, and the path comes back.
TEST_P(SessionMultipathTest, OnePathDiesAndTheSessionLives) {
  options_.geometry.queue_depth = 8;
  ASSERT_NO_FATAL_FAILURE(StartBoth());
  // One on each path: the second goes where there is less to do.
  TestRequest first(Direction::kRead, {.fill = 1, .hold = 1}, client_->memory().first(512));
  TestRequest second(Direction::kRead, {.fill = 2, .hold = 1},
                     client_->memory().subspan(4096, 512));
  client_->Submit(0, &first);
  ASSERT_TRUE(server_->handler().WaitForHeld(1));
  client_->Submit(0, &second);
  ASSERT_TRUE(server_->handler().WaitForHeld(2));
  cutting_.CutPath(server_->path(0).destination);
  ASSERT_TRUE(Eventually([&] { return first.done() || second.done(); }));
  TestRequest& failed = first.done() ? first : second;
  TestRequest& alive = first.done() ? second : first;
  EXPECT_EQ(failed.Wait(), ECONNABORTED);
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_FALSE(alive.done());
  for (size_t lane = 0; lane <= client_->control_lane(); ++lane) {
    EXPECT_EQ(client_->Read(lane, 5, 4096), 0);
  }
  // The lost path cannot come back while its request is at work.
  EXPECT_TRUE(client_->WaitFailed(2));
  EXPECT_THAT(client_->last().ToString(), HasSubstr("their requests are being finished"));
  EXPECT_TRUE(WaitForPaths(1));
  server_->handler().Release();
  EXPECT_EQ(alive.Wait(), 0);
  EXPECT_TRUE(WaitForPaths(2));
  EXPECT_EQ(client_->downs(), 0);
  EXPECT_EQ(client_->ups(), 1);
}

TEST_P(SessionMultipathTest, PathsDieInTurnUnderLoad) {
  options_.geometry.queue_depth = 8;
  ASSERT_NO_FATAL_FAILURE(StartBoth());
  Load load(client_.get(), 4, 4096);
  load.Start();
  for (int round = 0; round < 20 / GetParam().slowness; ++round) {
    CutPath(round % 2);
    ASSERT_TRUE(load.WaitForMore(20));
    ASSERT_TRUE(WaitForPaths(2));
  }
  load.Stop();
  EXPECT_EQ(load.wrong(), 0U);
  EXPECT_EQ(client_->downs(), 0);
  EXPECT_EQ(server_->counters().protocol_violations, 0U);
}

// Both at once, over and over: every request is done once, whatever happens to the session.
TEST_P(SessionMultipathTest, AllPathsDieUnderLoad) {
  options_.geometry.queue_depth = 3;
  ASSERT_NO_FATAL_FAILURE(StartBoth());
  Load load(client_.get(), 4, 4096);
  load.Start();
  for (int round = 0; round < 30 / GetParam().slowness; ++round) {
    cutting_.CutPath(server_->path(round % 2).destination);
    cutting_.CutPath(server_->path(1 - round % 2).destination);
    ASSERT_TRUE(load.WaitForMore(10));
  }
  ASSERT_TRUE(WaitForPaths(2));
  load.Stop();
  EXPECT_EQ(load.wrong(), 0U);
  EXPECT_EQ(server_->counters().protocol_violations, 0U);
  client_->Close();
  EXPECT_TRUE(server_->WaitForSessions(0));
}

// A chunk whose request failed with its path is left alone while the server may still be at it.
TEST_P(SessionMultipathTest, AStrandedPermitRestsUntilThePathIsAcceptedAgain) {
  ASSERT_NO_FATAL_FAILURE(StartBoth());
  // The only permit that workers may use.
  TestRequest stranded(Direction::kRead, {.fill = 9, .hold = 1}, client_->memory().first(4096));
  client_->Submit(0, &stranded);
  ASSERT_TRUE(server_->handler().WaitForHeld(1));
  cutting_.CutPath(server_->path(0).destination);
  cutting_.CutPath(server_->path(1).destination);
  EXPECT_EQ(stranded.Wait(), ECONNABORTED);
  // One of the paths had nothing at work and could come back; the session may not, for its other
  // one is closing.
  ASSERT_TRUE(client_->WaitDown(1));
  ASSERT_TRUE(client_->WaitFailed(4));
  EXPECT_EQ(client_->ups(), 1);
  server_->handler().Release();
  ASSERT_TRUE(client_->WaitUp(2));
  EXPECT_EQ(client_->Write(0, 7, 4096), 0);
  EXPECT_TRUE(WaitForPaths(2));
  EXPECT_EQ(client_->Write(1, 8, 4096), 0);
}

// The session comes up over whichever path there is.
TEST_P(SessionMultipathTest, TheFirstPathNeedNotBeThere) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  RawServer absent(fabric(), ListenAddress(2), thread_.get());
  absent.on_connect = [](const ConnectRequest&) { return RawServer::Answer::kDrop; };
  ASSERT_NO_FATAL_FAILURE(absent.Start());
  client_ = std::make_unique<TestClient>(
      fabric(), "blya",
      std::vector<PathAddress>{absent.path(), server_->path(0), server_->path(1)});
  client_->Start();
  ASSERT_TRUE(client_->WaitUp(1));
  EXPECT_TRUE(WaitForPaths(2));
  EXPECT_EQ(client_->Read(0, 1, 512), 0);
  // Now that the session is known, the absent one joins it.
  EXPECT_TRUE(Eventually([&] { return !absent.last_first_conn(); }));
}

// Two servers are not one: the second refuses the path.
TEST_P(SessionMultipathTest, PathsToTwoServersAreNoticed) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  TestServer other(fabric(), {ListenAddress(2)});
  ASSERT_NO_FATAL_FAILURE(other.Start());
  client_ = std::make_unique<TestClient>(fabric(), "blya",
                                         std::vector<PathAddress>{server_->path(0), other.path()});
  client_->Start();
  ASSERT_TRUE(client_->WaitUp(1));
  ASSERT_TRUE(client_->WaitFailed(2));
  EXPECT_THAT(client_->WaitFailedWith(ENXIO).ToString(),
              HasSubstr("do all paths lead to one server?"));
  EXPECT_EQ(client_->last_path(), other.path());
  EXPECT_EQ(other.session_count(), 0U);
  EXPECT_EQ(client_->Read(0, 1, 512), 0);
  client_->Close();
}

// Section 6.8: the client moves a request to another path before the server has noticed that the
// first one is lost.
TEST_P(SessionMultipathTest, ARequestForABusyChunkOfAnotherPathWaits) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  auto first = NewClient();
  ASSERT_NO_FATAL_FAILURE(first->Establish("blya", 2));
  auto second = NewPath(*first);
  ASSERT_NO_FATAL_FAILURE(second->Establish("blya", 2));
  for (Direction direction : {Direction::kWrite, Direction::kRead}) {
    const uint64_t executed = server_->handler().executed();
    auto send = [&](RawClient* client, uint8_t fill, uint8_t hold) {
      const EchoMessage message = {.fill = fill, .hold = hold};
      if (direction == Direction::kWrite) {
        client->SendWrite(1, 1, message, 512);
      } else {
        client->SendRead(1, 1, message, 512);
      }
    };
    const size_t answers = direction == Direction::kWrite ? 1 : 2;
    send(first.get(), 7, 1);
    ASSERT_TRUE(server_->handler().WaitForHeld(1));
    send(second.get(), 7, 0);
    // Behind it on the same connection, in another chunk.
    second->SendRead(1, 0, {.fill = 1}, 512);
    EXPECT_EQ(second->WaitForResponse(1, 2 * answers - 1).msg_id, 0U);
    absl::SleepFor(absl::Milliseconds(20));
    EXPECT_EQ(server_->handler().executed(), executed + 1);
    server_->handler().Release();
    EXPECT_EQ(first->WaitForResponse(1, answers).error_number, 0);
    EXPECT_EQ(second->WaitForResponse(1, 2 * answers).error_number, 0);
    EXPECT_EQ(server_->handler().executed(), executed + 3);
  }
  EXPECT_EQ(second->data(1)[511], 7);
  EXPECT_FALSE(first->down());
  EXPECT_FALSE(second->down());
}

// What a read puts into the chunk meanwhile must not be written to a disk.
TEST_P(SessionMultipathTest, AWriteIntoAChunkThatAReadFillsIsRefused) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  auto first = NewClient();
  ASSERT_NO_FATAL_FAILURE(first->Establish("blya", 1));
  auto second = NewPath(*first);
  ASSERT_NO_FATAL_FAILURE(second->Establish("blya", 1));
  first->SendRead(0, 1, {.fill = 7, .hold = 1}, 512);
  ASSERT_TRUE(server_->handler().WaitForHeld(1));
  second->SendWrite(0, 1, {.fill = 8}, 1024);
  second->SendRead(0, 0, {}, 0);
  EXPECT_EQ(second->WaitForResponse(0, 1).msg_id, 0U);
  server_->handler().Release();
  EXPECT_TRUE(second->WaitUntilDown());
  EXPECT_TRUE(IsPeersReason(second->why(), EAGAIN));
  EXPECT_EQ(server_->handler().executed(), 2U);
  EXPECT_EQ(server_->counters().protocol_violations, 0U);
  EXPECT_FALSE(first->down());
}

TEST_P(SessionMultipathTest, AWaitingRequestGoesWithItsPath) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  auto first = NewClient();
  ASSERT_NO_FATAL_FAILURE(first->Establish("blya", 1));
  auto second = NewPath(*first);
  ASSERT_NO_FATAL_FAILURE(second->Establish("blya", 1));
  first->SendWrite(0, 1, {.fill = 7, .hold = 1}, 512);
  ASSERT_TRUE(server_->handler().WaitForHeld(1));
  second->SendWrite(0, 1, {.fill = 7}, 512);
  second->SendRead(0, 0, {.fill = 1}, 512);
  EXPECT_EQ(second->WaitForResponse(0, 1).error_number, 0);
  second->Disconnect();
  EXPECT_TRUE(WaitForServerPaths(1));
  server_->handler().Release();
  EXPECT_EQ(first->WaitForResponse(0, 1).error_number, 0);
  // The chunk is free again.
  first->SendWrite(0, 1, {.fill = 9}, 512);
  EXPECT_EQ(first->WaitForResponse(0, 2).error_number, 0);
  EXPECT_EQ(server_->handler().executed(), 3U);
}

TEST_P(SessionMultipathTest, AChunkIsAskedForOnceOnAConnection) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  auto first = NewClient();
  ASSERT_NO_FATAL_FAILURE(first->Establish("blya", 1));
  auto second = NewPath(*first);
  ASSERT_NO_FATAL_FAILURE(second->Establish("blya", 1));
  first->SendWrite(0, 1, {.fill = 7, .hold = 1}, 512);
  ASSERT_TRUE(server_->handler().WaitForHeld(1));
  second->SendWrite(0, 1, {.fill = 7}, 512);
  second->SendWrite(0, 1, {.fill = 7}, 512);
  EXPECT_TRUE(second->WaitUntilDown());
  EXPECT_TRUE(IsPeersReason(second->why(), EPROTO, "still running"));
  EXPECT_FALSE(first->down());
  server_->handler().Release();
  EXPECT_EQ(first->WaitForResponse(0, 1).error_number, 0);
  EXPECT_EQ(server_->handler().executed(), 1U);
}

INSTANTIATE_TEST_SUITE_P(Fabrics, SessionMultipathTest, ::testing::ValuesIn(SessionFabrics()),
                         SessionFabric::Name);

}  // namespace
}  // namespace rnbd::rtrs
