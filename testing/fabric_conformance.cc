#include "testing/fabric_conformance.h"

#include <algorithm>
#include <utility>

#include "gmock/gmock.h"

namespace rnbd::rtrs {

using ::testing::ElementsAreArray;

std::ostream& operator<<(std::ostream& out, const FabricUnderTest& fabric) {
  return out << fabric.name;
}

void FabricConformanceTest::SetUp() {
  client_thread_ = StartRingThread("client");
  server_thread_ = StartRingThread("server");
  client_fabric_ = GetParam().create();
  server_fabric_ = GetParam().create();
  acceptor_ = std::make_unique<FabricAcceptor>(server_thread_.get());
  const absl::Status listening =
      acceptor_->Listen(server_fabric_.get(), GetParam().listen_address());
  ASSERT_TRUE(listening.ok()) << listening;
}

FabricPair FabricConformanceTest::Connected(const EndOptions& client, const EndOptions& server) {
  FabricPair pair = {ClientEnd(client), ServerEnd(server)};
  Connect(pair.client.get(), pair.server.get());
  return pair;
}

std::unique_ptr<FabricEnd> FabricConformanceTest::Connecting(
    std::unique_ptr<IncomingConnection>* incoming, absl::Duration timeout) {
  std::unique_ptr<FabricEnd> client = ClientEnd();
  client->CreateFor(client_fabric_.get(), Path());
  client->Connect(PrivateData("client"), timeout);
  *incoming = acceptor_->Next();
  EXPECT_NE(*incoming, nullptr) << client->why();
  return client;
}

void FabricConformanceTest::ExpectToWork(FabricPair* pair) {
  auto exchange = [](FabricEnd* from, FabricEnd* to) {
    const size_t before = to->message_count();
    const std::vector<uint8_t> text = Pattern(100, before + 77);
    std::copy(text.begin(), text.end(), from->source().begin());
    from->Post(from->WriteRequest(Opcode::kWrite, 0, 100, to->window_region(), 40));
    from->Post(from->Request(Opcode::kSend, 0, 100));
    ASSERT_TRUE(to->WaitForMessages(before + 1)) << to->why();
    EXPECT_THAT(to->messages().back().data, ElementsAreArray(text));
    EXPECT_THAT(to->window().subspan(40, 100), ElementsAreArray(text));
  };
  exchange(pair->client.get(), pair->server.get());
  exchange(pair->server.get(), pair->client.get());
}

}  // namespace rnbd::rtrs
