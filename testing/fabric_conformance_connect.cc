#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "testing/fabric_conformance.h"

// Listening, connecting, accepting, rejecting.
namespace rnbd::rtrs {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_P(FabricConformanceTest, CarriesPrivateDataBothWays) {
  const std::vector<uint8_t> request = WithFeatures(Pattern(kPrivateDataBytes, 1));
  const std::vector<uint8_t> response = WithFeatures(Pattern(kPrivateDataBytes, 2));
  std::unique_ptr<FabricEnd> client = ClientEnd();
  client->CreateFor(client_fabric_.get(), Path());
  client->Connect(request);
  std::unique_ptr<IncomingConnection> incoming = acceptor_->Next();
  ASSERT_NE(incoming, nullptr);
  EXPECT_THAT(incoming->private_data(), ElementsAreArray(request));
  std::unique_ptr<FabricEnd> server = ServerEnd();
  server->CreateFor(incoming.get());
  server->Accept(response);
  ASSERT_TRUE(client->WaitUntilEstablished()) << client->why();
  ASSERT_TRUE(server->WaitUntilEstablished()) << server->why();
  EXPECT_THAT(client->established_with(), ElementsAreArray(response));
  EXPECT_THAT(server->established_with(), IsEmpty());
  EXPECT_EQ(acceptor_->listener()->counters().incoming, 1u);
}

TEST_P(FabricConformanceTest, IncomingConnectionNamesBothEnds) {
  std::unique_ptr<IncomingConnection> incoming;
  const std::unique_ptr<FabricEnd> client = Connecting(&incoming);
  ASSERT_NE(incoming, nullptr);
  EXPECT_EQ(incoming->destination(), acceptor_->address());
  EXPECT_EQ(incoming->source().scheme, acceptor_->address().scheme);
  EXPECT_EQ(incoming->source().host, acceptor_->address().host) << "both are on this host";
}

TEST_P(FabricConformanceTest, RejectionCarriesPrivateData) {
  std::unique_ptr<IncomingConnection> incoming;
  const std::unique_ptr<FabricEnd> client = Connecting(&incoming);
  ASSERT_NE(incoming, nullptr);
  incoming->Reject(PrivateData("not you"));
  ASSERT_TRUE(client->WaitUntilDown());
  EXPECT_FALSE(client->established());
  EXPECT_EQ(client->error(), ECONNREFUSED);
  EXPECT_THAT(client->disconnected_with(), ElementsAreArray(PrivateData("not you")));
}

TEST_P(FabricConformanceTest, UnansweredPeerIsDropped) {
  std::unique_ptr<IncomingConnection> incoming;
  const std::unique_ptr<FabricEnd> client = Connecting(&incoming);
  ASSERT_NE(incoming, nullptr);
  incoming.reset();
  ASSERT_TRUE(client->WaitUntilDown());
  EXPECT_FALSE(client->established());
  EXPECT_THAT(client->disconnected_with(), IsEmpty());
}

TEST_P(FabricConformanceTest, ConnectionMadeButNeverAcceptedIsDropped) {
  std::unique_ptr<IncomingConnection> incoming;
  const std::unique_ptr<FabricEnd> client = Connecting(&incoming);
  ASSERT_NE(incoming, nullptr);
  {
    std::unique_ptr<FabricEnd> server = ServerEnd();
    server->CreateFor(incoming.get());
    incoming.reset();
    EXPECT_FALSE(client->WaitUntilDown(absl::Milliseconds(50))) << "nothing was decided yet";
  }
  ASSERT_TRUE(client->WaitUntilDown());
  EXPECT_FALSE(client->established());
}

TEST_P(FabricConformanceTest, ConnectingHasATimeLimit) {
  const absl::Time start = absl::Now();
  std::unique_ptr<IncomingConnection> incoming;
  const std::unique_ptr<FabricEnd> client = Connecting(&incoming, absl::Seconds(1));
  ASSERT_NE(incoming, nullptr);
  ASSERT_TRUE(client->WaitUntilDown());
  EXPECT_EQ(client->error(), ETIMEDOUT);
  EXPECT_FALSE(client->established());
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(990));
  EXPECT_LT(absl::Now() - start, absl::Seconds(1) + GetParam().connect_bound);
  // Accepting what is gone fails as a connection that breaks.
  std::unique_ptr<FabricEnd> server = ServerEnd();
  server->CreateFor(incoming.get());
  server->Accept(PrivateData("too late"));
  ASSERT_TRUE(server->WaitUntilDown());
}

