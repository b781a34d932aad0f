#include <algorithm>
#include <atomic>
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

// How connections end.
namespace rnbd::rtrs {
namespace {

using ::testing::HasSubstr;

TEST_P(FabricConformanceTest, DisconnectEndsBothEnds) {
  for (bool from_client : {true, false}) {
    FabricPair pair = Connected();
    FabricEnd* one = from_client ? pair.client.get() : pair.server.get();
    FabricEnd* other = from_client ? pair.server.get() : pair.client.get();
    one->Disconnect(ENOTCONN, "going home");
    ASSERT_TRUE(one->WaitUntilDown());
    ASSERT_TRUE(other->WaitUntilDown());
    EXPECT_EQ(one->error(), ENOTCONN);
    EXPECT_THAT(std::string(one->why().message()), HasSubstr("going home"));
    EXPECT_EQ(one->disconnected_with().size(), 0u);
    EXPECT_EQ(other->disconnected_with().size(), 0u);
  }
}

TEST_P(FabricConformanceTest, ReasonReachesThePeer) {
  if (!GetParam().carries_reason) GTEST_SKIP() << "it carries none";
  for (int error : {1, EPROTO, ECONNRESET, 133, 4095}) {
    FabricPair pair = Connected();
    pair.client->Disconnect(error, "going home");
    ASSERT_TRUE(pair.server->WaitUntilDown());
    EXPECT_EQ(pair.server->error(), error);
    EXPECT_THAT(std::string(pair.server->why().message()), HasSubstr("going home"));
    EXPECT_FALSE(IsViolation(pair.server->why())) << "the peer may say what it likes of us";
  }
}

TEST_P(FabricConformanceTest, ReasonsOfEveryKind) {
  if (!GetParam().carries_reason) GTEST_SKIP() << "it carries none";
  const std::string long_text(100'000, 'x');
  const std::vector<std::pair<absl::Status, int>> reasons = {
      {absl::OkStatus(), ECONNRESET},  // no reason to close, but the caller knows best
      {absl::AbortedError(""), ECONNABORTED},
      {absl::InternalError("no errno"), EIO},
      {rnbd::ErrnoToStatus(EIO, long_text), EIO},
      {rnbd::ErrnoToStatus(EIO, std::string("\0\n\xFF", 3)), EIO},
  };
  for (const auto& [reason, error] : reasons) {
    FabricPair pair = Connected();
    pair.client->Disconnect(reason);
    ASSERT_TRUE(pair.client->WaitUntilDown());
    EXPECT_FALSE(pair.client->why().ok());
    ASSERT_TRUE(pair.server->WaitUntilDown());
    EXPECT_EQ(pair.server->error(), error) << pair.server->why();
    EXPECT_LT(pair.server->why().message().size(), 2000u);
  }
}

TEST_P(FabricConformanceTest, FirstReasonCounts) {
  FabricPair pair = Connected();
  pair.client->Run([&] {
    pair.client->Disconnect(EINTR, "first");
    pair.client->Disconnect(EIO, "second");
  });
  ASSERT_TRUE(pair.client->WaitUntilDown());
  EXPECT_EQ(pair.client->error(), EINTR);
  // The harness checks that nothing is called after OnDisconnected().
  pair.client->Run([&] { pair.client->connection()->Disconnect(absl::InternalError("third")); });
  absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(pair.client->error(), EINTR);
  ASSERT_TRUE(pair.server->WaitUntilDown());
  if (GetParam().carries_reason) {
    EXPECT_EQ(pair.server->error(), EINTR);
  }
}

TEST_P(FabricConformanceTest, BothDisconnectAtOnce) {
  for (int i = 0; i < 20; ++i) {
    FabricPair pair = Connected();
    client_thread_->ring()->Post([&] { pair.client->Disconnect(EINTR, "client"); });
    server_thread_->ring()->Post([&] { pair.server->Disconnect(EINTR, "server"); });
    ASSERT_TRUE(pair.client->WaitUntilDown());
    ASSERT_TRUE(pair.server->WaitUntilDown());
  }
}

// Callbacks are never called from within a call of ours.
TEST_P(FabricConformanceTest, DisconnectReportsLater) {
  FabricPair pair = Connected();
  pair.client->Run([&] {
    pair.client->Disconnect(EINTR, "later");
    EXPECT_FALSE(pair.client->down());
  });
  EXPECT_TRUE(pair.client->WaitUntilDown());
}

TEST_P(FabricConformanceTest, DisconnectFromOnEstablished) {
  for (bool from_client : {true, false}) {
    std::unique_ptr<FabricEnd> client = ClientEnd();
    std::unique_ptr<FabricEnd> server = ServerEnd();
    FabricEnd* one = from_client ? client.get() : server.get();
    one->on_established = [&] { one->Disconnect(EINTR, "no"); };
    client->CreateFor(client_fabric_.get(), Path());
    client->Connect(PrivateData(""));
    std::unique_ptr<IncomingConnection> incoming = acceptor_->Next();
    ASSERT_NE(incoming, nullptr);
    server->CreateFor(incoming.get());
    server->Accept(PrivateData(""));
    ASSERT_TRUE(client->WaitUntilDown());
    ASSERT_TRUE(server->WaitUntilDown());
    EXPECT_TRUE(one->established());
    EXPECT_EQ(one->error(), EINTR);
  }
}

TEST_P(FabricConformanceTest, DisconnectFromOnReceipt) {
  std::unique_ptr<FabricEnd> client = ClientEnd();
  std::unique_ptr<FabricEnd> server = ServerEnd();
  server->on_receipt = [&](const Receipt& receipt) {
    if (receipt.immediate == 2) server->Disconnect(EINTR, "enough");
  };
  Connect(client.get(), server.get());
  client->Run([&] {
    for (int i = 0; i < 40; ++i) {
      client->Post(client->Request(Opcode::kSendWithImmediate, 0, 100 * i, i));
    }
  });
  ASSERT_TRUE(server->WaitUntilDown());
  ASSERT_TRUE(client->WaitUntilDown());
  EXPECT_EQ(server->message_count(), 3u) << "nothing is reported after Disconnect()";
  EXPECT_EQ(server->error(), EINTR);
}

// What is posted together may be handed to the network together: the goodbye must come behind the
// requests that are out, and not in the middle of one.
TEST_P(FabricConformanceTest, DisconnectFromOnSent) {
  const EndOptions options = {.window_bytes = 1 << 20, .source_bytes = 1 << 20};
  for (size_t bytes : {0, 1, 100, 4096, 100'000, 1 << 20}) {
    for (int last : {0, 1, 7, 19}) {
      std::unique_ptr<FabricEnd> client = ClientEnd(options);
      std::unique_ptr<FabricEnd> server = ServerEnd(options);
      client->on_sent = [&](uint64_t id) {
        if (id == static_cast<uint64_t>(last)) client->Disconnect(EINTR, "sent");
      };
      Connect(client.get(), server.get());
      client->Run([&] {
        for (int i = 0; i < 20; ++i) {
          WorkRequest request = client->WriteRequest(Opcode::kWriteWithImmediate, 0, bytes,
                                                     server->window_region(), 0, i);
          request.signalled = true;
          request.id = i;
          client->Post(request);
        }
      });
      ASSERT_TRUE(client->WaitUntilDown());
      ASSERT_TRUE(server->WaitUntilDown());
      EXPECT_EQ(client->sent().size(), static_cast<size_t>(last) + 1);
      EXPECT_EQ(client->error(), EINTR);
      EXPECT_FALSE(IsViolation(server->why())) << server->why();
      if (GetParam().carries_reason) {
        EXPECT_EQ(server->error(), EINTR) << server->why();
      }
    }
  }
}

TEST_P(FabricConformanceTest, CallsFromOnDisconnectedDoNothing) {
  FabricPair pair = Connected();
  pair.client->on_disconnected = [&] {
    Connection* connection = pair.client->connection();
    connection->Post(pair.client->Request(Opcode::kSend, 0, 10));
    connection->PostReceive({}, 1);
    connection->Disconnect(absl::InternalError("again"));
  };
  pair.client->Disconnect(EINTR, "first");
  ASSERT_TRUE(pair.client->WaitUntilDown());
  EXPECT_EQ(pair.client->error(), EINTR);
}

TEST_P(FabricConformanceTest, RequestsAfterDisconnectAreIgnored) {
  FabricPair pair = Connected();
  pair.client->Run([&] {
    pair.client->Disconnect(EINTR, "first");
    for (int i = 0; i < 1000; ++i) {
      WorkRequest request = pair.client->Request(Opcode::kSend, 0, 10);
      request.signalled = true;
      pair.client->Post(request);
    }
    pair.client->connection()->PostReceive({}, 1);
  });
  ASSERT_TRUE(pair.client->WaitUntilDown());
  ASSERT_TRUE(pair.server->WaitUntilDown());
  EXPECT_EQ(pair.client->error(), EINTR);
  EXPECT_EQ(pair.client->sent().size(), 0u);
  EXPECT_EQ(pair.server->message_count(), 0u);
  EXPECT_FALSE(IsViolation(pair.server->why())) << pair.server->why();
}

// Posts writes for as long as the connection lives.
void WriteForEver(FabricEnd* from, FabricEnd* to, size_t bytes) {
  const Region window = to->window_region();  // the other end may be gone before this one knows
  from->on_sent = [=](uint64_t) {
    WorkRequest request = from->WriteRequest(Opcode::kWrite, 0, bytes, window, 0);
    request.signalled = true;
    from->connection()->Post(request);
  };
  from->Run([=] {
    for (int i = 0; i < 8; ++i) from->on_sent(0);
  });
}

TEST_P(FabricConformanceTest, DisconnectInTheMiddleOfTraffic) {
  const EndOptions options = {.window_bytes = 3 << 20, .source_bytes = 3 << 20};
  for (size_t bytes : {500, 70'000, 3 << 20}) {
    for (bool from_client : {true, false}) {
      FabricPair pair = Connected(options);
      WriteForEver(pair.client.get(), pair.server.get(), bytes);
      WriteForEver(pair.server.get(), pair.client.get(), bytes);
      ASSERT_TRUE(pair.client->WaitForSent(20)) << pair.client->why();
      FabricEnd* one = from_client ? pair.client.get() : pair.server.get();
      FabricEnd* other = from_client ? pair.server.get() : pair.client.get();
      const absl::Time start = absl::Now();
      one->Disconnect(EINTR, "stop");
      ASSERT_TRUE(one->WaitUntilDown());
      ASSERT_TRUE(other->WaitUntilDown());
      EXPECT_LT(absl::Now() - start, GetParam().close_bound);
      EXPECT_FALSE(IsViolation(other->why())) << other->why();
      if (GetParam().carries_reason) {
        EXPECT_EQ(other->error(), EINTR) << other->why();
      }
    }
  }
}

TEST_P(FabricConformanceTest, MemoryIsLeftAloneOnceDown) {
  const EndOptions options = {.window_bytes = 1 << 20, .source_bytes = 1 << 20};
  for (size_t bytes : {5000, 1 << 20}) {
    FabricPair pair = Connected(options);
    WriteForEver(pair.client.get(), pair.server.get(), bytes);
    ASSERT_TRUE(pair.client->WaitForSent(20)) << pair.client->why();
    pair.server->Disconnect(EINTR, "stop");
    ASSERT_TRUE(pair.server->WaitUntilDown());
    std::fill(pair.server->window().begin(), pair.server->window().end(), 0x5A);
    absl::SleepFor(absl::Milliseconds(20));
    EXPECT_TRUE(AllBytesAre(0x5A, pair.server->window()));
  }
}

// While the peer's thread does nothing it cannot answer; the end comes all the same.
TEST_P(FabricConformanceTest, DisconnectFromAPeerThatStalls) {
  const EndOptions options = {.window_bytes = 1 << 20, .source_bytes = 1 << 20};
  FabricPair pair = Connected(options);
  absl::Notification stalled;
  absl::Notification go_on;
  server_thread_->ring()->Post([&] {
    stalled.Notify();
    go_on.WaitForNotification();
  });
  stalled.WaitForNotification();
  pair.client->Run([&] {
    for (int i = 0; i < 32; ++i) {
      pair.client->Post(
          pair.client->WriteRequest(Opcode::kWrite, 0, 1 << 20, pair.server->window_region(), 0));
    }
  });
  const absl::Time start = absl::Now();
  pair.client->Disconnect(EINTR, "no patience");
  EXPECT_TRUE(pair.client->WaitUntilDown());
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  EXPECT_EQ(pair.client->error(), EINTR);
  go_on.Notify();
  EXPECT_TRUE(pair.server->WaitUntilDown());
}

TEST_P(FabricConformanceTest, DestroyedFromAnotherThreadOnceDown) {
  for (int i = 0; i < 50; ++i) {
    FabricPair pair = Connected({.receives = 4, .window_bytes = 1, .source_bytes = 1});
    pair.client->Disconnect(EINTR, "stop");
    // The harness destroys them on this thread as soon as they are down.
  }
}

TEST_P(FabricConformanceTest, OneEndsAndTheOthersGoOn) {
  std::vector<FabricPair> pairs;
  for (int i = 0; i < 8; ++i) pairs.push_back(Connected());
  for (int i = 0; i < 8; i += 2) pairs[i].client->Disconnect(EINTR, "stop");
  for (int i = 1; i < 8; i += 2) ExpectToWork(&pairs[i]);
  for (int i = 0; i < 8; i += 2) EXPECT_TRUE(pairs[i].server->WaitUntilDown());
}

TEST_P(FabricConformanceTest, NewConnectionsFromWithinOnDisconnected) {
  FabricPair pair = Connected();
  FabricEnd second(client_thread_.get());
  second.CreateFor(client_fabric_.get(), Path());
  pair.client->on_disconnected = [&] { second.Connect(PrivateData("again")); };
  pair.server->Disconnect(EINTR, "once");
  std::unique_ptr<IncomingConnection> incoming = acceptor_->Next();
  ASSERT_NE(incoming, nullptr);
  incoming->Reject(PrivateData(""));
  EXPECT_TRUE(second.WaitUntilDown());
  EXPECT_EQ(second.error(), ECONNREFUSED);
}

}  // namespace
}  // namespace rnbd::rtrs
