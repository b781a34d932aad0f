// What makes it safe to send a request again: FENCE, the takeover of a session, and paths that come
// and go at run time.

#include <atomic>
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
#include "rtrs/heartbeat.h"
#include "rtrs/messages.h"
#include "rtrs/server.h"
#include "testing/cutting_fabric.h"
#include "testing/raw_peer.h"
#include "testing/session_fixture.h"
#include "testing/session_harness.h"

namespace rnbd::rtrs {
namespace {

using ::testing::HasSubstr;

class SessionFenceTest : public SessionFixture {
 protected:
  SessionFenceTest() : cutting_(fabric()), thread_(StartRingThread("raw")) {
    options_ = TinyServerOptions();
    options_.geometry.queue_depth = 8;
    // Only what the tests do ends a path.
    options_.path.heartbeat = KernelHeartbeat();
    options_.path.kernel_heartbeat = KernelHeartbeat();
  }

  void StartServer() {
    server_ = std::make_unique<TestServer>(
        fabric(), std::vector<Address>{ListenAddress(0), ListenAddress(1)}, options_);
    ASSERT_NO_FATAL_FAILURE(server_->Start());
  }
  void StartClient(std::vector<PathAddress> paths) {
    client_ = std::make_unique<TestClient>(&cutting_, "blya", std::move(paths));
    client_->Start();
    ASSERT_TRUE(client_->WaitUp(1));
  }
  void StartBoth() {
    ASSERT_NO_FATAL_FAILURE(StartServer());
    ASSERT_NO_FATAL_FAILURE(StartClient({server_->path(0), server_->path(1)}));
    ASSERT_TRUE(WaitForPaths(2));
  }
  bool WaitForPaths(int count) {
    return Eventually([&] { return client_->session()->connected_paths() == count; }) &&
           server_->WaitForCounters([count](const ServerCounters& counters) {
             return static_cast<int>(counters.paths_connected - counters.paths_closed) == count;
           });
  }
  absl::Status OnControl(const std::function<absl::Status(ClientSession*)>& call) {
    absl::Status status;
    client_->threads().control()->RunAndWait([&] { status = call(client_->session()); });
    return status;
  }

  // A client that may send FENCE, with a path to each address.
  std::unique_ptr<RawClient> NewPath(int address, const RawClient* first = nullptr) {
    auto path = std::make_unique<RawClient>(fabric(), server_->path(address), thread_.get());
    path->answer_heartbeats = true;
    path->request.extension = Extension::Ours();
    if (first != nullptr) {
      path->request.paths_uuid = first->request.paths_uuid;
      path->request.bits = 0;
    }
    return path;
  }
  static FenceMessage FenceOf(const RawClient& path) {
    FenceMessage fence;
    fence.path_uuid = path.request.sess_uuid;
    fence.recon_cnt = path.request.recon_cnt;
    return fence;
  }

  // Two paths, of which one is to be fenced over the other. The server has noticed nothing: the
  // path is open, and a write of it is at work in chunk 3.
  void FenceABusyPath(std::unique_ptr<RawClient>* lost, std::unique_ptr<RawClient>* other) {
    ASSERT_NO_FATAL_FAILURE(StartServer());
    *lost = NewPath(0);
    ASSERT_NO_FATAL_FAILURE((*lost)->Establish("blya", 2));
    *other = NewPath(1, lost->get());
    ASSERT_NO_FATAL_FAILURE((*other)->Establish("blya", 2));
    (*lost)->SendWrite(1, 3, {.fill = 7, .hold = 1}, 512);
    ASSERT_TRUE(server_->handler().WaitForHeld(1));
    (*other)->SendFence(0, 0, FenceOf(**lost));
  }