TEST_P(FabricConformanceTest, ConnectingToNobodyFails) {
  const PathAddress path = Path();
  acceptor_->Close();
  std::unique_ptr<FabricEnd> client = ClientEnd();
  client->CreateFor(client_fabric_.get(), path);
  client->Connect(PrivateData(""));
  ASSERT_TRUE(client->WaitUntilDown());
  EXPECT_FALSE(client->established());
  EXPECT_NE(client->error(), ETIMEDOUT);
  EXPECT_THAT(client->disconnected_with(), IsEmpty());
  EXPECT_THAT(std::string(client->why().message()), HasSubstr(path.destination.ToString()));
}

TEST_P(FabricConformanceTest, AddressInUseIsRefusedByName) {
  FabricAcceptor second(client_thread_.get());
  const absl::Status refused = second.Listen(server_fabric_.get(), acceptor_->address());
  EXPECT_EQ(StatusToErrno(refused), EADDRINUSE) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr(acceptor_->address().ToString()));
  // And the first one is none the worse for it.
  FabricPair pair = Connected();
  ExpectToWork(&pair);
}

TEST_P(FabricConformanceTest, AddressIsFreeOnceTheListenerIsGone) {
  const Address address = acceptor_->address();
  FabricPair pair = Connected();
  for (int i = 0; i < 3; ++i) {
    const absl::Status again = acceptor_->ListenAgain(server_fabric_.get());
    ASSERT_TRUE(again.ok()) << again;
    EXPECT_EQ(acceptor_->address(), address);
  }
  FabricPair another = Connected();
  ExpectToWork(&another);
  ExpectToWork(&pair);
}

TEST_P(FabricConformanceTest, ListenerGoesWhilePeersConnect) {
  std::unique_ptr<IncomingConnection> incoming;
  const std::unique_ptr<FabricEnd> client = Connecting(&incoming);
  ASSERT_NE(incoming, nullptr);
  acceptor_->Close();
  incoming.reset();
  ASSERT_TRUE(client->WaitUntilDown());
}

TEST_P(FabricConformanceTest, HandlerDestroysItsListener) {
  absl::Notification closed;
  RunOn(server_thread_.get(), [&] {
    acceptor_->on_incoming = [&](std::unique_ptr<IncomingConnection> incoming) {
      acceptor_->Close();
      incoming->Reject(PrivateData("closing time"));
      closed.Notify();
    };
  });
  std::unique_ptr<FabricEnd> client = ClientEnd();
  client->CreateFor(client_fabric_.get(), Path());
  client->Connect(PrivateData(""));
  ASSERT_TRUE(client->WaitUntilDown());
  EXPECT_EQ(client->error(), ECONNREFUSED);
  EXPECT_TRUE(closed.WaitForNotificationWithTimeout(kPatience));
}

TEST_P(FabricConformanceTest, UnusedConnectionsMayBeDestroyed) {
  std::unique_ptr<FabricEnd> client = ClientEnd();
  client->CreateFor(client_fabric_.get(), Path());
  client.reset();
  EXPECT_EQ(acceptor_->Next(absl::Milliseconds(20)), nullptr);
}

TEST_P(FabricConformanceTest, DisconnectBeforeConnectEndsItAtOnce) {
  std::unique_ptr<FabricEnd> client = ClientEnd();
  client->CreateFor(client_fabric_.get(), Path());
  client->connection()->Disconnect(rnbd::ErrnoToStatus(EHOSTDOWN, "never mind"));
  EXPECT_FALSE(client->WaitUntilDown(absl::Milliseconds(20))) << "it was not connected yet";
  client->Connect(PrivateData(""));
  ASSERT_TRUE(client->WaitUntilDown());
  EXPECT_EQ(client->error(), EHOSTDOWN);
  EXPECT_EQ(acceptor_->Next(absl::Milliseconds(20)), nullptr);
}

