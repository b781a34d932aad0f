// Sessions that the server ends: at once, or when what has come is answered.

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "gtest/gtest.h"
#include "rtrs/server.h"
#include "testing/session_fixture.h"
#include "testing/session_harness.h"

namespace rnbd::rtrs {
namespace {

class SessionDrainTest : public SessionFixture {
 protected:
  void Start() {
    server_ = std::make_unique<TestServer>(fabric(), std::vector<Address>{ListenAddress()});
    ASSERT_NO_FATAL_FAILURE(server_->Start());
    client_ =
        std::make_unique<TestClient>(fabric(), "blya", std::vector<PathAddress>{server_->path()});
    client_->Start();
    ASSERT_TRUE(client_->WaitUp(1));
  }

  // A write that the backend holds.
  std::unique_ptr<TestRequest> BeginHeld() {
    auto request = std::make_unique<TestRequest>(
        Direction::kWrite, EchoMessage{.fill = 0, .hold = 1}, client_->memory().first(512));
    client_->Submit(1, request.get());
    EXPECT_TRUE(server_->handler().WaitForHeld(1));
    return request;
  }
  void DrainSession(absl::Duration bound) {
    server_->OnServer([&](Server* server) {
      server->DrainSession("blya", ErrnoToStatus(ESHUTDOWN, "drained by a test"), bound,
                           [this] { ended_.Notify(); });
    });
  }
  bool Ended(absl::Duration limit = kPatience) {
    return ended_.WaitForNotificationWithTimeout(limit);
  }

  std::unique_ptr<TestServer> server_;
  std::unique_ptr<TestClient> client_;
  absl::Notification ended_;
};

TEST_P(SessionDrainTest, WhatHasComeIsAnsweredAndTheRestIsTheClients) {
  ASSERT_NO_FATAL_FAILURE(Start());
  const auto running = BeginHeld();
  DrainSession(absl::Minutes(1));
  server_->threads().Settle();
  TestRequest late(Direction::kWrite, {.fill = 0}, client_->memory().subspan(512, 512));
  client_->Submit(1, &late);
  EXPECT_FALSE(Ended(absl::Milliseconds(100)));
  EXPECT_FALSE(late.done());
  server_->handler().Release();
  EXPECT_EQ(running->Wait(), 0);
  EXPECT_EQ(late.Wait(), ECONNABORTED);
  EXPECT_EQ(server_->handler().executed(), 1U);
  EXPECT_TRUE(Ended());
  EXPECT_TRUE(client_->WaitDown(1));
  // It may come back at once.
  EXPECT_TRUE(client_->WaitUp(2));
  EXPECT_EQ(client_->Write(0, 1, 512), 0);
}

TEST_P(SessionDrainTest, ABackendThatDoesNotAnswerHoldsUpTheEndAndNotThePaths) {
  ASSERT_NO_FATAL_FAILURE(Start());
  const auto running = BeginHeld();
  DrainSession(absl::Milliseconds(50));
  EXPECT_EQ(running->Wait(), ECONNABORTED);
  EXPECT_TRUE(client_->WaitDown(1));
  EXPECT_FALSE(Ended(absl::Milliseconds(50)));
  server_->handler().Release();
  EXPECT_TRUE(Ended());
  EXPECT_TRUE(client_->WaitUp(2));
}

TEST_P(SessionDrainTest, ADrainedServerTakesNoSessions) {
  ASSERT_NO_FATAL_FAILURE(Start());
  server_->OnServer([&](Server* server) {
    server->Drain(ErrnoToStatus(ESHUTDOWN, "drained by a test"), absl::Minutes(1),
                  [this] { ended_.Notify(); });
  });
  EXPECT_TRUE(Ended());
  EXPECT_EQ(server_->session_count(), 0U);
  EXPECT_TRUE(client_->WaitDown(1));
  ASSERT_TRUE(client_->WaitFailed(2));
  EXPECT_TRUE(Eventually([&] { return absl::StrContains(client_->last().message(), "drained"); }))
      << client_->last();
  EXPECT_EQ(client_->ups(), 1);
  server_->OnServer([](Server* server) {
    EXPECT_TRUE(server->drained());
    server->Undrain();
  });
  EXPECT_TRUE(client_->WaitUp(2));
}

TEST_P(SessionDrainTest, AnEndIsToldWhenTheLastRequestIsDone) {
  ASSERT_NO_FATAL_FAILURE(Start());
  const auto running = BeginHeld();
  server_->OnServer([&](Server* server) {
    server->EndSession("blya", ErrnoToStatus(EACCES, "ended by a test"),
                       [this] { ended_.Notify(); });
  });
  EXPECT_EQ(running->Wait(), ECONNABORTED);
  EXPECT_FALSE(Ended(absl::Milliseconds(50)));
  EXPECT_EQ(server_->handler().sessions(), 1);
  server_->handler().Release();
  EXPECT_TRUE(Ended());
  // Of a session that is not there, at once.
  bool at_once = false;
  server_->OnServer([&](Server* server) {
    server->EndSession("nobody", ErrnoToStatus(EACCES, "ended by a test"), [&] { at_once = true; });
  });
  EXPECT_TRUE(at_once);
}

INSTANTIATE_TEST_SUITE_P(Fabrics, SessionDrainTest, ::testing::ValuesIn(SessionFabrics()),
                         SessionFabric::Name);

}  // namespace
}  // namespace rnbd::rtrs
