// What a person does with the paths of a session while it is in use.

#include <cerrno>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "common/status.h"
#include "gtest/gtest.h"
#include "rtrs/client_session.h"
#include "rtrs/server.h"
#include "testing/cutting_fabric.h"
#include "testing/session_fixture.h"
#include "testing/session_harness.h"

namespace rnbd::rtrs {
namespace {

using Done = std::function<void(const absl::Status&)>;

class SessionPathsTest : public SessionFixture {
 protected:
  SessionPathsTest() : cutting_(fabric()) {}

  ~SessionPathsTest() override {
    client_.reset();
    if (server_ != nullptr) server_->Stop();
  }

  void Start(int paths) {
    server_ = std::make_unique<TestServer>(
        fabric(), std::vector<Address>{ListenAddress(0), ListenAddress(1)}, TinyServerOptions());
    ASSERT_NO_FATAL_FAILURE(server_->Start());
    std::vector<PathAddress> addresses;
    for (int i = 0; i < paths; ++i) addresses.push_back(server_->path(i));
    client_ = std::make_unique<TestClient>(&cutting_, "blya", addresses, TinyPathSettings());
    client_->Start();
    ASSERT_TRUE(WaitForPaths(paths));
  }

  bool WaitForPaths(int count) {
    return Eventually([&] { return client_->session()->connected_paths() == count; });
  }

  void OnControl(const std::function<void(ClientSession*)>& task) {
    client_->threads().control()->RunAndWait([&] { task(client_->session()); });
  }

  // The errno with which what `begin` begins ends.
  int Await(const std::function<void(ClientSession*, Done)>& begin) {
    absl::Notification done;
    int error = -1;
    OnControl([&](ClientSession* session) {
      begin(session, [&](const absl::Status& status) {
        error = StatusToErrno(status);
        done.Notify();
      });
    });
    EXPECT_TRUE(done.WaitForNotificationWithTimeout(kPatience));
    return error;
  }
  int Disconnect(int path) {
    return Await([&](ClientSession* session, Done done) {
      session->DisconnectPath(server_->path(path), std::move(done));
    });
  }
  int Reconnect(int path) {
    return Await([&](ClientSession* session, Done done) {
      session->ReconnectPath(server_->path(path), std::move(done));
    });
  }
  int Add(const PathAddress& path) {
    return Await(
        [&](ClientSession* session, Done done) { session->AddPath(path, std::move(done)); });
  }

  ClientPath::State StateOf(int path) {
    ClientPath::State state = ClientPath::State::kClosed;
    OnControl(
        [&](ClientSession* session) { state = session->FindPath(server_->path(path))->state(); });
    return state;
  }
  PathTraffic TrafficOf(int path) {
    PathTraffic traffic;
    OnControl([&](ClientSession* session) {
      traffic = session->FindPath(server_->path(path))->traffic();
    });
    return traffic;
  }