  CuttingFabric cutting_;
  ServerOptions options_;
  std::unique_ptr<RingThread> thread_;
  std::unique_ptr<TestServer> server_;
  std::unique_ptr<TestClient> client_;
};

// ---- FENCE at the server ------------------------------------------------------------------------

TEST_P(SessionFenceTest, IsAnsweredWhenTheLastRequestOfThePathIsDone) {
  std::unique_ptr<RawClient> lost;
  std::unique_ptr<RawClient> other;
  ASSERT_NO_FATAL_FAILURE(FenceABusyPath(&lost, &other));
  EXPECT_TRUE(lost->WaitUntilDown());
  // Other requests go on meanwhile.
  other->SendWrite(0, 1, {.fill = 8}, 512);
  EXPECT_EQ(other->WaitForResponse(0, 1).msg_id, 1U);
  absl::SleepFor(absl::Milliseconds(30));
  EXPECT_EQ(server_->handler().executed(), 1U);
  server_->handler().Release();
  const ResponseImmediate answer = other->WaitForResponse(0, 2);
  EXPECT_EQ(answer.msg_id, 0U);
  EXPECT_EQ(answer.error_number, 0);
  EXPECT_EQ(server_->handler().executed(), 2U);
  // Its chunk is free.
  other->SendWrite(1, 3, {.fill = 7}, 512);
  EXPECT_EQ(other->WaitForResponse(1, 1).error_number, 0);
  EXPECT_EQ(server_->counters().protocol_violations, 0U);
}

TEST_P(SessionFenceTest, OfWhatIsNotThereIsAnsweredAtOnce) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  auto path = NewPath(0);
  ASSERT_NO_FATAL_FAILURE(path->Establish("blya", 1));
  auto later = NewPath(1, path.get());
  later->request.recon_cnt = 5;
  ASSERT_NO_FATAL_FAILURE(later->Establish("blya", 1));
  FenceMessage unknown = FenceOf(*path);
  unknown.path_uuid[0] ^= 1;
  path->SendFence(0, 0, unknown);
  EXPECT_EQ(path->WaitForResponse(0, 1).error_number, 0);
  // An attempt before the one that is connected has ended before that was accepted.
  FenceMessage earlier = FenceOf(*later);
  earlier.recon_cnt = 4;
  path->SendFence(0, 1, earlier);
  EXPECT_EQ(path->WaitForResponse(0, 2).error_number, 0);
  EXPECT_FALSE(later->down());
  EXPECT_FALSE(path->down());
}

TEST_P(SessionFenceTest, IsForPathsOfTheOwnSessionOnly) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  auto path = NewPath(0);
  ASSERT_NO_FATAL_FAILURE(path->Establish("blya", 1));
  auto stranger = NewPath(0);
  ASSERT_NO_FATAL_FAILURE(stranger->Establish("another", 1));
  path->SendFence(0, 0, FenceOf(*stranger));
  EXPECT_EQ(path->WaitForResponse(0, 1).error_number, EINVAL);
  path->SendFence(0, 1, FenceOf(*path));
  EXPECT_EQ(path->WaitForResponse(0, 2).error_number, EINVAL);
  EXPECT_FALSE(stranger->down());
  EXPECT_FALSE(path->down());
}

TEST_P(SessionFenceTest, OfOneWhoHasNotSpokenOfItIsAViolation) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  auto kernel = NewPath(0);
  kernel->request.extension = {};
  ASSERT_NO_FATAL_FAILURE(kernel->Establish("blya", 1));
  kernel->SendFence(0, 0, FenceOf(*kernel));
  EXPECT_TRUE(kernel->WaitUntilDown());
  EXPECT_TRUE(server_->WaitForCounters(
      [](const ServerCounters& counters) { return counters.protocol_violations == 1; }));
}

TEST_P(SessionFenceTest, TwoPathsMayWaitForOne) {
  std::unique_ptr<RawClient> lost;
  std::unique_ptr<RawClient> other;
  ASSERT_NO_FATAL_FAILURE(FenceABusyPath(&lost, &other));
  other->SendFence(0, 1, FenceOf(*lost));
  EXPECT_TRUE(server_->WaitForCounters([](const ServerCounters& c) { return c.fences == 2; }));
  server_->handler().Release();
  EXPECT_EQ(other->WaitForResponse(0, 2).error_number, 0);
}

// The path that asked goes before it has its answer: nothing is left, and the session can end.
TEST_P(SessionFenceTest, WhoAskedMayBeLostToo) {
  std::unique_ptr<RawClient> lost;
  std::unique_ptr<RawClient> other;
  ASSERT_NO_FATAL_FAILURE(FenceABusyPath(&lost, &other));
  EXPECT_TRUE(server_->WaitForCounters([](const ServerCounters& c) { return c.fences == 1; }));
  other->Disconnect();
  EXPECT_TRUE(
      server_->WaitForCounters([](const ServerCounters& c) { return c.paths_closed == 2; }));
  server_->handler().Release();
  EXPECT_TRUE(server_->WaitForSessions(0));
}

// ---- The client ---------------------------------------------------------------------------------

TEST_P(SessionFenceTest, ALostRequestMayBeSentAgainWhenTheServerIsDoneWithIt) {
  ASSERT_NO_FATAL_FAILURE(StartBoth());
  EXPECT_TRUE(client_->session()->fenced());
  TestRequest first(Direction::kWrite, {.fill = 1, .hold = 1}, client_->memory().first(512));
  client_->Submit(0, &first);
  ASSERT_TRUE(server_->handler().WaitForHeld(1));
  const int resendable = client_->resendable();
  for (int path : {0, 1}) {
    if (first.done()) break;
    cutting_.CutPath(server_->path(path).destination);
    Eventually([&] { return first.done(); }, absl::Milliseconds(300));
  }
  EXPECT_EQ(first.Wait(), ECONNABORTED);
  EXPECT_FALSE(client_->session()->fenced());
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_FALSE(client_->session()->fenced());
  server_->handler().Release();
  EXPECT_TRUE(Eventually([&] { return client_->session()->fenced(); }));
  EXPECT_TRUE(Eventually([&] { return client_->resendable() > resendable; }));
  EXPECT_EQ(client_->Write(0, 1, 512), 0);
  EXPECT_EQ(client_->downs(), 0);
}

