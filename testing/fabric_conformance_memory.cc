#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"
#include "testing/fabric_conformance.h"

// Registered memory: what may be reached, and that nothing else is.
namespace rnbd::rtrs {
namespace {

constexpr uint32_t kWindow = 64 << 10;

// A write that must not be carried out.
struct BadWrite {
  std::string name;
  std::function<void(FabricPair*, WorkRequest*)> spoil;
};

std::vector<BadWrite> BadWrites() {
  auto at = [](uint64_t offset, uint32_t length) {
    return [=](FabricPair* pair, WorkRequest* request) {
      request->remote_address = pair->server->window_region().address + offset;
      request->spans[0].length = length;
    };
  };
  return {
      {"WrongKey", [](FabricPair*, WorkRequest* request) { request->key ^= 0x40000000; }},
      {"WrongLowBitsOfTheKey", [](FabricPair*, WorkRequest* request) { request->key ^= 1; }},
      {"KeyOfNothing", [](FabricPair*, WorkRequest* request) { request->key ^= 7; }},
      {"KeyZero", [](FabricPair*, WorkRequest* request) { request->key = 0; }},
      {"MemoryNotForWriting",
       [](FabricPair* pair, WorkRequest* request) {
         request->key = pair->server->source_region().remote_key;
         request->remote_address = pair->server->source_region().address;
       }},
      {"OneByteBehindTheEnd", at(kWindow, 1)},
      {"OverTheEnd", at(kWindow - 99, 100)},
      {"LongerThanTheRegion", at(0, kWindow + 1)},
      {"FarBehind", at(uint64_t{1} << 40, 100)},
      {"OneByteBefore", at(~uint64_t{0}, 1)},
      {"FromBeforeIntoIt", at(~uint64_t{0}, 100)},
      {"WrapsToTheStart", at(~uint64_t{0} - 49, 100)},
  };
}

TEST_P(FabricConformanceTest, WritesOutsideOfWhatWasGivenCloseTheConnection) {
  FabricPair bystanders = Connected();
  const EndOptions writer = {.source_bytes = 2 * kWindow};
  for (const BadWrite& bad : BadWrites()) {
    SCOPED_TRACE(bad.name);
    for (Opcode opcode : {Opcode::kWrite, Opcode::kWriteWithImmediate}) {
      FabricPair pair = Connected(writer, {.window_bytes = kWindow, .source_bytes = kWindow});
      std::fill(pair.client->source().begin(), pair.client->source().end(), 0xFF);
      WorkRequest request =
          pair.client->WriteRequest(opcode, 0, 100, pair.server->window_region(), 0);
      bad.spoil(&pair, &request);
      pair.client->Post(request);
      ASSERT_TRUE(pair.server->WaitUntilDown());
      EXPECT_TRUE(ToldViolation(pair.server->why())) << pair.server->why();
      ASSERT_TRUE(pair.client->WaitUntilDown());
      EXPECT_FALSE(IsViolation(pair.client->why())) << pair.client->why();
      EXPECT_EQ(pair.server->message_count(), 0u);
      if (GetParam().whole_requests) {
        EXPECT_TRUE(AllBytesAre(0, pair.server->window()));
      }
      EXPECT_TRUE(AllBytesAre(0, pair.server->source()));
    }
  }
  ExpectToWork(&bystanders);
}

TEST_P(FabricConformanceTest, RegionsCanBeWrittenToTheirLastByte) {
  FabricPair pair = Connected({.source_bytes = kWindow}, {.window_bytes = kWindow});
  const std::vector<uint8_t> text = Pattern(kWindow, 8);
  std::copy(text.begin(), text.end(), pair.client->source().begin());
  const Region& window = pair.server->window_region();
  pair.client->Run([&] {
    FabricEnd& client = *pair.client;
    client.Post(client.WriteRequest(Opcode::kWriteWithImmediate, 0, kWindow, window, 0));
    client.Post(client.WriteRequest(Opcode::kWriteWithImmediate, 0, 1, window, kWindow - 1));
    client.Post(client.WriteRequest(Opcode::kWriteWithImmediate, 0, 0, window, kWindow));
  });
  ASSERT_TRUE(pair.server->WaitForMessages(3)) << pair.server->why();
  EXPECT_TRUE(SameBytes(pair.server->window().first(kWindow - 1),
                        absl::MakeConstSpan(text).first(kWindow - 1)));
  EXPECT_EQ(pair.server->window().back(), text[0]);
}

TEST_P(FabricConformanceTest, KeysAreWorthNothingOnAnotherPath) {
  FabricPair one = Connected();
  FabricPair other = Connected();
  other.client->Post(
      other.client->WriteRequest(Opcode::kWrite, 0, 100, one.server->window_region(), 0));
  ASSERT_TRUE(other.server->WaitUntilDown());
  EXPECT_TRUE(ToldViolation(other.server->why())) << other.server->why();
  ExpectToWork(&one);
}

TEST_P(FabricConformanceTest, KeysAreWorthNothingAfterReconnecting) {
  Region old;
  {
    FabricPair first = Connected();
    old = first.server->window_region();
  }
  FabricPair second = Connected();
  EXPECT_NE(second.server->window_region().remote_key, old.remote_key);
  second.client->Post(second.client->WriteRequest(Opcode::kWrite, 0, 100, old, 0));
  ASSERT_TRUE(second.server->WaitUntilDown());
  EXPECT_TRUE(ToldViolation(second.server->why())) << second.server->why();
}

// The connections of a path reach the same memory, each from its own thread.
TEST_P(FabricConformanceTest, ConnectionsOfAPathShareItsMemory) {
  FabricPair first = Connected();
  FabricEnd client(server_thread_.get(), {.window_bytes = 0});
  FabricEnd server(client_thread_.get(), {.window_bytes = 0});
  client.CreateFor(client_fabric_.get(), Path(), first.client->domain());
  client.Connect(PrivateData(""));
  std::unique_ptr<IncomingConnection> incoming = acceptor_->Next();
  ASSERT_NE(incoming, nullptr);
  server.CreateFor(incoming.get(), first.server->domain());
  server.Accept(PrivateData(""));
  ASSERT_TRUE(client.WaitUntilEstablished()) << client.why();

  const std::vector<uint8_t> text = Pattern(100, 9);
  std::copy(text.begin(), text.end(), client.source().begin());
  client.Post(
      client.WriteRequest(Opcode::kWriteWithImmediate, 0, 100, first.server->window_region(), 500));
  ASSERT_TRUE(server.WaitForMessages(1)) << server.why();
  EXPECT_TRUE(SameBytes(first.server->window().subspan(500, 100), text));

  // One that breaks leaves the other as it is.
  client.Post(client.WriteRequest(Opcode::kWrite, 0, 100, {}, 0));
  ASSERT_TRUE(server.WaitUntilDown());
  EXPECT_TRUE(ToldViolation(server.why())) << server.why();
  ExpectToWork(&first);
}

TEST_P(FabricConformanceTest, MemoryCanBeRegisteredWhileConnected) {
  FabricPair pair = Connected();
  std::vector<uint8_t> late(1000);
  absl::StatusOr<Region> region = pair.server->domain()->Register(absl::MakeSpan(late), true);
  ASSERT_TRUE(region.ok()) << region.status();
  std::fill(pair.client->source().begin(), pair.client->source().end(), 0xAB);
  pair.client->Post(pair.client->WriteRequest(Opcode::kWriteWithImmediate, 0, 1000, *region, 0));
  ASSERT_TRUE(pair.server->WaitForMessages(1)) << pair.server->why();
  EXPECT_TRUE(AllBytesAre(0xAB, late));
  // Before what the domain names.
  pair.client->Disconnect(ESHUTDOWN, "done");
  EXPECT_TRUE(pair.server->WaitUntilDown());
}

TEST_P(FabricConformanceTest, DomainsHoldALimitedNumberOfRegions) {
  absl::StatusOr<std::unique_ptr<Domain>> domain = client_fabric_->CreateDomain(Path());
  ASSERT_TRUE(domain.ok()) << domain.status();
  std::vector<uint8_t> memory(4096 * Domain::kMaxRegions);
  for (size_t i = 0; i < Domain::kMaxRegions; ++i) {
    const absl::StatusOr<Region> region =
        (*domain)->Register(absl::MakeSpan(memory).subspan(4096 * i, 4096), i % 2 == 0);
    EXPECT_TRUE(region.ok()) << region.status();
  }
  const absl::StatusOr<Region> more =
      (*domain)->Register(absl::MakeSpan(memory).subspan(0, 4096), false);
  EXPECT_EQ(StatusToErrno(more.status()), ENOSPC) << more.status();
}

TEST_P(FabricConformanceTest, MemoryOfNoRegionIsSentOnlyWhereTheFabricSaysSo) {
  FabricPair pair = Connected();
  const std::vector<uint8_t> text = Pattern(100, 10);
  WorkRequest request = pair.client->WriteRequest(Opcode::kWriteWithImmediate, 0, 100,
                                                  pair.server->window_region(), 7);
  request.spans[0] = {text.data(), 100, LocalSpan::kAnyMemory};
  bool sends = false;
  pair.client->Run([&] { sends = pair.client->connection()->SendsAnyMemory(); });
  EXPECT_EQ(sends, GetParam().sends_any_memory);
  pair.client->Post(request);
  if (sends) {
    ASSERT_TRUE(pair.server->WaitForMessages(1)) << pair.server->why();
    EXPECT_TRUE(SameBytes(pair.server->window().subspan(7, 100), text));
    ExpectToWork(&pair);
  } else {
    ASSERT_TRUE(pair.client->WaitUntilDown());
    EXPECT_EQ(pair.client->error(), EFAULT) << pair.client->why();
    EXPECT_EQ(pair.server->message_count(), 0u);
  }
}

// Mistakes of our own are found as well, before they become a card's.
struct BadRequest {
  std::string name;
  int error;
  std::function<void(FabricPair*, WorkRequest*)> spoil;
};

std::vector<BadRequest> BadRequests() {
  return {
      {"WrongLocalKey", EFAULT,
       [](FabricPair*, WorkRequest* request) { request->spans[0].key ^= 0x10000000; }},
      {"MemoryNotRegistered", EFAULT,
       [](FabricPair*, WorkRequest* request) {
         static const uint8_t elsewhere[100] = {};
         request->spans[0].data = elsewhere;
       }},
      {"BehindTheRegion", EFAULT,
       [](FabricPair* pair, WorkRequest* request) {
         request->spans[0].data += pair->client->source().size() - 99;
       }},
      {"BeforeTheRegion", EFAULT,
       [](FabricPair*, WorkRequest* request) { request->spans[0].data -= 1; }},
      {"LongerThanTheRegion", EFAULT,
       [](FabricPair*, WorkRequest* request) { request->spans[0].length = 0xFFFFFFFF; }},
      {"TooManySpans", EINVAL,
       [](FabricPair*, WorkRequest* request) { request->span_count = kMaxLocalSpans + 1; }},
      {"TooMuch", EMSGSIZE,
       [](FabricPair* pair, WorkRequest* request) {
         for (LocalSpan& span : request->spans) {
           span = pair->client->SourceSpan(0, pair->client->source().size());
         }
         request->span_count = kMaxLocalSpans;
       }},
  };
}

TEST_P(FabricConformanceTest, RequestsThatMustNotBePostedClose) {
  // Four times as much is more than one request may carry.
  const EndOptions large = {.source_bytes = kMaxPayload / 4 + 1};
  for (const BadRequest& bad : BadRequests()) {
    SCOPED_TRACE(bad.name);
    FabricPair pair = Connected(large, {});
    WorkRequest request = pair.client->Request(Opcode::kSend, 0, 100);
    bad.spoil(&pair, &request);
    pair.client->Post(request);
    ASSERT_TRUE(pair.client->WaitUntilDown());
    EXPECT_EQ(pair.client->error(), bad.error) << pair.client->why();
    ASSERT_TRUE(pair.server->WaitUntilDown());
    EXPECT_EQ(pair.server->message_count(), 0u);
  }
}

}  // namespace
}  // namespace rnbd::rtrs
