// A server against clients that break the protocol: it closes their paths, and nobody else notices.

#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "common/status.h"
#include "common/wire.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/immediate.h"
#include "rtrs/messages.h"
#include "testing/raw_peer.h"
#include "testing/server_protocol_fixture.h"
#include "testing/session_fixture.h"
#include "testing/session_harness.h"

namespace rnbd::rtrs {
namespace {

using ::testing::HasSubstr;

using ServerViolationsTest = ServerProtocolFixture;

// Ways to break the protocol. The client has the number of connections that the case wants, and is
// connected unless it is not to be.
struct Violation {
  std::string name;
  // Part of what the server says.
  const char* words;
  bool connected;
  std::function<void(RawClient*, const EchoServer&)> commit;
};

// A request for chunk 1: `header` at its place behind `data_length` bytes, with the trailer
// `offset` bytes from the chunk's start.
void PutRequest(RawClient* client, uint32_t data_length, const std::vector<uint8_t>& header,
                uint32_t offset) {
  client->Put(0, 1, data_length, header, client->codec().EncodeRequest(1, offset));
}

std::vector<uint8_t> ReadHeader(uint32_t user_length, uint16_t sg_cnt, uint32_t length,
                                uint64_t address = 0) {
  std::vector<uint8_t> header = Zeros(user_length);
  ReadTrailerWithDescriptor trailer =
      MakeReadTrailer(static_cast<uint16_t>(user_length), false, address, 0, length);
  trailer.trailer.sg_cnt = sg_cnt;
  Append(&header, trailer);
  return header;
}

std::vector<uint8_t> WriteHeader(uint32_t user_length, uint16_t type, uint16_t claimed_length) {
  std::vector<uint8_t> header = Zeros(user_length);
  WriteTrailer trailer = MakeWriteTrailer(claimed_length);
  trailer.type = type;
  Append(&header, trailer);
  return header;
}

constexpr uint16_t kWrite = static_cast<uint16_t>(MessageType::kWrite);

std::vector<Violation> Violations() {
  std::vector<Violation> all = {
      {"RequestBeforeInfo", "before the path was connected", false,
       [](RawClient* c, const EchoServer&) {
         c->SendImmediate(1, c->codec().EncodeRequest(0, 40));
       }},
      {"HeartbeatBeforeInfo", "before the path was connected", false,
       [](RawClient* c, const EchoServer&) { c->SendImmediate(1, kHeartbeatImmediate); }},
      {"HeartbeatInsteadOfInfo", "before the path was connected", false,
       [](RawClient* c, const EchoServer&) { c->SendImmediate(0, kHeartbeatImmediate); }},
      {"UnknownImmediateBeforeInfo", "before the path was connected", false,
       [](RawClient* c, const EchoServer&) { c->SendImmediate(0, 0x50000000); }},
      {"ShortInfo", "no INFO_REQ", false,
       [](RawClient* c, const EchoServer&) { c->SendMessage(0, Zeros(sizeof(InfoRequest) - 1)); }},
      {"EmptyInfo", "no INFO_REQ", false,
       [](RawClient* c, const EchoServer&) { c->SendMessage(0, {}); }},
      {"LongInfo", "", false,
       [](RawClient* c, const EchoServer&) { c->SendMessage(0, Zeros(sizeof(InfoRequest) + 1)); }},
      {"InfoOfOtherType", "message of type 1", false,
       [](RawClient* c, const EchoServer&) {
         InfoRequest info = *MakeInfoRequest("evil");
         info.type = 1;
         c->SendMessage(0, MessageBytes(info));
       }},
      {"InfoOnAnIoConnection", "", false,
       [](RawClient* c, const EchoServer&) {
         const InfoRequest info = *MakeInfoRequest("evil");
         c->SendMessage(1, MessageBytes(info));
       }},
      {"EmptyMessageOnAnIoConnection", "no INFO_REQ", false,
       [](RawClient* c, const EchoServer&) { c->SendMessage(1, {}); }},
      {"InfoWithImmediate", "no INFO_REQ", false,
       [](RawClient* c, const EchoServer&) {
         WorkRequest work;
         work.opcode = Opcode::kSendWithImmediate;
         work.span_count = 1;
         const InfoRequest info = *MakeInfoRequest("evil");
         std::memcpy(c->end(0).source().data(), &info, sizeof(info));
         work.spans[0] = c->end(0).SourceSpan(0, sizeof(info));
         c->end(0).Post(work);
       }},
      {"InfoTwice", "", true, [](RawClient* c, const EchoServer&) { c->SendInfo("evil"); }},
      {"EmptyMessageWhenConnected", "no INFO_REQ", true,
       [](RawClient* c, const EchoServer&) { c->SendMessage(0, {}); }},
      {"Invalidation", "no INFO_REQ", true,
       [](RawClient* c, const EchoServer&) {
         WorkRequest work;
         work.opcode = Opcode::kSendWithInvalidate;
         work.key = c->chunks()[0].rkey;
         c->end(1).Post(work);
       }},
      {"ChunkBeyondTheLast", "does not exist", true,
       [](RawClient* c, const EchoServer&) {
         c->SendImmediate(1, 3U << c->codec().mem_bits() | 40);
       }},
      {"OffsetBeyondTheChunk", "does not exist", true,
       [](RawClient* c, const EchoServer&) {
         c->SendImmediate(1, c->codec().EncodeRequest(1, c->geometry().chunk_size()));
       }},
      {"OffsetFarBeyond", "does not exist", true,
       [](RawClient* c, const EchoServer&) {
         c->SendImmediate(1, (1U << c->codec().mem_bits()) - 1);
       }},
      {"TrailerBeyondTheChunk", "trailer", true,
       [](RawClient* c, const EchoServer&) {
         c->SendImmediate(1, c->codec().EncodeRequest(1, c->geometry().chunk_size() - 2));
       }},
      {"UserMessageLongerThanOffset", "user message", true,
       [](RawClient* c, const EchoServer&) { PutRequest(c, 0, WriteHeader(32, kWrite, 33), 32); }},
      {"NoUserMessage", "user message", true,
       [](RawClient* c, const EchoServer&) { PutRequest(c, 0, WriteHeader(0, kWrite, 0), 0); }},
      {"ShortUserMessage", "user message", true,
       [](RawClient* c, const EchoServer&) { PutRequest(c, 0, WriteHeader(3, kWrite, 3), 3); }},
      {"LongUserMessage", "user message", true,
       [](RawClient* c, const EchoServer&) {
         PutRequest(c, 0, WriteHeader(321, kWrite, 321), 321);
       }},
      {"EndlessUserMessage", "user message", true,
       [](RawClient* c, const EchoServer&) {
         PutRequest(c, 0, WriteHeader(4096, kWrite, 4096), 4096);
       }},
      {"MoreDataThanMaxIoSize", "max_io_size", true,
       [](RawClient* c, const EchoServer&) {
         PutRequest(c, 4097, WriteHeader(32, kWrite, 32), 4097 + 32);
       }},
      {"TwoDescriptors", "2 descriptors", true,
       [](RawClient* c, const EchoServer&) { PutRequest(c, 512, ReadHeader(32, 2, 512), 544); }},
      {"ManyDescriptors", "65535 descriptors", true,
       [](RawClient* c, const EchoServer&) {
         PutRequest(c, 512, ReadHeader(32, 65535, 512), 544);
       }},
      {"ReadWithoutDescriptor", "without descriptor", true,
       [](RawClient* c, const EchoServer&) { PutRequest(c, 512, ReadHeader(32, 0, 512), 544); }},
      {"EmptyDescriptor", "descriptor", true,
       [](RawClient* c, const EchoServer&) { PutRequest(c, 512, ReadHeader(32, 1, 0), 544); }},
      {"DescriptorWithoutData", "descriptor", true,
       [](RawClient* c, const EchoServer&) { PutRequest(c, 0, ReadHeader(32, 1, 512), 32); }},
      {"DescriptorLongerThanData", "descriptor", true,
       [](RawClient* c, const EchoServer&) { PutRequest(c, 512, ReadHeader(32, 1, 513), 544); }},
      {"DescriptorShorterThanData", "descriptor", true,
       [](RawClient* c, const EchoServer&) { PutRequest(c, 512, ReadHeader(32, 1, 511), 544); }},
      {"DescriptorAtTheEndOfTheWorld", "address space", true,
       [](RawClient* c, const EchoServer&) {
         PutRequest(c, 512, ReadHeader(32, 1, 512, ~uint64_t{0} - 100), 544);
       }},
      {"DescriptorBeyondTheChunk", "max_io_size", true,
       [](RawClient* c, const EchoServer&) {
         const uint32_t offset = c->geometry().chunk_size() - 8;
         std::vector<uint8_t> header = ReadHeader(32, 1, 512);
         header.resize(40);
         PutRequest(c, offset - 32, header, offset);
       }},
      {"ChunkInUse", "still running", true,
       [](RawClient* c, const EchoServer& server) {
         c->SendWrite(0, 1, {.fill = 1, .hold = 1}, 512);
         // RDMA reads the first request's bytes when it sends them, not when it is asked to.
         server.WaitForHeld(1);
         c->SendWrite(0, 1, {.fill = 1}, 512);
       }},
      {"ChunkInUseByAReadOfAnotherConnection", "still running", true,
       [](RawClient* c, const EchoServer& server) {
         c->SendRead(0, 1, {.fill = 1, .hold = 1}, 512);
         server.WaitForHeld(1);
         c->SendWrite(1, 1, {.fill = 1}, 512);
       }},
      {"WriteBeyondTheChunks", "not allowed", true,
       [](RawClient* c, const EchoServer&) {
         c->Put(0, 2, c->geometry().chunk_size() - 10, Zeros(11), absl::nullopt);
       }},
      {"WriteWithAnotherKey", "not allowed", true,
       [](RawClient* c, const EchoServer&) {
         WorkRequest work;
         work.opcode = Opcode::kWrite;
         work.key = c->chunks()[0].rkey + 8;
         work.remote_address = c->chunks()[0].address;
         work.span_count = 1;
         work.spans[0] = c->end(0).SourceSpan(0, 16);
         c->end(0).Post(work);
       }},
  };
  for (uint16_t type : {0, 1, 4, 5, 0x0203, 0xffff}) {
    all.push_back({absl::StrCat("TrailerOfType", type), "request of type", true,
                   [type](RawClient* c, const EchoServer&) {
                     PutRequest(c, 0, WriteHeader(32, type, 32), 32);
                   }});
  }
  return all;
}

// Each of them closes its path, with a line that says why, and nobody else notices.
TEST_P(ServerViolationsTest, AViolationClosesThatPathAlone) {
  ASSERT_NO_FATAL_FAILURE(Start());
  TestClient bystander(fabric(), "bystander", {server_->path()});
  bystander.Start();
  ASSERT_TRUE(bystander.WaitUp(1));
  Load load(&bystander, 2, 4096);
  load.Start();
  uint64_t violations = 0;
  for (const Violation& violation : Violations()) {
    SCOPED_TRACE(violation.name);
    auto client = NewClient();
    if (violation.connected) {
      ASSERT_NO_FATAL_FAILURE(client->Establish("evil", 2));
    } else {
      ASSERT_NO_FATAL_FAILURE(client->ConnectAll(2));
    }
    violation.commit(client.get(), server_->handler());
    ASSERT_TRUE(client->WaitUntilDown());
    // The reason reaches the client as the peer's, and all connections.
    EXPECT_TRUE(IsPeersReason(client->why(), EPROTO, violation.words));
    server_->handler().Release();
    ASSERT_TRUE(server_->WaitForSessions(1));
    EXPECT_EQ(server_->counters().protocol_violations, ++violations);
    EXPECT_TRUE(load.WaitForMore(10));
  }
  EXPECT_EQ(server_->counters().paths_connected - server_->counters().paths_closed, 1U);
  load.Stop();
  EXPECT_EQ(load.wrong(), 0U);
  EXPECT_EQ(load.aborted(), 0U);
  EXPECT_EQ(bystander.downs(), 0);
}

TEST_P(ServerViolationsTest, ViolationsAreLoggedAtABoundedRate) {
  LogCapture log;
  ASSERT_NO_FATAL_FAILURE(Start());
  for (int i = 0; i < 10; ++i) {
    auto client = NewClient();
    ASSERT_NO_FATAL_FAILURE(client->Establish("evil", 1));
    client->SendImmediate(0, client->codec().EncodeRequest(1, client->geometry().chunk_size()));
    ASSERT_TRUE(client->WaitUntilDown());
    ASSERT_TRUE(server_->WaitForSessions(0));
  }
  EXPECT_EQ(server_->counters().protocol_violations, 10U);
  server_.reset();
  const std::vector<std::string> lines = log.Lines("breaking the protocol");
  ASSERT_FALSE(lines.empty());
  EXPECT_LE(lines.size(), 4U);
  EXPECT_THAT(lines[0], HasSubstr("session evil: path "));
  EXPECT_THAT(lines[0], HasSubstr("the client sent a request for a chunk that does not exist"));
}

// INFO_REQ with a connection missing: section 2.8, step b.
TEST_P(ServerViolationsTest, InfoNeedsAllConnections) {
  ASSERT_NO_FATAL_FAILURE(Start());
  auto client = NewClient();
  client->request.cid_num = 3;
  ASSERT_TRUE(client->Connect(0)->established());
  ASSERT_TRUE(client->Connect(2)->established());
  client->SendInfo("evil");
  ASSERT_TRUE(client->WaitUntilDown());
  EXPECT_TRUE(IsPeersReason(client->why(), EPROTO, "2 of 3 connections"));
  EXPECT_EQ(client->end(0).message_count(), 0U);
}

// Section 2.8, step c: a name that cannot be one.
TEST_P(ServerViolationsTest, RefusesBadNames) {
  ASSERT_NO_FATAL_FAILURE(Start());
  std::vector<std::string> names = {"", "a/b", "a.b", "/", ".", "..", std::string(255, 'x')};
  for (const std::string& name : names) {
    SCOPED_TRACE(name);
    auto client = NewClient();
    ASSERT_NO_FATAL_FAILURE(client->ConnectAll(1));
    InfoRequest info;
    std::memcpy(info.pathname, name.data(), name.size());
    client->SendMessage(0, MessageBytes(info));
    ASSERT_TRUE(client->WaitUntilDown());
    EXPECT_TRUE(IsPeersReason(client->why(), EINVAL));
    EXPECT_EQ(client->end(0).message_count(), 0U);
    EXPECT_TRUE(server_->WaitForSessions(0));
  }
  auto client = NewClient();
  ASSERT_NO_FATAL_FAILURE(client->Establish(std::string(254, 'x'), 1));
}

TEST_P(ServerViolationsTest, AForeignSessionsChunksCannotBeReached) {
  ASSERT_NO_FATAL_FAILURE(Start());
  auto victim = NewClient();
  ASSERT_NO_FATAL_FAILURE(victim->Establish("victim", 1));
  victim->SendWrite(0, 0, {.fill = 0x11, .hold = 1}, 4096);
  ASSERT_TRUE(server_->handler().WaitForHeld(1));
  auto evil = NewClient();
  ASSERT_NO_FATAL_FAILURE(evil->Establish("evil", 1));
  WorkRequest work;
  work.opcode = Opcode::kWrite;
  work.key = victim->chunks()[0].rkey;
  work.remote_address = victim->chunks()[0].address;
  work.span_count = 1;
  work.spans[0] = evil->end(0).SourceSpan(0, 4096);
  evil->end(0).Post(work);
  EXPECT_TRUE(evil->WaitUntilDown());
  server_->handler().Release();
  // Else EILSEQ.
  EXPECT_EQ(victim->WaitForResponse(0, 1).error_number, 0);
}

// A client that neither reads answers nor stops asking is dropped; a flood of heartbeats is
// answered or dropped; nobody else notices.
TEST_P(ServerViolationsTest, SurvivesAFloodOfHeartbeats) {
  ASSERT_NO_FATAL_FAILURE(Start());
  TestClient bystander(fabric(), "bystander", {server_->path()});
  bystander.Start();
  ASSERT_TRUE(bystander.WaitUp(1));
  Load load(&bystander, 2, 4096);
  load.Start();
  auto client = NewClient();
  ASSERT_NO_FATAL_FAILURE(client->Establish("evil", 2));
  for (int round = 0; round < 20; ++round) {
    client->end(1).Run([&] {
      WorkRequest work;
      work.opcode = Opcode::kWriteWithImmediate;
      work.immediate = kHeartbeatImmediate;
      for (int i = 0; i < 1000 && !client->end(1).down(); ++i) {
        client->end(1).connection()->Post(work);
      }
    });
    EXPECT_TRUE(load.WaitForMore(10));
  }
  load.Stop();
  EXPECT_EQ(load.wrong(), 0U);
  EXPECT_EQ(load.aborted(), 0U);
}

// Requests with some bytes and immediates changed at random: answered, or their path is closed, and
// nothing worse.
TEST_P(ServerViolationsTest, SurvivesRandomRequests) {
  ASSERT_NO_FATAL_FAILURE(Start());
  server_->handler().ReleaseForGood();
  std::minstd_rand random(11);
  auto below = [&](uint32_t limit) { return static_cast<uint32_t>(random() % limit); };
  std::unique_ptr<RawClient> client;
  size_t answered = 0;
  int closed = 0;
  for (int round = 0; round < 300; ++round) {
    SCOPED_TRACE(round);
    if (client == nullptr) {
      client = NewClient();
      ASSERT_NO_FATAL_FAILURE(client->Establish("evil", 1));
      answered = 0;
    }
    const uint32_t data_length = 8 * below(65);
    const uint32_t user_length = 32 + 4 * below(4);
    std::vector<uint8_t> header = Zeros(user_length);
    if (below(2) == 0) {
      Append(&header, MakeWriteTrailer(static_cast<uint16_t>(user_length)));
    } else if (data_length == 0) {
      Append(&header, MakeReadTrailer(static_cast<uint16_t>(user_length)));
    } else {
      Append(&header, MakeReadTrailer(static_cast<uint16_t>(user_length), below(2) == 0,
                                      client->end(0).window_region().address, client->data_key(),
                                      data_length));
    }
    for (uint32_t i = below(3); i > 0; --i) {
      // In the trailer, for the server does not look at the rest.
      const size_t place = user_length + below(static_cast<uint32_t>(header.size()) - user_length);
      header[place] ^= static_cast<uint8_t>(1U << below(8));
    }
    const uint32_t chunk = below(3);
    uint32_t immediate = client->codec().EncodeRequest(chunk, data_length + user_length);
    if (below(8) == 0) immediate ^= 1U << below(28);
    client->Put(0, chunk, data_length, header, immediate);
    // One that is good, behind it.
    client->SendRead(0, 0, {}, 0);
    auto answers = [&] {
      size_t count = 0;
      for (const FabricEnd::Message& message : client->end(0).messages()) {
        if (message.immediate.has_value()) ++count;
      }
      return count;
    };
    ASSERT_TRUE(Eventually([&] { return client->down() || answers() >= answered + 2; }));
    answered = answers();
    if (client->down()) {
      ++closed;
      client.reset();
      ASSERT_TRUE(server_->WaitForSessions(0));
    }
  }
  EXPECT_GT(closed, 50);
  EXPECT_LT(closed, 280);
}

// Other connections of the path are taken down with the one that misbehaved, and requests at work
// end in peace.
TEST_P(ServerViolationsTest, RequestsAtWorkOutliveTheirPath) {
  ASSERT_NO_FATAL_FAILURE(Start());
  auto client = NewClient();
  ASSERT_NO_FATAL_FAILURE(client->Establish("evil", 3));
  client->SendWrite(1, 0, {.fill = 1, .hold = 1}, 512);
  client->SendRead(2, 1, {.fill = 1, .hold = 1}, 512);
  ASSERT_TRUE(server_->handler().WaitForHeld(2));
  client->SendImmediate(0, client->codec().EncodeRequest(2, client->geometry().chunk_size()));
  ASSERT_TRUE(client->WaitUntilDown());
  EXPECT_EQ(server_->session_count(), 1U);
  EXPECT_EQ(server_->handler().sessions(), 1);
  server_->handler().Release();
  EXPECT_TRUE(server_->WaitForSessions(0));
  EXPECT_EQ(server_->handler().executed(), 2U);
}

INSTANTIATE_TEST_SUITE_P(Fabrics, ServerViolationsTest, ::testing::ValuesIn(SessionFabrics()),
                         SessionFabric::Name);

}  // namespace
}  // namespace rnbd::rtrs
