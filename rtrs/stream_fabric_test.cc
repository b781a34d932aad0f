#include "rtrs/stream_fabric.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/unique_fd.h"
#include "gtest/gtest.h"
#include "rtrs/stream_socket.h"
#include "testing/fabric_conformance.h"
#include "testing/socket_path.h"

namespace rnbd::rtrs {
namespace {

Address UnusedUnixAddress() {
  return *ParseServerAddress(AddressScheme::kUnix, testing::UnusedSocketPath());
}

std::vector<FabricUnderTest> StreamFabrics() {
  std::vector<FabricUnderTest> fabrics;
  for (bool checksum : {false, true}) {
    auto create = [checksum] {
      return std::make_unique<StreamFabric>(StreamOptions{.payload_checksum = checksum});
    };
    const std::string suffix = checksum ? "Checksum" : "";
    auto add = [&](absl::string_view name, std::function<Address()> address) {
      fabrics.push_back({.name = absl::StrCat(name, suffix),
                         .create = create,
                         .listen_address = std::move(address),
                         .sends_any_memory = !checksum});
    };
    add("Tcp4", [] { return *ParseServerAddress(AddressScheme::kTcp, "127.0.0.1:0"); });
    add("Tcp6", [] { return *ParseServerAddress(AddressScheme::kTcp, "[::1]:0"); });
    add("Unix", UnusedUnixAddress);
  }
  return fabrics;
}

INSTANTIATE_TEST_SUITE_P(Stream, FabricConformanceTest, ::testing::ValuesIn(StreamFabrics()),
                         FabricUnderTest::Name);

class StreamFabricTest : public ::testing::Test {
 protected:
  void Listen(const Address& address) {
    const absl::Status listening = acceptor_.Listen(&fabric_, address);
    ASSERT_TRUE(listening.ok()) << listening;
  }
  static Address Tcp(absl::string_view text) {
    return *ParseServerAddress(AddressScheme::kTcp, text);
  }
  // Connects an end, and waits until it is down.
  void ExpectToFail(const PathAddress& path, int error, absl::Duration timeout = kPatience) {
    FabricEnd client(client_thread_.get());
    client.CreateFor(&fabric_, path);
    client.Connect(PrivateData(""), timeout);
    ASSERT_TRUE(client.WaitUntilDown());
    EXPECT_EQ(client.error(), error) << client.why();
    EXPECT_FALSE(client.established());
  }

