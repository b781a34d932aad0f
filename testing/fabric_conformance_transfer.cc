#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "testing/fabric_conformance.h"

// Requests, receives, their order and their limits.
namespace rnbd::rtrs {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;

void Fill(absl::Span<uint8_t> memory, absl::Span<const uint8_t> data) {
  std::copy(data.begin(), data.end(), memory.begin());
}

TEST_P(FabricConformanceTest, SendsEveryOperation) {
  FabricPair pair = Connected();
  FabricEnd& client = *pair.client;
  FabricEnd& server = *pair.server;
  const std::vector<uint8_t> text = Pattern(600, 1);
  Fill(client.source(), text);

  const Region& window = server.window_region();
  client.Run([&] {
    Connection* connection = client.connection();
    connection->Post(client.Request(Opcode::kSend, 0, 100));
    connection->Post(client.Request(Opcode::kSendWithImmediate, 100, 100, 0xA1B2C3D4));
    connection->Post(client.WriteRequest(Opcode::kWrite, 300, 100, window, 1000));
    connection->Post(client.WriteRequest(Opcode::kWriteWithImmediate, 400, 200, window, 2000, 7));
  });
  ASSERT_TRUE(server.WaitForMessages(3)) << server.why();

  const std::vector<FabricEnd::Message> messages = server.messages();
  const absl::Span<const uint8_t> sent(text);
  EXPECT_THAT(messages[0].data, ElementsAreArray(sent.subspan(0, 100)));
  EXPECT_FALSE(messages[0].immediate.has_value());
  EXPECT_FALSE(messages[0].invalidated_key.has_value());
  EXPECT_THAT(messages[1].data, ElementsAreArray(sent.subspan(100, 100)));
  EXPECT_EQ(messages[1].immediate, 0xA1B2C3D4u);
  EXPECT_FALSE(messages[1].invalidated_key.has_value());
  EXPECT_THAT(messages[2].data, IsEmpty());
  EXPECT_EQ(messages[2].immediate, 7u);
  EXPECT_FALSE(messages[2].invalidated_key.has_value());
  EXPECT_TRUE(SameBytes(server.window().subspan(1000, 100), sent.subspan(300, 100)));
  EXPECT_TRUE(SameBytes(server.window().subspan(2000, 200), sent.subspan(400, 200)));
  EXPECT_TRUE(AllBytesAre(0, server.window().subspan(0, 1000)));
  EXPECT_TRUE(AllBytesAre(0, server.window().subspan(1100, 900)));
  EXPECT_TRUE(AllBytesAre(0, server.window().subspan(2200)));
}

TEST_P(FabricConformanceTest, SendsInvalidations) {
  if (!GetParam().invalidates_regions) GTEST_SKIP() << "only keys of another kind";
  FabricPair pair = Connected();
  Fill(pair.client->source(), Pattern(100, 1));
  WorkRequest request = pair.client->Request(Opcode::kSendWithInvalidate, 0, 100);
  request.key = pair.server->window_region().remote_key;
  pair.client->Post(request);
  ASSERT_TRUE(pair.server->WaitForMessages(1)) << pair.server->why();
  const FabricEnd::Message message = pair.server->messages().front();
  EXPECT_THAT(message.data, ElementsAreArray(Pattern(100, 1)));
  EXPECT_FALSE(message.immediate.has_value());
  EXPECT_EQ(message.invalidated_key, pair.server->window_region().remote_key);
}

TEST_P(FabricConformanceTest, ImmediatesMayBeAnyNumber) {
  FabricPair pair = Connected();
  pair.client->Run([&] {
    for (uint32_t immediate : {0u, 1u, 0x7FFFFFFFu, 0x80000000u, 0xFFFFFFFFu}) {
      pair.client->connection()->Post(
          pair.client->Request(Opcode::kWriteWithImmediate, 0, 0, immediate));
    }
  });
  ASSERT_TRUE(pair.server->WaitForMessages(5));
  std::vector<uint32_t> received;
  for (const FabricEnd::Message& message : pair.server->messages()) {
    received.push_back(message.immediate.value());
  }
  EXPECT_THAT(received, ElementsAre(0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF));
}

TEST_P(FabricConformanceTest, GathersSpans) {
  FabricPair pair = Connected();
  FabricEnd& client = *pair.client;
  const std::vector<uint8_t> text = Pattern(60'000, 3);
  Fill(client.source(), text);
  WorkRequest request =
      client.WriteRequest(Opcode::kWriteWithImmediate, 50'000, 1, pair.server->window_region(), 9);
  request.spans[request.span_count++] = client.SourceSpan(0, 40'000);
  request.spans[request.span_count++] = client.SourceSpan(7, 0);
  request.spans[request.span_count++] = client.SourceSpan(45'000, 517);
  ASSERT_EQ(request.span_count, kMaxLocalSpans);
  WorkRequest message = client.Request(Opcode::kSend, 3, 5);
  message.spans[message.span_count++] = client.SourceSpan(1000, 11);
  message.spans[message.span_count++] = client.SourceSpan(2, 1);
  client.Run([&] {
    client.connection()->Post(request);
    client.connection()->Post(message);
  });
  ASSERT_TRUE(pair.server->WaitForMessages(2)) << pair.server->why();

  const absl::Span<const uint8_t> sent(text);
  const absl::Span<const uint8_t> window = pair.server->window();
  EXPECT_EQ(window[9], sent[50'000]);
  EXPECT_TRUE(SameBytes(window.subspan(10, 40'000), sent.subspan(0, 40'000)));
  EXPECT_TRUE(SameBytes(window.subspan(40'010, 517), sent.subspan(45'000, 517)));
  EXPECT_TRUE(AllBytesAre(0, window.subspan(40'527)));
  std::vector<uint8_t> joined(sent.begin() + 3, sent.begin() + 8);
  joined.insert(joined.end(), sent.begin() + 1000, sent.begin() + 1011);
  joined.push_back(sent[2]);
  EXPECT_THAT(pair.server->messages()[1].data, ElementsAreArray(joined));
}

TEST_P(FabricConformanceTest, NothingCanBeSentToo) {
  FabricPair pair = Connected();
  FabricEnd& client = *pair.client;
  // Without a payload, key and address mean nothing.
  WorkRequest nothing = client.Request(Opcode::kWrite, 0, 0);
  nothing.key = 0xDEADBEEF;
  nothing.remote_address = ~uint64_t{0};
  WorkRequest bare = nothing;
  bare.opcode = Opcode::kWriteWithImmediate;
  bare.immediate = 5;
  WorkRequest empty_spans = client.Request(Opcode::kSend, 0, 0);
  empty_spans.spans[empty_spans.span_count++] = client.SourceSpan(0, 0);
  empty_spans.spans[empty_spans.span_count++] = LocalSpan{};
  client.Run([&] {
    client.connection()->Post(nothing);
    client.connection()->Post(bare);
    client.connection()->Post(client.Request(Opcode::kSend, 0, 0));
    client.connection()->Post(empty_spans);
  });
  ASSERT_TRUE(pair.server->WaitForMessages(3)) << pair.server->why();
  for (const FabricEnd::Message& message : pair.server->messages()) {
    EXPECT_THAT(message.data, IsEmpty());
  }
  EXPECT_EQ(pair.server->messages()[0].immediate, 5u);
  EXPECT_FALSE(pair.server->messages()[1].immediate.has_value());
  EXPECT_TRUE(AllBytesAre(0, pair.server->window()));
}

TEST_P(FabricConformanceTest, WritesAreInPlaceBeforeTheImmediateBehindThem) {
  EndOptions options = {.limits = {.send_requests = 256, .receives = 64},
                        .window_bytes = 4 << 20,
                        .source_bytes = 4 << 20};
  std::unique_ptr<FabricEnd> client = ClientEnd(options);
  std::unique_ptr<FabricEnd> server = ServerEnd(options);
  // Sizes around those that a fabric may treat differently.
  const std::vector<size_t> sizes = {1,    31,     32,    33,      4095,   4096,
                                     4097, 32768,  65535, 131072,  131073, 262144,
                                     5,    524288, 1,     1048576, 3,      65536};
  const std::vector<uint8_t> text = Pattern(options.source_bytes, 4);
  Fill(client->source(), text);
  std::vector<size_t> bad;
  server->on_receipt = [&](const Receipt& receipt) {
    const size_t bytes = receipt.immediate;
    const absl::Span<uint8_t> window = server->window().subspan(0, bytes);
    if (!std::equal(window.begin(), window.end(), text.begin())) bad.push_back(bytes);
    // The next one has to bring it again.
    std::fill(window.begin(), window.end(), 0);
    server->Post(server->Request(Opcode::kWriteWithImmediate, 0, 0, receipt.immediate));
  };
  Connect(client.get(), server.get());

  for (size_t bytes : sizes) {
    const size_t done = client->message_count();
    client->Run([&] {
      // In pieces, then in one with the immediate on it.
      const size_t piece = bytes / 7 + 1;
      for (size_t at = 0; at < bytes; at += piece) {
        client->Post(client->WriteRequest(Opcode::kWrite, at, std::min(piece, bytes - at),
                                          server->window_region(), at));
      }
      client->Post(client->Request(Opcode::kWriteWithImmediate, 0, 0, bytes));
    });
    ASSERT_TRUE(client->WaitForMessages(done + 1)) << client->why();
    client->Post(client->WriteRequest(Opcode::kWriteWithImmediate, 0, bytes,
                                      server->window_region(), 0, bytes));
    ASSERT_TRUE(client->WaitForMessages(done + 2)) << client->why();
  }
  EXPECT_THAT(bad, IsEmpty());
}

TEST_P(FabricConformanceTest, UsesReceivesInTheOrderPosted) {
  FabricPair pair = Connected({}, {.limits = {.send_requests = 4, .receives = 8}, .receives = 0});
  FabricEnd& client = *pair.client;
  FabricEnd& server = *pair.server;
  Fill(client.source(), Pattern(1000, 5));
  std::vector<std::vector<uint8_t>> buffers(4, std::vector<uint8_t>(100));
  server.Run([&] {
    Connection* connection = server.connection();
    connection->PostReceive(absl::MakeSpan(buffers[0]), 1);
    connection->PostReceive({}, 2);  // for immediates
    connection->PostReceive(absl::MakeSpan(buffers[1]), 2);
    connection->PostReceive(absl::MakeSpan(buffers[2]), 0);  // none
    connection->PostReceive(absl::MakeSpan(buffers[3]), 1);
    connection->PostReceive(absl::MakeSpan(buffers[0]), 1);
  });
  std::vector<const uint8_t*> places;
  server.on_receipt = [&](const Receipt& receipt) { places.push_back(receipt.data.data()); };
  client.Run([&] {
    Connection* connection = client.connection();
    connection->Post(client.Request(Opcode::kSend, 0, 10));
    connection->Post(
        client.WriteRequest(Opcode::kWriteWithImmediate, 0, 500, server.window_region(), 0));
    connection->Post(client.Request(Opcode::kWriteWithImmediate, 0, 0));
    connection->Post(client.Request(Opcode::kSend, 100, 20));
    connection->Post(client.Request(Opcode::kSendWithImmediate, 200, 30, 1));
    // Takes a receive with a buffer, and leaves the buffer alone.
    connection->Post(
        client.WriteRequest(Opcode::kWriteWithImmediate, 0, 500, server.window_region(), 0));
    connection->Post(client.Request(Opcode::kSend, 300, 100));
  });
  ASSERT_TRUE(server.WaitForMessages(7)) << server.why();
  EXPECT_EQ(places[0], buffers[0].data());
  EXPECT_EQ(places[3], buffers[1].data());
  EXPECT_EQ(places[4], buffers[1].data());
  EXPECT_EQ(places[6], buffers[0].data());
  const std::vector<uint8_t> text = Pattern(1000, 5);
  const absl::Span<const uint8_t> sent(text);
  EXPECT_THAT(server.messages()[4].data, ElementsAreArray(sent.subspan(200, 30)));
  EXPECT_THAT(server.messages()[6].data, ElementsAreArray(sent.subspan(300, 100)));
  EXPECT_TRUE(AllBytesAre(0, buffers[2]));
  EXPECT_TRUE(AllBytesAre(0, buffers[3]));
}

TEST_P(FabricConformanceTest, ReceivesPostedBeforeConnectingAreThereFirst) {
  std::unique_ptr<FabricEnd> client = ClientEnd();
  std::unique_ptr<FabricEnd> server = ServerEnd(
      {.limits = {.send_requests = 1, .receives = 3}, .receives = 3, .post_again = false});
  // The first requests leave in the callback that says that this is possible.
  client->on_established = [&] {
    for (int i = 0; i < 3; ++i) client->Post(client->Request(Opcode::kSend, 0, 4096));
  };
  Connect(client.get(), server.get());
  EXPECT_TRUE(server->WaitForMessages(3)) << server->why();
}

TEST_P(FabricConformanceTest, ReceiveIsNotPostedAgain) {
  if (!GetParam().needs_posted_receives) GTEST_SKIP() << "requests wait for receives";
  FabricPair pair = Connected(
      {}, {.limits = {.send_requests = 4, .receives = 8}, .receives = 2, .post_again = false});
  pair.client->Run([&] {
    for (int i = 0; i < 3; ++i) {
      pair.client->Post(pair.client->Request(Opcode::kWriteWithImmediate, 0, 0, i));
    }
  });
  ASSERT_TRUE(pair.server->WaitUntilDown());
  EXPECT_EQ(pair.server->message_count(), 2u);
  EXPECT_TRUE(ToldViolation(pair.server->why())) << pair.server->why();
}

TEST_P(FabricConformanceTest, MessageMustFitItsReceive) {
  FabricPair pair = Connected({}, {.receive_bytes = 100});
  pair.client->Post(pair.client->Request(Opcode::kSend, 0, 100));
  ASSERT_TRUE(pair.server->WaitForMessages(1));
  pair.client->Post(pair.client->Request(Opcode::kSend, 0, 101));
  ASSERT_TRUE(pair.server->WaitUntilDown());
  EXPECT_TRUE(ToldViolation(pair.server->why())) << pair.server->why();
  EXPECT_EQ(pair.server->message_count(), 1u);
  ASSERT_TRUE(pair.client->WaitUntilDown());
  EXPECT_FALSE(IsViolation(pair.client->why())) << pair.client->why();
}

TEST_P(FabricConformanceTest, SignalledRequestsAreReportedInOrder) {
  FabricPair pair = Connected();
  FabricEnd& client = *pair.client;
  std::vector<uint64_t> expected;
  for (int round = 0; round < 10; ++round) {
    client.Run([&] {
      for (uint64_t i = 0; i < 60; ++i) {
        WorkRequest request =
            client.WriteRequest(Opcode::kWrite, 0, 1 + 37 * i, pair.server->window_region(), 0);
        request.signalled = i % 3 != 1;
        request.id = (uint64_t{0xFFFFFFFF} << 32) + round * 100 + i;
        if (request.signalled) expected.push_back(request.id);
        client.Post(request);
      }
    });
    ASSERT_TRUE(client.WaitForSent(expected.size())) << client.why();
  }
  EXPECT_THAT(client.sent(), ElementsAreArray(expected));
  EXPECT_THAT(pair.server->sent(), IsEmpty());
}

TEST_P(FabricConformanceTest, MemoryIsFreeOnceSent) {
  const EndOptions options = {.window_bytes = 1 << 20, .source_bytes = 1 << 20};
  std::unique_ptr<FabricEnd> client = ClientEnd(options);
  std::unique_ptr<FabricEnd> server = ServerEnd(options);
  const std::vector<uint8_t> text = Pattern(options.source_bytes, 6);
  client->on_sent = [&](uint64_t) {
    // Also frees what was posted before it.
    std::fill(client->source().begin(), client->source().end(), 0xEE);
  };
  Connect(client.get(), server.get());
  for (size_t bytes : {1, 100, 4096, 65536, 1 << 20}) {
    Fill(client->source(), text);
    const size_t done = client->sent().size();
    client->Run([&] {
      client->Post(client->WriteRequest(Opcode::kWrite, 0, bytes, server->window_region(), 0));
      WorkRequest immediate = client->Request(Opcode::kWriteWithImmediate, 0, 0);
      immediate.signalled = true;
      client->Post(immediate);
    });
    ASSERT_TRUE(client->WaitForSent(done + 1)) << client->why();
    ASSERT_TRUE(server->WaitForMessages(done + 1)) << server->why();
    EXPECT_TRUE(
        SameBytes(server->window().subspan(0, bytes), absl::MakeConstSpan(text).subspan(0, bytes)));
  }
}

TEST_P(FabricConformanceTest, TakesAsManyRequestsAsItMustHold) {
  constexpr uint32_t kLimit = 33;
  const EndOptions options = {.limits = {.send_requests = kLimit, .receives = kLimit},
                              .receives = kLimit};
  FabricPair pair = Connected(options);
  FabricEnd& client = *pair.client;
  // Several times, so that whatever counts them wraps.
  for (uint32_t round = 0; round < 5; ++round) {
    client.Run([&] {
      for (uint32_t i = 0; i < kLimit; ++i) {
        WorkRequest request = client.Request(Opcode::kSendWithImmediate, 0, 64, i);
        request.signalled = i + 1 == kLimit;
        client.Post(request);
      }
    });
    ASSERT_TRUE(client.WaitForSent(round + 1)) << client.why();
    ASSERT_TRUE(pair.server->WaitForMessages(kLimit * (round + 1))) << pair.server->why();
  }
}

TEST_P(FabricConformanceTest, OneRequestTooManyCloses) {
  if (!GetParam().whole_requests) GTEST_SKIP() << "it takes a few more";
  const EndOptions options = {.limits = {.send_requests = 8, .receives = 8}, .receives = 8};
  FabricPair pair = Connected(options);
  pair.client->Run([&] {
    for (int i = 0; i < 9; ++i) pair.client->Post(pair.client->Request(Opcode::kSend, 0, 64));
  });
  ASSERT_TRUE(pair.client->WaitUntilDown());
  EXPECT_EQ(pair.client->error(), ENOBUFS) << pair.client->why();
  ASSERT_TRUE(pair.server->WaitUntilDown());
}

TEST_P(FabricConformanceTest, OneReceiveTooManyCloses) {
  FabricPair pair = Connected({.limits = {.send_requests = 4, .receives = 8}, .receives = 8});
  pair.client->Run([&] { pair.client->connection()->PostReceive({}, 1); });
  ASSERT_TRUE(pair.client->WaitUntilDown());
  EXPECT_EQ(pair.client->error(), ENOBUFS) << pair.client->why();
  ASSERT_TRUE(pair.server->WaitUntilDown());
}

TEST_P(FabricConformanceTest, OneReceiveTooManyBeforeConnecting) {
  std::unique_ptr<FabricEnd> client =
      ClientEnd({.limits = {.send_requests = 4, .receives = 8}, .receives = 8});
  client->CreateFor(client_fabric_.get(), Path());
  client->connection()->PostReceive({}, 0xFFFFFFFF);
  client->Connect(PrivateData(""));
  ASSERT_TRUE(client->WaitUntilDown());
  EXPECT_EQ(client->error(), ENOBUFS);
  EXPECT_FALSE(client->established());
}

TEST_P(FabricConformanceTest, RequestBeforeItIsEstablishedCloses) {
  std::unique_ptr<IncomingConnection> incoming;
  const std::unique_ptr<FabricEnd> client = Connecting(&incoming);
  client->Post(client->Request(Opcode::kSend, 0, 1));
  ASSERT_TRUE(client->WaitUntilDown());
  EXPECT_EQ(client->error(), ENOTCONN);
}

// Nothing is read at the other end: requests pile up to the limit, and no further.
TEST_P(FabricConformanceTest, PeerThatStallsIsGivenUp) {
  if (!GetParam().stalls_with_the_peer) GTEST_SKIP() << "its requests are taken all the same";
  const EndOptions options = {.limits = {.send_requests = 64, .receives = 64},
                              .window_bytes = 1 << 20,
                              .source_bytes = 1 << 20};
  FabricPair pair = Connected(options);
  absl::Notification stalled;
  absl::Notification go_on;
  server_thread_->ring()->Post([&] {
    stalled.Notify();
    go_on.WaitForNotification();
  });
  stalled.WaitForNotification();
  for (int i = 0; i < 1000 && !pair.client->down(); ++i) {
    pair.client->Run([&] {
      if (pair.client->down()) return;
      pair.client->connection()->Post(
          pair.client->WriteRequest(Opcode::kWrite, 0, 1 << 20, pair.server->window_region(), 0));
    });
  }
  EXPECT_TRUE(pair.client->WaitUntilDown(absl::Seconds(5)));
  EXPECT_EQ(pair.client->error(), ENOBUFS) << pair.client->why();
  go_on.Notify();
  EXPECT_TRUE(pair.server->WaitUntilDown());
}

TEST_P(FabricConformanceTest, BothEndsOnOneThread) {
  FabricEnd client(server_thread_.get());
  FabricEnd server(server_thread_.get());
  Connect(&client, &server);
  client.on_receipt = [&](const Receipt& receipt) {
    if (receipt.immediate < 1000) {
      client.Post(client.Request(Opcode::kSendWithImmediate, 0, 50, receipt.immediate + 1));
    }
  };
  server.on_receipt = [&](const Receipt& receipt) {
    server.Post(server.Request(Opcode::kSendWithImmediate, 0, 60, receipt.immediate + 1));
  };
  client.Post(client.Request(Opcode::kSendWithImmediate, 0, 50, 0));
  ASSERT_TRUE(client.WaitForMessages(501)) << client.why();
  EXPECT_EQ(client.messages().back().immediate, 1001u);
}

}  // namespace
}  // namespace rnbd::rtrs