  CuttingFabric cutting_;
  std::unique_ptr<TestServer> server_;
  std::unique_ptr<TestClient> client_;
};

TEST_P(SessionPathsTest, ADisconnectedPathStaysSoUntilItIsConnected) {
  ASSERT_NO_FATAL_FAILURE(Start(2));
  EXPECT_EQ(Disconnect(0), 0);
  EXPECT_EQ(StateOf(0), ClientPath::State::kStopped);
  EXPECT_EQ(Disconnect(0), 0);
  EXPECT_EQ(client_->session()->connected_paths(), 1);
  EXPECT_EQ(client_->Write(0, 1, 512), 0);
  EXPECT_EQ(StateOf(0), ClientPath::State::kStopped);
  EXPECT_EQ(Reconnect(0), 0);
  EXPECT_EQ(client_->session()->connected_paths(), 2);
  EXPECT_EQ(client_->downs(), 0);
}

TEST_P(SessionPathsTest, TheLastPathMayBeDisconnected) {
  ASSERT_NO_FATAL_FAILURE(Start(1));
  EXPECT_EQ(Disconnect(0), 0);
  EXPECT_TRUE(client_->WaitDown(1));
  EXPECT_EQ(client_->Write(0, 1, 512), ECONNABORTED);
  EXPECT_EQ(Reconnect(0), 0);
  EXPECT_TRUE(client_->WaitUp(2));
  EXPECT_EQ(client_->Write(0, 1, 512), 0);
}

TEST_P(SessionPathsTest, AConnectedPathIsConnectedAnew) {
  ASSERT_NO_FATAL_FAILURE(Start(2));
  EXPECT_EQ(Reconnect(0), 0);
  OnControl([&](ClientSession* session) {
    const ClientPath* path = session->FindPath(server_->path(0));
    EXPECT_EQ(path->state(), ClientPath::State::kConnected);
    EXPECT_EQ(path->reconnects(), 1U);
  });
  EXPECT_EQ(Reconnect(1), 0);
  EXPECT_EQ(client_->downs(), 0);
}

TEST_P(SessionPathsTest, WhatIsNoPathIsRefused) {
  ASSERT_NO_FATAL_FAILURE(Start(1));
  EXPECT_EQ(Disconnect(1), ENOENT);
  EXPECT_EQ(Reconnect(1), ENOENT);
  EXPECT_EQ(Add(server_->path(0)), EEXIST);
}

TEST_P(SessionPathsTest, AnAddedPathIsConnectedOrTakenAway) {
  ASSERT_NO_FATAL_FAILURE(Start(1));
  EXPECT_EQ(Add(server_->path(1)), 0);
  EXPECT_EQ(client_->session()->connected_paths(), 2);
  EXPECT_NE(Add(PathAddress{{}, ListenAddress(7)}), 0);
  OnControl([&](ClientSession* session) { EXPECT_EQ(session->Paths().size(), 2U); });
}

TEST_P(SessionPathsTest, AttemptsMayBeLimited) {
  ASSERT_NO_FATAL_FAILURE(Start(2));
  OnControl([](ClientSession* session) { session->set_max_reconnect_attempts(0); });
  cutting_.CutPath(server_->path(0).destination);
  EXPECT_TRUE(Eventually([&] { return StateOf(0) == ClientPath::State::kStopped; }));
  EXPECT_EQ(Reconnect(0), 0);
}

TEST_P(SessionPathsTest, CountsWhatGoesOverThePath) {
  ASSERT_NO_FATAL_FAILURE(Start(1));
  const PathTraffic before = TrafficOf(0);
  EXPECT_EQ(client_->Write(0, 1, 512), 0);
  EXPECT_EQ(client_->Write(1, 1, 512), 0);
  EXPECT_EQ(client_->Read(0, 1, 1024), 0);
  const PathTraffic after = TrafficOf(0);
  EXPECT_EQ(after.writes, before.writes + 2);
  EXPECT_EQ(after.reads, before.reads + 1);
  EXPECT_GE(after.write_bytes, before.write_bytes + 1024);
  EXPECT_GE(after.read_bytes, before.read_bytes + 1024);
  EXPECT_EQ(after.in_flight, 0U);
  OnControl([&](ClientSession* session) { session->FindPath(server_->path(0))->ResetTraffic(); });
  EXPECT_EQ(TrafficOf(0).writes, 0U);
}

TEST_P(SessionPathsTest, ThePolicyMayBeChanged) {
  ASSERT_NO_FATAL_FAILURE(Start(2));
  for (const PathPolicy policy :
       {PathPolicy::kRoundRobin, PathPolicy::kMinLatency, PathPolicy::kMinInflight}) {
    client_->session()->set_policy(policy);
    EXPECT_EQ(client_->session()->policy(), policy);
    EXPECT_EQ(client_->Write(0, 1, 512), 0);
  }
}

TEST_P(SessionPathsTest, KnowsWhereAPathBegins) {
  ASSERT_NO_FATAL_FAILURE(Start(1));
  OnControl([&](ClientSession* session) {
    const ClientPath* path = session->FindPath(server_->path(0));
    const Address& source = path->local_end().source;
    EXPECT_EQ(source.scheme, path->address().destination.scheme);
    EXPECT_EQ(source.port, 0);
    EXPECT_EQ(source.host.empty(), source.scheme == AddressScheme::kUnix);
  });
}

INSTANTIATE_TEST_SUITE_P(Fabrics, SessionPathsTest, ::testing::ValuesIn(SessionFabrics()),
                         SessionFabric::Name);

}  // namespace
}  // namespace rnbd::rtrs
