// What a server answers to clients that keep the protocol, kernel's and newer ones among them.

#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "absl/types/optional.h"
#include "gtest/gtest.h"
#include "rtrs/immediate.h"
#include "rtrs/messages.h"
#include "testing/raw_peer.h"
#include "testing/server_protocol_fixture.h"
#include "testing/session_fixture.h"
#include "testing/session_harness.h"

namespace rnbd::rtrs {
namespace {

using ServerProtocolTest = ServerProtocolFixture;

TEST_P(ServerProtocolTest, NewsGoToClientsThatTakeThemOnly) {
  struct Case {
    const char* name;
    Features features;
    bool takes;
  };
  for (const Case& c : {Case{"Kernel", 0, false}, Case{"OlderOurs", kRecovery, false},
                        Case{"Ours", kOurFeatures, true}}) {
    SCOPED_TRACE(c.name);
    Start();
    std::function<void(uint32_t)> send_news;
    server_->handler().on_session = [&](const ServerSessionInfo& session) {
      send_news = session.send_news;
      return absl::OkStatus();
    };
    auto client = NewClient();
    if (c.features != 0) {
      client->request.extension = Extension::Ours();
      client->request.extension.bits = c.features;
    }
    ASSERT_NO_FATAL_FAILURE(client->Establish("blya", 2));
    ASSERT_EQ(send_news != nullptr, c.takes);
    if (c.takes) {
      server_->threads().control()->RunAndWait([&] { send_news(kMaxNews); });
      const auto messages = client->WaitForMessages(0, 1);
      ASSERT_EQ(messages.size(), 1U);
      EXPECT_EQ(messages[0].immediate, absl::make_optional(EncodeNews(kMaxNews)));
    }
    client.reset();
    server_->Stop();
  }
}

// What the server looks at is its own copy.
TEST_P(ServerProtocolTest, TheUserMessageCannotBeChangedAfterwards) {
  ASSERT_NO_FATAL_FAILURE(Start());
  auto client = NewClient();
  ASSERT_NO_FATAL_FAILURE(client->Establish("blya", 1));
  client->SendWrite(0, 0, {.error = ENOSPC, .fill = 1, .hold = 1}, 512);
  ASSERT_TRUE(server_->handler().WaitForHeld(1));
  client->Put(0, 0, 512, Zeros(64), absl::nullopt);
  // Behind it on the same connection: what was written before is in its place.
  client->SendRead(0, 1, {}, 0);
  EXPECT_EQ(client->WaitForResponse(0, 1).msg_id, 1U);
  server_->handler().Release();
  EXPECT_EQ(client->WaitForResponse(0, 2).error_number, ENOSPC);
}

TEST_P(ServerProtocolTest, IgnoresWhatNewerPeersMayKnow) {
  ASSERT_NO_FATAL_FAILURE(Start());
  auto client = NewClient();
  ASSERT_NO_FATAL_FAILURE(client->Establish("blya", 2));
  for (uint16_t cid : {0, 1}) {
    for (uint32_t type : {1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15}) {
      client->SendImmediate(cid, type << 28 | 0x123);
    }
  }
  client->SendRead(1, 0, {.fill = 8}, 512);
  EXPECT_EQ(client->WaitForResponse(1, 1).error_number, 0);
  client->SendRead(0, 0, {.fill = 8}, 512);
  EXPECT_EQ(client->WaitForResponse(0, 1).error_number, 0);
}

// Section 9.1, item 7: one connection for everything.
TEST_P(ServerProtocolTest, ConnectionZeroAloneIsEnough) {
  ASSERT_NO_FATAL_FAILURE(Start());
  auto client = NewClient();
  ASSERT_NO_FATAL_FAILURE(client->Establish("blya", 1));
  size_t responses = 0;
  for (int round = 0; round < 50; ++round) {
    for (uint32_t chunk = 0; chunk < 3; ++chunk) {
      client->SendWrite(0, chunk, {.fill = static_cast<uint8_t>(round)}, 4096);
    }
    responses += 3;
    client->WaitForMessages(0, responses);
    client->SendRead(0, 2, {.fill = static_cast<uint8_t>(round)}, 4096);
    EXPECT_EQ(client->WaitForResponse(0, ++responses).error_number, 0);
    EXPECT_EQ(client->data(2)[4095], round);
  }
}

TEST_P(ServerProtocolTest, AnswersOnTheConnectionOfTheRequest) {
  ASSERT_NO_FATAL_FAILURE(Start());
  auto client = NewClient();
  ASSERT_NO_FATAL_FAILURE(client->Establish("blya", 4));
  for (uint16_t cid = 0; cid < 4; ++cid) {
    client->SendRead(cid, 1, {.error = static_cast<uint8_t>(cid), .fill = 9}, 512);
    const ResponseImmediate response = client->WaitForResponse(cid, 1);
    EXPECT_EQ(response.msg_id, 1U);
    EXPECT_EQ(response.error_number, cid);
    EXPECT_FALSE(response.invalidated);
  }
}

// Section 3.7 and pitfall 2: the key is invalidated before the answer that says so, whatever the
// answer is.
TEST_P(ServerProtocolTest, InvalidatesTheKeyWhenAsked) {
  if (!GetParam().invalidates_regions) GTEST_SKIP() << "only keys of another kind";
  ASSERT_NO_FATAL_FAILURE(Start());
  auto client = NewClient();
  ASSERT_NO_FATAL_FAILURE(client->Establish("blya", 2));
  size_t messages = 0;
  for (uint8_t error : {uint8_t{0}, uint8_t{EIO}}) {
    client->SendRead(1, 1, {.error = error, .fill = 0x44}, 4096, /*need_invalidate=*/true);
    std::vector<FabricEnd::Message> got = client->WaitForMessages(1, messages += 2);
    ASSERT_EQ(got.size(), messages);
    const FabricEnd::Message& invalidation = got[messages - 2];
    EXPECT_FALSE(invalidation.immediate.has_value());
    EXPECT_TRUE(invalidation.data.empty());
    ASSERT_TRUE(invalidation.invalidated_key.has_value());
    EXPECT_EQ(*invalidation.invalidated_key, client->data_key());
    const ResponseImmediate response = client->WaitForResponse(1, messages);
    EXPECT_TRUE(response.invalidated);
    EXPECT_EQ(response.error_number, error);
    EXPECT_EQ(response.msg_id, 1U);
    if (error == 0) {
      EXPECT_EQ(client->data(1)[0], 0x44);
      EXPECT_EQ(client->data(1)[4095], 0x44);
    }
  }
}

// A failed read sends nothing back.
TEST_P(ServerProtocolTest, AFailedReadBringsNoData) {
  ASSERT_NO_FATAL_FAILURE(Start());
  auto client = NewClient();
  ASSERT_NO_FATAL_FAILURE(client->Establish("blya", 1));
  client->data(0)[0] = 0x99;
  client->SendRead(0, 0, {.error = EIO, .fill = 0x44}, 512);
  EXPECT_EQ(client->WaitForResponse(0, 1).error_number, EIO);
  EXPECT_EQ(client->data(0)[0], 0x99);
}

// A fresh session finds nothing of an earlier one in its chunks.
TEST_P(ServerProtocolTest, ChunksStartAsZeros) {
  ASSERT_NO_FATAL_FAILURE(Start());
  for (int round = 0; round < 3; ++round) {
    std::vector<uint8_t> first;
    server_->Stop();
    server_->handler().on_session = [&](const ServerSessionInfo& session) {
      first.assign(session.chunks.begin(), session.chunks.end());
      return absl::OkStatus();
    };
    server_->Start();
    auto client = NewClient();
    ASSERT_NO_FATAL_FAILURE(client->Establish("blya", 1));
    EXPECT_EQ(first, Zeros(3 * 8192));
    client->SendWrite(0, 1, {.fill = 0xff}, 4096);
    client->WaitForMessages(0, 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Fabrics, ServerProtocolTest, ::testing::ValuesIn(SessionFabrics()),
                         SessionFabric::Name);

}  // namespace
}  // namespace rnbd::rtrs