// It comes within moments although the lost path stays away.
TEST_P(SessionFenceTest, TheLostPathNeedNotComeBack) {
  ASSERT_NO_FATAL_FAILURE(StartBoth());
  TestRequest first(Direction::kWrite, {.fill = 1, .hold = 1}, client_->memory().first(512));
  TestRequest second(Direction::kWrite, {.fill = 1, .hold = 1},
                     client_->memory().subspan(4096, 512));
  client_->Submit(0, &first);
  client_->Submit(0, &second);
  ASSERT_TRUE(server_->handler().WaitForHeld(2));
  // One was on each.
  EXPECT_TRUE(OnControl([this](ClientSession* session) {
                return session->RemovePath(server_->path(0));
              }).ok());
  EXPECT_TRUE(Eventually([&] { return first.done() || second.done(); }));
  EXPECT_FALSE(client_->session()->fenced());
  server_->handler().Release();
  EXPECT_TRUE(Eventually([&] { return client_->session()->fenced(); }));
  EXPECT_TRUE(Eventually([&] { return first.done() && second.done(); }));
  EXPECT_EQ(server_->counters().fences, 1U);
  EXPECT_EQ(client_->Write(0, 1, 512), 0);
}

TEST_P(SessionFenceTest, APathIsAddedAndTakenAwayUnderLoad) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  ASSERT_NO_FATAL_FAILURE(StartClient({server_->path(0)}));
  Load load(client_.get(), 4, 4096);
  load.Start();
  for (int round = 0; round < 10; ++round) {
    const PathAddress coming = server_->path((round + 1) % 2);
    const PathAddress going = server_->path(round % 2);
    EXPECT_TRUE(OnControl([&](ClientSession* session) { return session->AddPath(coming); }).ok());
    EXPECT_EQ(
        StatusToErrno(OnControl([&](ClientSession* session) { return session->AddPath(coming); })),
        EEXIST);
    ASSERT_TRUE(WaitForPaths(2));
    ASSERT_TRUE(load.WaitForMore(20));
    EXPECT_TRUE(OnControl([&](ClientSession* session) { return session->RemovePath(going); }).ok());
    EXPECT_EQ(StatusToErrno(
                  OnControl([&](ClientSession* session) { return session->RemovePath(going); })),
              ENOENT);
    ASSERT_TRUE(WaitForPaths(1));
    ASSERT_TRUE(load.WaitForMore(20));
  }
  EXPECT_EQ(StatusToErrno(OnControl(
                [&](ClientSession* session) { return session->RemovePath(server_->path(0)); })),
            EBUSY);
  load.Stop();
  EXPECT_EQ(load.wrong(), 0U);
  EXPECT_EQ(client_->downs(), 0);
  EXPECT_EQ(server_->counters().protocol_violations, 0U);
}

TEST_P(SessionFenceTest, APathIsTakenAwayBeforeItConnects) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  ASSERT_NO_FATAL_FAILURE(StartClient({server_->path(0)}));
  const PathAddress nobody = {.source = {}, .destination = ListenAddress(3)};
  EXPECT_TRUE(OnControl([&](ClientSession* session) { return session->AddPath(nobody); }).ok());
  EXPECT_TRUE(client_->WaitFailed(1));
  EXPECT_TRUE(OnControl([&](ClientSession* session) { return session->RemovePath(nobody); }).ok());
  EXPECT_TRUE(OnControl([&](ClientSession* session) { return session->AddPath(nobody); }).ok());
  EXPECT_TRUE(OnControl([&](ClientSession* session) { return session->RemovePath(nobody); }).ok());
  EXPECT_EQ(client_->Write(0, 1, 512), 0);
}

