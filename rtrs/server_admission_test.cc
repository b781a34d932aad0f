// Whom a server lets in: the checks of protocol section 2.4, the server's limits, and paths that
// come back.

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "common/wire.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/server.h"
#include "testing/raw_peer.h"
#include "testing/session_fixture.h"
#include "testing/session_harness.h"

namespace rnbd::rtrs {
namespace {

using ::testing::HasSubstr;

class ServerAdmissionTest : public SessionFixture {
 protected:
  ServerAdmissionTest() : thread_(StartRingThread("raw")) { options_ = TinyServerOptions(); }

  void Start(int addresses = 1) {
    std::vector<Address> listen;
    for (int i = 0; i < addresses; ++i) listen.push_back(ListenAddress(i));
    server_ = std::make_unique<TestServer>(fabric(), listen, options_);
    ASSERT_NO_FATAL_FAILURE(server_->Start());
  }

  std::unique_ptr<RawClient> NewClient(int address = 0) {
    return std::make_unique<RawClient>(fabric(), server_->path(address), thread_.get());
  }
  // A further path of the session that `first` began.
  std::unique_ptr<RawClient> NewPath(const RawClient& first, int address, bool first_conn = false) {
    auto path = NewClient(address);
    path->request.paths_uuid = first.request.paths_uuid;
    path->request.bits = first_conn ? ConnectRequest::kFirstConn : 0;
    return path;
  }
  // The same path, attempted again.
  std::unique_ptr<RawClient> NewAttempt(const RawClient& before, uint16_t recon_cnt,
                                        int address = 0) {
    auto again = NewClient(address);
    again->request = before.request;
    again->request.recon_cnt = recon_cnt;
    return again;
  }