TEST_P(FabricConformanceTest, DisconnectBeforeAcceptEndsItAtOnce) {
  std::unique_ptr<IncomingConnection> incoming;
  const std::unique_ptr<FabricEnd> client = Connecting(&incoming);
  ASSERT_NE(incoming, nullptr);
  std::unique_ptr<FabricEnd> server = ServerEnd();
  server->CreateFor(incoming.get());
  server->connection()->Disconnect(rnbd::ErrnoToStatus(EHOSTDOWN, "never mind"));
  server->Accept(PrivateData(""));
  ASSERT_TRUE(server->WaitUntilDown());
  EXPECT_EQ(server->error(), EHOSTDOWN);
  EXPECT_FALSE(server->established());
  ASSERT_TRUE(client->WaitUntilDown());
  EXPECT_FALSE(client->established());
}

TEST_P(FabricConformanceTest, DisconnectInTheTurnOfConnect) {
  std::unique_ptr<FabricEnd> client = ClientEnd();
  client->CreateFor(client_fabric_.get(), Path());
  client->Run([&] {
    client->Connect(PrivateData(""));
    client->Disconnect(EINTR, "changed my mind");
    EXPECT_FALSE(client->down()) << "callbacks do not come from within calls";
  });
  ASSERT_TRUE(client->WaitUntilDown());
  EXPECT_EQ(client->error(), EINTR);
  EXPECT_FALSE(client->established());
}

TEST_P(FabricConformanceTest, DisconnectWhileThePeerThinks) {
  std::unique_ptr<IncomingConnection> incoming;
  const std::unique_ptr<FabricEnd> client = Connecting(&incoming);
  ASSERT_NE(incoming, nullptr);
  client->Disconnect(EINTR, "changed my mind");
  ASSERT_TRUE(client->WaitUntilDown());
  EXPECT_EQ(client->error(), EINTR);
  std::unique_ptr<FabricEnd> server = ServerEnd();
  server->CreateFor(incoming.get());
  server->Accept(PrivateData(""));
  ASSERT_TRUE(server->WaitUntilDown());
}

TEST_P(FabricConformanceTest, DisconnectInTheTurnOfAccept) {
  std::unique_ptr<IncomingConnection> incoming;
  const std::unique_ptr<FabricEnd> client = Connecting(&incoming);
  ASSERT_NE(incoming, nullptr);
  std::unique_ptr<FabricEnd> server = ServerEnd();
  server->CreateFor(incoming.get());
  server->Run([&] {
    server->Accept(PrivateData(""));
    server->Disconnect(EINTR, "changed my mind");
  });
  ASSERT_TRUE(server->WaitUntilDown());
  EXPECT_EQ(server->error(), EINTR);
  ASSERT_TRUE(client->WaitUntilDown());
}

TEST_P(FabricConformanceTest, ManyPeersAtOnce) {
  constexpr int kPeers = 100;
  const EndOptions small = {.limits = {.send_requests = 2, .receives = 2},
                            .receives = 2,
                            .receive_bytes = 128,
                            .window_bytes = 256,
                            .source_bytes = 128};
  std::vector<std::unique_ptr<FabricEnd>> clients;
  for (int i = 0; i < kPeers; ++i) {
    clients.push_back(ClientEnd(small));
    clients.back()->CreateFor(client_fabric_.get(), Path());
  }
  client_thread_->RunAndWait([&] {
    for (int i = 0; i < kPeers; ++i) clients[i]->Connect(PrivateData(std::to_string(i)));
  });
  std::vector<std::unique_ptr<FabricEnd>> servers(kPeers);
  for (int i = 0; i < kPeers; ++i) {
    std::unique_ptr<IncomingConnection> incoming = acceptor_->Next();
    ASSERT_NE(incoming, nullptr);
    const int number = std::stoi(reinterpret_cast<const char*>(incoming->private_data().data()));
    ASSERT_EQ(servers[number], nullptr);
    servers[number] = ServerEnd(small);
    servers[number]->CreateFor(incoming.get());
    servers[number]->Accept(PrivateData(std::to_string(number)));
  }
  for (int i = 0; i < kPeers; ++i) {
    ASSERT_TRUE(clients[i]->WaitUntilEstablished()) << clients[i]->why();
    EXPECT_THAT(clients[i]->established_with(), ElementsAreArray(PrivateData(std::to_string(i))));
    ASSERT_TRUE(servers[i]->WaitUntilEstablished()) << servers[i]->why();
    FabricPair pair = {std::move(clients[i]), std::move(servers[i])};
    ExpectToWork(&pair);
  }
}

}  // namespace
}  // namespace rnbd::rtrs