// A server that knows no FENCE is given the time in which it must have noticed.
TEST_P(SessionFenceTest, WithoutFenceItTakesTheTimeOfTheHeartbeat) {
  RawServer first(fabric(), ListenAddress(0), thread_.get());
  RawServer second(fabric(), ListenAddress(1), thread_.get());
  std::atomic<bool> refuse{false};
  for (RawServer* server : {&first, &second}) {
    server->on_request = [](const RawRequest&) {};
    server->on_connect = [&refuse](const ConnectRequest&) {
      return refuse.load() ? RawServer::Answer::kDrop : RawServer::Answer::kAccept;
    };
    ASSERT_NO_FATAL_FAILURE(server->Start());
  }
  ClientPathSettings settings = TinyPathSettings();
  settings.kernel_heartbeat = {.interval = absl::Milliseconds(100), .missed_max = 8};
  client_ = std::make_unique<TestClient>(
      &cutting_, "blya", std::vector<PathAddress>{first.path(), second.path()}, settings);
  client_->Start();
  ASSERT_TRUE(Eventually([&] { return client_->session()->connected_paths() == 2; }));
  TestRequest lost(Direction::kWrite, {.fill = 0}, client_->memory().first(512));
  client_->Submit(0, &lost);
  ASSERT_TRUE(Eventually([&] { return first.requests() + second.requests() == 1; }));
  refuse = true;
  const absl::Time begin = absl::Now();
  (first.requests() == 1 ? first : second).Disconnect();
  EXPECT_EQ(lost.Wait(), ECONNABORTED);
  EXPECT_FALSE(client_->session()->fenced());
  EXPECT_TRUE(Eventually([&] { return client_->session()->fenced(); }));
  EXPECT_GE(absl::Now() - begin, settings.kernel_heartbeat.DetectionBound());
  EXPECT_EQ(client_->downs(), 0);
  client_->Close();
}

// ---- Takeover -----------------------------------------------------------------------------------

TEST_P(SessionFenceTest, AClientThatWasStartedAnewTakesItsSessionOver) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  // It has died without a word: the server has noticed nothing, and a write of it is at work.
  auto dead = NewPath(0);
  ASSERT_NO_FATAL_FAILURE(dead->Establish("blya", 1));
  dead->SendWrite(0, 1, {.fill = 7, .hold = 1}, 512);
  ASSERT_TRUE(server_->handler().WaitForHeld(1));
  client_ = std::make_unique<TestClient>(
      &cutting_, "blya", std::vector<PathAddress>{server_->path(0), server_->path(1)});
  client_->Start();
  EXPECT_TRUE(
      IsPeersReason(WaitForPeersReason(client_.get(), EBUSY), EBUSY, "until the last requests"));
  EXPECT_TRUE(dead->WaitUntilDown());
  if (GetParam().carries_reason) {
    EXPECT_EQ(dead->error(), ESTALE);
  }
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(client_->ups(), 0);
  server_->handler().Release();
  ASSERT_TRUE(client_->WaitUp(1));
  EXPECT_EQ(client_->Write(0, 1, 512), 0);
  EXPECT_EQ(server_->counters().sessions_taken_over, 1U);
}

// Its configuration has been changed and admits nobody of this name any more.
TEST_P(SessionFenceTest, WhoMayNotHaveASessionTakesNoName) {
  server_ = std::make_unique<TestServer>(fabric(), std::vector<Address>{ListenAddress(0)});
  std::atomic<bool> admits{true};
  server_->handler().may_begin = [&admits](const std::string&) {
    return admits.load() ? absl::OkStatus() : ErrnoToStatus(EACCES, "not any more");
  };
  ASSERT_NO_FATAL_FAILURE(server_->Start());
  ASSERT_NO_FATAL_FAILURE(StartClient({server_->path(0)}));
  admits = false;
  TestClient other(&cutting_, "blya", std::vector<PathAddress>{server_->path(0)});
  other.Start();
  EXPECT_TRUE(IsPeersReason(WaitForPeersReason(&other, EACCES), EACCES, "not any more"));
  EXPECT_EQ(client_->Write(0, 1, 512), 0);
  EXPECT_EQ(client_->downs(), 0);
  EXPECT_EQ(server_->counters().sessions_taken_over, 0U);
  other.Close();
}

// Two that live under one name would take it from each other for ever; who lost it keeps away for
// as long as it ever waits.
TEST_P(SessionFenceTest, WhoWasTakenOverComesBackLate) {
  if (!GetParam().carries_reason) GTEST_SKIP() << "nobody tells it over this fabric";
  ASSERT_NO_FATAL_FAILURE(StartServer());
  ClientPathSettings settings = TinyPathSettings();
  settings.reconnect_max = absl::Hours(1);
  client_ = std::make_unique<TestClient>(fabric(), "blya",
                                         std::vector<PathAddress>{server_->path(0)}, settings);
  client_->Start();
  ASSERT_TRUE(client_->WaitUp(1));
  TestClient other(fabric(), "blya", {server_->path(0)});
  other.Start();
  ASSERT_TRUE(other.WaitUp(1));
  ASSERT_TRUE(client_->WaitDown(1));
  EXPECT_THAT(client_->last_down().ToString(), HasSubstr("has taken over session"));
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_EQ(client_->failures(), 0);
  EXPECT_EQ(other.downs(), 0);
}

INSTANTIATE_TEST_SUITE_P(Fabrics, SessionFenceTest, ::testing::ValuesIn(SessionFabrics()),
                         SessionFabric::Name);

}  // namespace
}  // namespace rnbd::rtrs
