// A server with always_invalidate over a fabric that has memory windows.

#include <cerrno>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/types/optional.h"
#include "gtest/gtest.h"
#include "rtrs/client_session.h"
#include "rtrs/messages.h"
#include "rtrs/server.h"
#include "testing/cutting_fabric.h"
#include "testing/raw_peer.h"
#include "testing/session_fixture.h"
#include "testing/session_harness.h"

namespace rnbd::rtrs {
namespace {

class ServerWindowsTest : public SessionFixture {
 protected:
  void SetUp() override {
    if (!GetParam().has_windows) GTEST_SKIP() << "the fabric has no memory windows";
    thread_ = StartRingThread("raw");
    options_ = TinyServerOptions();
    options_.path.always_invalidate = true;
    options_.geometry.queue_depth = 8;
    // For clients: it has no windows itself.
    cutting_ = std::make_unique<CuttingFabric>(fabric());
    server_ =
        std::make_unique<TestServer>(fabric(), std::vector<Address>{ListenAddress()}, options_);
    server_->Start();
  }

  std::unique_ptr<RawClient> Established() {
    auto client = std::make_unique<RawClient>(fabric(), server_->path(), thread_.get());
    client->Establish("raw", 2);
    return client;
  }
  // The key that came with the last response of connection 1.
  static uint32_t NextKey(RawClient* client, size_t responses) {
    const std::vector<FabricEnd::Message> messages = client->WaitForMessages(1, responses);
    absl::StatusOr<RkeyResponse> key = ParseRkeyResponse(messages.back().data, 8);
    EXPECT_TRUE(key.ok()) << key.status();
    EXPECT_EQ(key->buf_id, 0);
    return key->rkey;
  }

  ServerOptions options_;
  std::unique_ptr<RingThread> thread_;
  std::unique_ptr<CuttingFabric> cutting_;
  std::unique_ptr<TestServer> server_;
};

TEST_P(ServerWindowsTest, EachAnswerBringsTheNextKey) {
  auto client = Established();
  EXPECT_TRUE(client->acceptance().new_rkey);
  EXPECT_NE(client->chunks()[0].rkey, client->chunks()[1].rkey);
  for (size_t i = 1; i <= 300; ++i) {
    const uint32_t key = client->chunks()[0].rkey;
    client->SendWrite(1, 0, {.error = i % 3 == 0 ? uint8_t{EIO} : uint8_t{0}, .fill = 1}, 512);
    EXPECT_EQ(client->WaitForResponse(1, i).error_number, i % 3 == 0 ? EIO : 0);
    const uint32_t next = NextKey(client.get(), i);
    ASSERT_NE(next, key);
    client->set_key(0, next);
  }
  EXPECT_FALSE(client->down());
}

TEST_P(ServerWindowsTest, AChunkIsOutOfReachWhileItsRequestRuns) {
  auto client = Established();
  client->SendWrite(1, 0, {.fill = 1, .hold = 1}, 512);
  ASSERT_TRUE(server_->handler().WaitForHeld(1));
  const std::vector<uint8_t> zeros(8);
  client->Put(0, 0, 0, zeros, absl::nullopt);
  EXPECT_TRUE(client->WaitUntilDown());
  // What the backend sees is what was sent: the answer would be EILSEQ otherwise.
  server_->handler().Release();
  EXPECT_TRUE(server_->WaitForSessions(0));
  EXPECT_EQ(server_->handler().executed(), 1U);
}

TEST_P(ServerWindowsTest, AnOldKeyOpensNothing) {
  auto client = Established();
  client->SendWrite(1, 0, {.fill = 1}, 512);
  EXPECT_EQ(client->WaitForResponse(1, 1).error_number, 0);
  client->SendWrite(1, 0, {.fill = 2}, 512);
  EXPECT_TRUE(client->WaitUntilDown());
  EXPECT_EQ(server_->handler().executed(), 1U);
}

TEST_P(ServerWindowsTest, AClientGoesInTheMiddleOfItsRequests) {
  for (int round = 0; round < 5; ++round) {
    auto client = Established();
    for (uint32_t chunk = 0; chunk < 8; ++chunk) client->SendWrite(1, chunk, {.fill = 1}, 512);
    client->Disconnect();
    ASSERT_TRUE(server_->WaitForSessions(0));
  }
}

TEST_P(ServerWindowsTest, OurClientFollowsTheKeys) {
  TestClient client(cutting_.get(), "blya", {server_->path()});
  client.Start();
  ASSERT_TRUE(client.WaitUp(1));
  Load load(&client, 6, 4096);
  load.Start();
  EXPECT_TRUE(load.WaitForMore(1000));
  for (int round = 0; round < 5; ++round) {
    cutting_->CutPath(server_->path().destination);
    EXPECT_TRUE(load.WaitForMore(50));
  }
  load.Stop();
  EXPECT_EQ(load.wrong(), 0U);
  EXPECT_EQ(server_->counters().protocol_violations, 0U);
}

INSTANTIATE_TEST_SUITE_P(Fabrics, ServerWindowsTest, ::testing::ValuesIn(SessionFabrics()),
                         SessionFabric::Name);

// Where it cannot be had it is left out, and the server says so when it starts.
class ServerWithoutWindowsTest : public SessionFixture {};

TEST_P(ServerWithoutWindowsTest, KeysStay) {
  if (GetParam().has_windows) GTEST_SKIP() << "the fabric has memory windows";
  ServerOptions options = TinyServerOptions();
  options.path.always_invalidate = true;
  TestServer server(fabric(), {ListenAddress()}, options);
  server.Start();
  const std::unique_ptr<RingThread> thread = StartRingThread("raw");
  RawClient client(fabric(), server.path(), thread.get());
  ASSERT_NO_FATAL_FAILURE(client.Establish("raw", 2));
  EXPECT_FALSE(client.acceptance().new_rkey);
  for (size_t i = 1; i <= 3; ++i) {
    client.SendWrite(1, 0, {.fill = 1}, 512);
    EXPECT_EQ(client.WaitForResponse(1, i).error_number, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Fabrics, ServerWithoutWindowsTest, ::testing::ValuesIn(SessionFabrics()),
                         SessionFabric::Name);

}  // namespace
}  // namespace rnbd::rtrs