  ServerOptions options_;
  std::unique_ptr<RingThread> thread_;
  std::unique_ptr<TestServer> server_;
};

// Each request breaks one rule, and every later one whose errno differs, so the order shows.
TEST_P(ServerAdmissionTest, ChecksInTheOrderOfTheProtocol) {
  ASSERT_NO_FATAL_FAILURE(Start());
  struct Case {
    const char* name;
    std::function<void(ConnectRequest*)> spoil;
    int error_number;
  };
  const Case cases[] = {
      {"magic", [](ConnectRequest* r) { r->magic = 0x1BBC; }, ECONNRESET},
      {"major version 1", [](ConnectRequest* r) { r->version = 0x0100; }, ECONNRESET},
      {"major version 3", [](ConnectRequest* r) { r->version = 0x0300; }, ECONNRESET},
      {"too many connections", [](ConnectRequest* r) { r->cid_num = 4097; }, ECONNRESET},
      {"cid beyond the last", [](ConnectRequest* r) { r->cid = 2; }, ECONNRESET},
      {"no connections at all", [](ConnectRequest* r) { r->cid_num = 0; }, ECONNRESET},
      {"unknown session", [](ConnectRequest*) {}, ENXIO},
  };
  uint64_t rejected = 0;
  for (const Case& c : cases) {
    auto client = NewClient();
    client->request.bits = 0;
    client->request.cid_num = 2;
    c.spoil(&client->request);
    FabricEnd* end = client->ConnectWith(MessageBytes(client->request));
    EXPECT_TRUE(end->WaitUntilDown());
    EXPECT_EQ(end->error(), ECONNREFUSED) << c.name;
    EXPECT_EQ(client->rejected_with(), c.error_number) << c.name;
    EXPECT_EQ(server_->counters().connections_rejected, ++rejected);
    EXPECT_EQ(server_->session_count(), 0U) << c.name;
  }
  // Any minor version, any bits but the first, any reserved bytes.
  auto client = NewClient();
  client->request.version = 0x02ff;
  client->request.bits = 0xff;
  client->request.cma_version = 7;
  for (uint8_t& byte : client->request.reserved) byte = 0xee;
  ASSERT_NO_FATAL_FAILURE(client->Establish("newer", 1));
  EXPECT_EQ(client->geometry(), options_.geometry);
  EXPECT_FALSE(client->acceptance().new_rkey);
}

TEST_P(ServerAdmissionTest, TakesConnectionsInAnyOrder) {
  ASSERT_NO_FATAL_FAILURE(Start());
  auto client = NewClient();
  client->request.cid_num = 4;
  for (uint16_t cid : {2, 0, 3, 1}) {
    ASSERT_TRUE(client->Connect(cid)->established()) << client->refusal();
  }
  EXPECT_EQ(server_->session_count(), 1U);
}

TEST_P(ServerAdmissionTest, APathHasEachConnectionOnce) {
  ASSERT_NO_FATAL_FAILURE(Start());
  auto client = NewClient();
  client->request.cid_num = 3;
  ASSERT_TRUE(client->Connect(0)->established());
  client->Connect(0);
  EXPECT_EQ(client->rejected_with(), ECONNRESET);
  EXPECT_THAT(client->refusal().ToString(), HasSubstr("has this connection already"));
  client->request.cid_num = 4;
  client->Connect(1);
  EXPECT_EQ(client->rejected_with(), ECONNRESET);
  EXPECT_THAT(client->refusal().ToString(), HasSubstr("another number of connections"));
  client->request.cid_num = 3;
  EXPECT_TRUE(client->Connect(1)->established());
  EXPECT_TRUE(client->Connect(2)->established());
  EXPECT_EQ(server_->session_count(), 1U);
}

TEST_P(ServerAdmissionTest, AConnectedPathTakesNoMore) {
  ASSERT_NO_FATAL_FAILURE(Start());
  auto client = NewClient();
  ASSERT_NO_FATAL_FAILURE(client->Establish("blya", 2));
  client->Connect(1);
  EXPECT_EQ(client->rejected_with(), ECONNRESET);
  EXPECT_THAT(client->refusal().ToString(), HasSubstr("connected already"));
  client->SendRead(1, 0, {.fill = 3}, 512);
  EXPECT_EQ(client->WaitForResponse(1, 1).error_number, 0);
}

TEST_P(ServerAdmissionTest, TwoPathsNeedDifferentEnds) {
  ASSERT_NO_FATAL_FAILURE(Start(2));
  auto first = NewClient();
  ASSERT_NO_FATAL_FAILURE(first->Establish("blya", 1));
  auto same = NewPath(*first, 0);
  same->Connect(0);
  EXPECT_EQ(same->rejected_with(), EEXIST);
  EXPECT_THAT(same->refusal().ToString(), HasSubstr("between the same two addresses"));
  auto other = NewPath(*first, 1);
  ASSERT_NO_FATAL_FAILURE(other->Establish("blya", 1));
  EXPECT_EQ(server_->session_count(), 1U);
  EXPECT_EQ(server_->handler().sessions(), 1);
  // Another session may have the same ends.
  auto stranger = NewClient();
  EXPECT_TRUE(stranger->Connect(0)->established());
}

TEST_P(ServerAdmissionTest, LimitsPathsPerSession) {
  options_.limits.max_paths_per_session = 2;
  ASSERT_NO_FATAL_FAILURE(Start(3));
  auto first = NewClient();
  ASSERT_NO_FATAL_FAILURE(first->Establish("blya", 1));
  auto second = NewPath(*first, 1);
  ASSERT_TRUE(second->Connect(0)->established());
  auto third = NewPath(*first, 2);
  third->Connect(0);
  EXPECT_EQ(third->rejected_with(), ECONNRESET);
  EXPECT_THAT(third->refusal().ToString(), HasSubstr("all its 2 paths (max_paths_per_session)"));
  // Room again when one has gone.
  second->Disconnect();
  ASSERT_TRUE(second->WaitUntilDown());
  EXPECT_TRUE(Eventually([&] {
    auto again = NewPath(*first, 2);
    return again->Connect(0)->established();
  }));
}

TEST_P(ServerAdmissionTest, LimitsSessions) {
  options_.limits.max_sessions = 3;
  ASSERT_NO_FATAL_FAILURE(Start());
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(NewClient());
    ASSERT_TRUE(clients.back()->Connect(0)->established());
  }
  auto refused = NewClient();
  refused->Connect(0);
  EXPECT_EQ(refused->rejected_with(), ENOMEM);
  EXPECT_THAT(refused->refusal().ToString(), HasSubstr("all its 3 sessions"));
  clients.pop_back();
  EXPECT_TRUE(server_->WaitForSessions(2));
  EXPECT_TRUE(NewClient()->Connect(0)->established());
}

TEST_P(ServerAdmissionTest, LimitsSessionsPerAddress) {
  options_.limits.max_sessions_per_address = 2;
  ASSERT_NO_FATAL_FAILURE(Start());
  auto first = NewClient();
  auto second = NewClient();
  ASSERT_TRUE(first->Connect(0)->established());
  ASSERT_TRUE(second->Connect(0)->established());
  auto refused = NewClient();
  refused->Connect(0);
  EXPECT_EQ(refused->rejected_with(), ENOMEM);
  EXPECT_THAT(refused->refusal().ToString(), HasSubstr("max_sessions_per_address"));
  first->Disconnect();
  EXPECT_TRUE(server_->WaitForSessions(1));
  EXPECT_TRUE(NewClient()->Connect(0)->established());
}

TEST_P(ServerAdmissionTest, LimitsConnections) {
  options_.limits.max_connections_per_path = 3;
  options_.limits.max_connections = 5;
  ASSERT_NO_FATAL_FAILURE(Start());
  auto first = NewClient();
  first->request.cid_num = 4;
  first->Connect(0);
  EXPECT_EQ(first->rejected_with(), ECONNRESET);
  EXPECT_THAT(first->refusal().ToString(), HasSubstr("more than 3 connections for one path"));
  auto second = NewClient();
  ASSERT_NO_FATAL_FAILURE(second->Establish("a", 3));
  auto third = NewClient();
  third->request.cid_num = 3;
  ASSERT_TRUE(third->Connect(0)->established());
  ASSERT_TRUE(third->Connect(1)->established());
  third->Connect(2);
  EXPECT_EQ(third->rejected_with(), ENOMEM);
  EXPECT_THAT(third->refusal().ToString(), HasSubstr("all its 5 connections"));
  second->Disconnect();
  EXPECT_TRUE(server_->WaitForSessions(1));
  EXPECT_TRUE(third->Connect(2)->established()) << third->refusal();
}

TEST_P(ServerAdmissionTest, LimitsConnectionsPerAddress) {
  options_.limits.max_connections_per_address = 2;
  ASSERT_NO_FATAL_FAILURE(Start());
  auto client = NewClient();
  client->request.cid_num = 3;
  ASSERT_TRUE(client->Connect(0)->established());
  ASSERT_TRUE(client->Connect(1)->established());
  client->Connect(2);
  EXPECT_EQ(client->rejected_with(), ENOMEM);
  EXPECT_THAT(client->refusal().ToString(), HasSubstr("max_connections_per_address"));
  client->Disconnect();
  EXPECT_TRUE(server_->WaitForSessions(0));
  EXPECT_TRUE(NewClient()->Connect(0)->established());
}

TEST_P(ServerAdmissionTest, LimitsChunkMemory) {
  options_.limits.max_chunk_memory = 2 * 2 * 8192;
  ASSERT_NO_FATAL_FAILURE(Start());
  auto first = NewClient();
  ASSERT_NO_FATAL_FAILURE(first->Establish("a", 1));
  auto second = NewClient();
  ASSERT_NO_FATAL_FAILURE(second->Establish("b", 1));
  // A client of ours learns why.
  TestClient refused(fabric(), "c", {server_->path()});
  refused.Start();
  ASSERT_TRUE(refused.WaitFailed(1));
  EXPECT_TRUE(IsPeersReason(refused.last(), ENOMEM, "max_chunk_memory"));
  first->Disconnect();
  EXPECT_TRUE(refused.WaitUp(1));
}

TEST_P(ServerAdmissionTest, AClientOfOursReadsWhyItIsRejected) {
  options_.limits.max_sessions = 1;
  ASSERT_NO_FATAL_FAILURE(Start());
  auto first = NewClient();
  ASSERT_NO_FATAL_FAILURE(first->Establish("a", 1));
  TestClient refused(fabric(), "b", {server_->path()});
  refused.Start();
  ASSERT_TRUE(refused.WaitFailed(1));
  EXPECT_EQ(StatusToErrno(refused.last()), ENOMEM);
  EXPECT_THAT(refused.last().ToString(), HasSubstr("all its 1 sessions in use (max_sessions)"));
}

TEST_P(ServerAdmissionTest, APathBelongsToOneSession) {
  ASSERT_NO_FATAL_FAILURE(Start());
  auto client = NewClient();
  ASSERT_NO_FATAL_FAILURE(client->Establish("blya", 1));
  auto thief = NewAttempt(*client, 2);
  thief->request.paths_uuid[3] ^= 1;
  thief->Connect(0);
  EXPECT_EQ(thief->rejected_with(), ECONNRESET);
  EXPECT_THAT(thief->refusal().ToString(), HasSubstr("belongs to another"));
  EXPECT_EQ(server_->session_count(), 1U);
  // The owner did not notice.
  client->SendRead(0, 0, {.fill = 3}, 512);
  EXPECT_EQ(client->WaitForResponse(0, 1).error_number, 0);
}

TEST_P(ServerAdmissionTest, ALaterAttemptReplacesTheOldPath) {
  ASSERT_NO_FATAL_FAILURE(Start());
  // Through the wrap of the counter as well.
  uint16_t recon_cnt = 65534;
  auto client = NewClient();
  client->request.recon_cnt = recon_cnt;
  ASSERT_NO_FATAL_FAILURE(client->Establish("blya", 1));
  for (int round = 0; round < 4; ++round) {
    auto early = NewAttempt(*client, static_cast<uint16_t>(recon_cnt - 1));
    early->Connect(0);
    EXPECT_EQ(early->rejected_with(), ECONNRESET);
    EXPECT_THAT(early->refusal().ToString(), HasSubstr("later attempt"));
    EXPECT_FALSE(client->down());

    ++recon_cnt;
    auto again = NewAttempt(*client, recon_cnt);
    again->Connect(0);
    EXPECT_EQ(again->rejected_with(), ECONNRESET);
    EXPECT_THAT(again->refusal().ToString(), HasSubstr("closing"));
    EXPECT_TRUE(client->WaitUntilDown());
    EXPECT_TRUE(IsPeersReason(client->why(), ECONNRESET, "connects the path anew"));
    // When the old connections are gone the next attempt gets in.
    ASSERT_TRUE(Eventually([&] {
      again = NewAttempt(*client, ++recon_cnt);
      return again->Connect(0)->established();
    }));
    client = NewAttempt(*client, recon_cnt);
    client->request.recon_cnt = recon_cnt;
    again->Disconnect();
    ASSERT_TRUE(server_->WaitForSessions(0));
    ASSERT_NO_FATAL_FAILURE(client->Establish("blya", 1));
  }
}

// A path whose requests are still being worked on is not gone: that is the fence before the client
// sends them again.
TEST_P(ServerAdmissionTest, APathComesBackOnlyWhenItsRequestsAreDone) {
  ASSERT_NO_FATAL_FAILURE(Start(2));
  auto client = NewClient();
  ASSERT_NO_FATAL_FAILURE(client->Establish("blya", 1));
  client->SendWrite(0, 0, {.fill = 1, .hold = 1}, 512);
  ASSERT_TRUE(server_->handler().WaitForHeld(1));
  client->Disconnect();
  ASSERT_TRUE(client->WaitUntilDown());
  uint16_t recon_cnt = 1;
  for (int i = 0; i < 20; ++i) {
    auto again = NewAttempt(*client, ++recon_cnt);
    again->Connect(0);
    EXPECT_EQ(again->rejected_with(), ECONNRESET);
    // Nor does another path of the session get in.
    auto other = NewPath(*client, 1, /*first_conn=*/true);
    other->Connect(0);
    EXPECT_EQ(other->rejected_with(), ECONNRESET);
    if (i > 0) {
      EXPECT_THAT(other->refusal().ToString(), HasSubstr("earlier paths are closing"));
    }
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(server_->handler().executed(), 0U);
  server_->handler().Release();
  EXPECT_TRUE(server_->WaitForSessions(0));
  auto again = NewAttempt(*client, ++recon_cnt);
  ASSERT_NO_FATAL_FAILURE(again->Establish("blya", 1));
}

// Where it comes from the same address, session_fence_test has it.
TEST_P(ServerAdmissionTest, ASessionNameHasOneOwner) {
  if (ListenAddress().scheme != AddressScheme::kTcp) GTEST_SKIP() << "one host, one address";
  ASSERT_NO_FATAL_FAILURE(Start());
  auto owner = NewClient();
  ASSERT_NO_FATAL_FAILURE(owner->Establish("blya", 1));
  const PathAddress elsewhere =
      *ParsePathAddress(absl::StrCat("tcp:127.0.0.2@", server_->path().ToString()));
  TestClient other(fabric(), "blya", {elsewhere});
  other.Start();
  EXPECT_TRUE(IsPeersReason(WaitForPeersReason(&other, EPERM), EPERM, "in use by a client at"));
  // The owner dies with a request at work: its name is free when that is done.
  owner->SendWrite(0, 0, {.fill = 1, .hold = 1}, 512);
  ASSERT_TRUE(server_->handler().WaitForHeld(1));
  owner->Disconnect();
  EXPECT_TRUE(IsPeersReason(WaitForPeersReason(&other, EBUSY), EBUSY, "until the last requests"));
  EXPECT_EQ(other.ups(), 0);
  server_->handler().Release();
  EXPECT_TRUE(other.WaitUp(1));
}

TEST_P(ServerAdmissionTest, TheHandlerDecidesWhoMayJoin) {
  options_.path.heartbeat = KernelHeartbeat();
  ASSERT_NO_FATAL_FAILURE(Start(2));
  server_->Stop();
  server_->handler().may_join = [](const Address&) {
    return ErrnoToStatus(EACCES, "not from there");
  };
  ASSERT_NO_FATAL_FAILURE(server_->Start());
  auto first = NewClient();
  ASSERT_NO_FATAL_FAILURE(first->Establish("blya", 1));
  auto second = NewPath(*first, 1);
  ASSERT_NO_FATAL_FAILURE(second->ConnectAll(1));
  second->SendInfo("blya");
  ASSERT_TRUE(second->WaitUntilDown());
  EXPECT_TRUE(IsPeersReason(second->why(), EACCES, "not from there"));
  EXPECT_FALSE(first->down());
  EXPECT_EQ(server_->counters().sessions_refused, 1U);
}

TEST_P(ServerAdmissionTest, APathKeepsToTheNameOfItsSession) {
  ASSERT_NO_FATAL_FAILURE(Start(2));
  auto first = NewClient();
  ASSERT_NO_FATAL_FAILURE(first->Establish("blya", 1));
  auto second = NewPath(*first, 1);
  ASSERT_NO_FATAL_FAILURE(second->ConnectAll(1));
  second->SendInfo("other");
  ASSERT_TRUE(second->WaitUntilDown());
  EXPECT_TRUE(IsPeersReason(second->why(), EINVAL));
  EXPECT_FALSE(first->down());
}

TEST_P(ServerAdmissionTest, APathThatIsNotCompletedIsGivenUp) {
  options_.path.establishment_timeout = absl::Seconds(1);
  ASSERT_NO_FATAL_FAILURE(Start());
  auto some = NewClient();
  some->request.cid_num = 3;
  ASSERT_TRUE(some->Connect(0)->established());
  ASSERT_TRUE(some->Connect(2)->established());
  EXPECT_TRUE(some->WaitUntilDown());
  EXPECT_TRUE(IsPeersReason(some->why(), ETIMEDOUT, "opened 2 of 3 connections"));
  auto silent = NewClient();
  ASSERT_NO_FATAL_FAILURE(silent->ConnectAll(2));
  EXPECT_TRUE(silent->WaitUntilDown());
  EXPECT_TRUE(IsPeersReason(silent->why(), ETIMEDOUT, "no INFO_REQ"));
  EXPECT_TRUE(server_->WaitForSessions(0));
  EXPECT_EQ(server_->counters().clients_timed_out, 2U);
  EXPECT_EQ(server_->counters().paths_abandoned, 2U);
  EXPECT_EQ(server_->counters().paths_closed, 0U);
}

TEST_P(ServerAdmissionTest, LogsRefusalsAtABoundedRate) {
  LogCapture log;
  ASSERT_NO_FATAL_FAILURE(Start());
  for (int i = 0; i < 20; ++i) {
    auto client = NewClient();
    client->request.bits = 0;
    client->Connect(0);
    EXPECT_EQ(client->rejected_with(), ENXIO);
  }
  EXPECT_EQ(server_->counters().connections_rejected, 20U);
  server_.reset();
  EXPECT_LE(log.Lines("rejected a connection").size(), 4U);
  ASSERT_FALSE(log.Lines("rejected a connection").empty());
  EXPECT_THAT(log.Lines("rejected a connection")[0], HasSubstr("does not know"));
}

// The chunks follow what the client can use, and so does their description in INFO_RSP.
TEST_P(ServerAdmissionTest, ClientsAreOfferedWhatTheyCanUse) {
  options_.geometry = {8, 1 << 20, 4096};
  Start();
  auto kernel = NewClient();
  ASSERT_NO_FATAL_FAILURE(kernel->Establish("kernel", 2));
  EXPECT_EQ(kernel->geometry().max_io_size, 127U * 4096);
  EXPECT_EQ(kernel->chunks().size(), 8U);
  auto ours = NewClient();
  ours->request.extension = Extension::Ours();
  ASSERT_NO_FATAL_FAILURE(ours->Establish("ours", 2));
  EXPECT_EQ(ours->geometry(), options_.geometry);
}

INSTANTIATE_TEST_SUITE_P(Fabrics, ServerAdmissionTest, ::testing::ValuesIn(SessionFabrics()),
                         SessionFabric::Name);

}  // namespace
}  // namespace rnbd::rtrs