  std::unique_ptr<RingThread> client_thread_ = StartRingThread("client");
  std::unique_ptr<RingThread> server_thread_ = StartRingThread("server");
  StreamFabric fabric_{StreamOptions{}};
  FabricAcceptor acceptor_{server_thread_.get()};
};

TEST_F(StreamFabricTest, ConnectsToAName) {
  // The name may stand for ::1 as well, where nobody listens.
  Listen(Tcp("127.0.0.1:0"));
  FabricEnd client(client_thread_.get());
  FabricEnd server(server_thread_.get());
  client.CreateFor(
      &fabric_,
      {.source = {}, .destination = Tcp(absl::StrCat("localhost:", acceptor_.address().port))});
  client.Connect(PrivateData(""));
  std::unique_ptr<IncomingConnection> incoming = acceptor_.Next();
  ASSERT_NE(incoming, nullptr) << client.why();
  server.CreateFor(incoming.get());
  server.Accept(PrivateData(""));
  EXPECT_TRUE(client.WaitUntilEstablished()) << client.why();
}

TEST_F(StreamFabricTest, NamesThatNobodyKnowsFailInTime) {
  FabricEnd client(client_thread_.get());
  client.CreateFor(&fabric_, {.source = {}, .destination = Tcp("no-such-host.invalid:1")});
  const absl::Time start = absl::Now();
  client.Connect(PrivateData(""), absl::Seconds(4));
  EXPECT_LT(absl::Now() - start, absl::Seconds(3)) << "the thread was held up";
  ASSERT_TRUE(client.WaitUntilDown());
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
}

TEST_F(StreamFabricTest, DisconnectWhileLookingUpAName) {
  for (int i = 0; i < 20; ++i) {
    FabricEnd client(client_thread_.get());
    client.CreateFor(&fabric_, {.source = {}, .destination = Tcp("localhost:1")});
    client.Run([&] {
      client.Connect(PrivateData(""));
      client.Disconnect(EINTR, "changed my mind");
    });
    ASSERT_TRUE(client.WaitUntilDown());
    EXPECT_EQ(client.error(), EINTR);
  }
}

TEST_F(StreamFabricTest, ConnectsFromASource) {
  Listen(Tcp("127.0.0.1:0"));
  FabricEnd client(client_thread_.get());
  client.CreateFor(&fabric_, {.source = Tcp("127.0.0.2:0"), .destination = acceptor_.address()});
  client.Connect(PrivateData(""));
  std::unique_ptr<IncomingConnection> incoming = acceptor_.Next();
  ASSERT_NE(incoming, nullptr) << client.why();
  EXPECT_EQ(incoming->source().host, "127.0.0.2");
  EXPECT_GT(incoming->source().port, 0);
}

TEST_F(StreamFabricTest, ListenerOnAllAddressesSeesIpv4AsIpv4) {
  Listen(Tcp("[::]:0"));
  FabricEnd client(client_thread_.get());
  client.CreateFor(
      &fabric_,
      {.source = {}, .destination = Tcp(absl::StrCat("127.0.0.1:", acceptor_.address().port))});
  client.Connect(PrivateData(""));
  std::unique_ptr<IncomingConnection> incoming = acceptor_.Next();
  ASSERT_NE(incoming, nullptr) << client.why();
  EXPECT_EQ(incoming->source().host, "127.0.0.1");
  EXPECT_EQ(incoming->destination().host, "127.0.0.1");
}

TEST_F(StreamFabricTest, ReasonsForNotConnecting) {
  Listen(Tcp("127.0.0.1:0"));
  const Address closed = acceptor_.address();
  acceptor_.Close();
  ExpectToFail({.source = {}, .destination = closed}, ECONNREFUSED);
  ExpectToFail({.source = {}, .destination = UnusedUnixAddress()}, ENOENT);
  ExpectToFail({.source = Tcp("192.0.2.1:0"), .destination = closed}, EADDRNOTAVAIL);
  ExpectToFail({.source = Tcp("[::1]:0"), .destination = closed}, EAFNOSUPPORT);
}

// Somebody listens, but takes no more: SYNs are dropped, and connecting to a Unix socket waits.
TEST_F(StreamFabricTest, ConnectingToAFullBacklogEndsInTime) {
  for (const Address& address : {Tcp("127.0.0.1:0"), UnusedUnixAddress()}) {
    const absl::StatusOr<SocketAddress> any = ToSocketAddress(address);
    const UniqueFd listener(socket(any->family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(bind(listener.get(), any->get(), any->length), 0);
    ASSERT_EQ(listen(listener.get(), 0), 0);
    const absl::StatusOr<Address> bound = LocalAddress(listener.get(), address.scheme);
    const absl::StatusOr<SocketAddress> to = ToSocketAddress(*bound);
    std::vector<UniqueFd> waiting;
    for (int i = 0; i < 4; ++i) {
      waiting.emplace_back(socket(any->family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
      static_cast<void>(connect(waiting.back().get(), to->get(), to->length));
    }
    const absl::Time start = absl::Now();
    ExpectToFail({.source = {}, .destination = *bound}, ETIMEDOUT, absl::Milliseconds(200));
    EXPECT_LT(absl::Now() - start, absl::Seconds(5)) << address;
    unlink(address.path.c_str());
  }
}

}  // namespace
}  // namespace rnbd::rtrs
