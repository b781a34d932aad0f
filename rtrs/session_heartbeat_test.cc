// Heartbeats between the two ends (protocol section 5), with short intervals.

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/heartbeat.h"
#include "rtrs/immediate.h"
#include "testing/raw_peer.h"
#include "testing/session_fixture.h"
#include "testing/session_harness.h"

namespace rnbd::rtrs {
namespace {

using ::testing::HasSubstr;

// Quick for a test, and yet longer than what comes before the silence takes on a busy machine.
constexpr HeartbeatSettings kQuick = {.interval = absl::Milliseconds(400), .missed_max = 3};
// Longer than a busy machine keeps a thread waiting.
constexpr HeartbeatSettings kPatient = {.interval = absl::Milliseconds(50), .missed_max = 100};

class SessionHeartbeatTest : public SessionFixture {
 protected:
  SessionHeartbeatTest() : thread_(StartRingThread("raw")) {}

  std::unique_ptr<RingThread> thread_;
};

TEST_P(SessionHeartbeatTest, ASilentServerIsNoticed) {
  RawServer server(fabric(), ListenAddress(), thread_.get());
  std::atomic<bool> silent{true};
  server.answer_heartbeats = false;
  server.on_request = [&](const RawRequest& request) {
    if (!silent) server.Respond(request, 0);
  };
  ASSERT_NO_FATAL_FAILURE(server.Start());
  ClientPathSettings settings = TinyPathSettings();
  settings.heartbeat = kQuick;
  settings.kernel_heartbeat = settings.heartbeat;
  // Once: what the server tells is about the latest attempt.
  settings.reconnect_min = settings.reconnect_max = absl::Seconds(1000);
  TestClient client(fabric(), "blya", {server.path()}, settings);
  const absl::Time before = absl::Now();
  client.Start();
  ASSERT_TRUE(client.WaitUp(1));
  TestRequest request(Direction::kRead, {}, client.memory().first(512));
  client.Submit(0, &request);
  ASSERT_TRUE(client.WaitDown(1));
  EXPECT_GE(absl::Now() - before, kQuick.missed_max * kQuick.interval);
  EXPECT_EQ(request.Wait(), ECONNABORTED);
  EXPECT_EQ(StatusToErrno(client.last_down()), ETIMEDOUT);
  EXPECT_THAT(client.last_down().ToString(), HasSubstr("no sign of life"));
  // It asked once, not again and again.
  EXPECT_EQ(server.heartbeats(), 1);
  EXPECT_TRUE(Eventually([&] { return bool{IsPeersReason(server.why(), ETIMEDOUT)}; }))
      << server.why();
}

TEST_P(SessionHeartbeatTest, ASilentClientIsNoticed) {
  ServerOptions options = TinyServerOptions();
  options.path.heartbeat = kQuick;
  options.path.kernel_heartbeat = options.path.heartbeat;
  TestServer server(fabric(), {ListenAddress()}, options);
  ASSERT_NO_FATAL_FAILURE(server.Start());
  RawClient client(fabric(), server.path(), thread_.get());
  ASSERT_NO_FATAL_FAILURE(client.Establish("blya", 2));
  client.SendWrite(1, 0, {.hold = 1}, 0);
  ASSERT_TRUE(server.handler().WaitForHeld(1));
  EXPECT_TRUE(client.WaitUntilDown());
  EXPECT_TRUE(IsPeersReason(client.why(), ETIMEDOUT, "no sign of life"));
  EXPECT_EQ(server.counters().clients_timed_out, 1U);
  EXPECT_EQ(server.counters().protocol_violations, 0U);
  int heartbeats = 0;
  for (const FabricEnd::Message& message : client.end(0).messages()) {
    if (message.immediate == kHeartbeatImmediate) ++heartbeats;
  }
  EXPECT_EQ(heartbeats, 1);
  server.handler().Release();
  EXPECT_TRUE(server.WaitForSessions(0));
}

// Any sign of life will do: requests, on any connection, without a single acknowledgement.
TEST_P(SessionHeartbeatTest, RequestsAreASignOfLife) {
  ServerOptions options = TinyServerOptions();
  options.path.heartbeat = {.interval = absl::Milliseconds(200), .missed_max = 8};
  options.path.kernel_heartbeat = options.path.heartbeat;
  TestServer server(fabric(), {ListenAddress()}, options);
  ASSERT_NO_FATAL_FAILURE(server.Start());
  RawClient client(fabric(), server.path(), thread_.get());
  ASSERT_NO_FATAL_FAILURE(client.Establish("blya", 3));
  const absl::Time end = absl::Now() + 1.5 * options.path.heartbeat.DetectionBound();
  for (size_t count = 1; absl::Now() < end; ++count) {
    client.SendRead(2, 0, {}, 0);
    EXPECT_EQ(client.WaitForResponse(2, count).error_number, 0);
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_FALSE(client.down());
  // And acknowledgements without requests, from the heartbeat after this last one on.
  client.answer_heartbeats = true;
  client.SendRead(2, 0, {}, 0);
  absl::SleepFor(1.5 * options.path.heartbeat.DetectionBound());
  EXPECT_FALSE(client.down()) << client.why();
}

TEST_P(SessionHeartbeatTest, AnIdleSessionStaysUp) {
  ServerOptions options = TinyServerOptions();
  options.path.heartbeat = kPatient;
  options.path.kernel_heartbeat = options.path.heartbeat;
  TestServer server(fabric(), {ListenAddress()}, options);
  ASSERT_NO_FATAL_FAILURE(server.Start());
  ClientPathSettings settings = TinyPathSettings();
  settings.heartbeat = kPatient;
  settings.kernel_heartbeat = settings.heartbeat;
  TestClient client(fabric(), "blya", {server.path()}, settings);
  client.Start();
  ASSERT_TRUE(client.WaitUp(1));
  absl::SleepFor(absl::Seconds(1));
  EXPECT_EQ(client.downs(), 0);
  EXPECT_EQ(client.Read(0, 3, 512), 0);
  EXPECT_EQ(server.counters().paths_closed, 0U);
}

// Heartbeats go out and are answered while a backend takes its time: nothing waits behind it.
TEST_P(SessionHeartbeatTest, ASlowBackendIsNoSilence) {
  const HeartbeatSettings heartbeat = {.interval = absl::Milliseconds(200), .missed_max = 8};
  ServerOptions options = TinyServerOptions();
  options.path.heartbeat = heartbeat;
  options.path.kernel_heartbeat = options.path.heartbeat;
  TestServer server(fabric(), {ListenAddress()}, options);
  ASSERT_NO_FATAL_FAILURE(server.Start());
  ClientPathSettings settings = TinyPathSettings();
  settings.heartbeat = heartbeat;
  settings.kernel_heartbeat = settings.heartbeat;
  TestClient client(fabric(), "blya", {server.path()}, settings);
  client.Start();
  ASSERT_TRUE(client.WaitUp(1));
  TestRequest request(Direction::kRead, {.fill = 3, .hold = 1}, client.memory().first(512));
  client.Submit(0, &request);
  ASSERT_TRUE(server.handler().WaitForHeld(1));
  absl::SleepFor(1.5 * heartbeat.DetectionBound());
  EXPECT_FALSE(request.done());
  EXPECT_EQ(client.downs(), 0);
  server.handler().Release();
  EXPECT_EQ(request.Wait(), 0);
}

// The server keeps one heartbeat on the way to a client that answers late, and none is lost.
TEST_P(SessionHeartbeatTest, OneHeartbeatAtATime) {
  ServerOptions options = TinyServerOptions();
  options.path.heartbeat = kPatient;
  options.path.kernel_heartbeat = options.path.heartbeat;
  TestServer server(fabric(), {ListenAddress()}, options);
  ASSERT_NO_FATAL_FAILURE(server.Start());
  RawClient client(fabric(), server.path(), thread_.get());
  ASSERT_NO_FATAL_FAILURE(client.Establish("blya", 1));
  auto count = [&] {
    int heartbeats = 0;
    for (const FabricEnd::Message& message : client.end(0).messages()) {
      if (message.immediate == kHeartbeatImmediate) ++heartbeats;
    }
    return heartbeats;
  };
  for (int expected = 1; expected <= 3; ++expected) {
    ASSERT_TRUE(Eventually([&] { return count() == expected; }));
    absl::SleepFor(4 * kPatient.interval);
    EXPECT_EQ(count(), expected);
    client.SendImmediate(0, kHeartbeatAckImmediate);
  }
  // Acknowledgements that nobody asked for do no harm.
  for (int i = 0; i < 10; ++i) client.SendImmediate(0, kHeartbeatAckImmediate);
  client.SendRead(0, 0, {}, 0);
  EXPECT_TRUE(Eventually([&] { return server.handler().executed() == 1; }));
  EXPECT_FALSE(client.down());
}

INSTANTIATE_TEST_SUITE_P(Fabrics, SessionHeartbeatTest, ::testing::ValuesIn(SessionFabrics()),
                         SessionFabric::Name);

}  // namespace
}  // namespace rnbd::rtrs
