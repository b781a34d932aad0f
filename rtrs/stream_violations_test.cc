// What a peer can do wrong behind its hello. Each mistake ends that connection, with a reason that
// names it, within a bounded time; nobody else notices.

#include <algorithm>
#include <cerrno>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "common/crc32c.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/stream_socket.h"
#include "testing/fabric_harness.h"
#include "testing/stream_violations_fixture.h"

namespace rnbd::rtrs {
namespace {

using ::testing::ElementsAreArray;
using ::testing::IsEmpty;

using StreamFramesTest = StreamViolationsFixture;

// A frame, or several, as the first thing behind the hello.
struct BadFrames {
  std::string name;
  std::string reason;
  std::function<Bytes(const FabricEnd&)> bytes;
  uint32_t features = 0;
  uint32_t receives = 8;
};

BadFrames BadHeader(std::string name, std::string reason, void (*spoil)(FrameHeader*)) {
  return {std::move(name), std::move(reason), [spoil](const FabricEnd& end) {
            RawFrame frame = MakeRawWrite(FrameOpcode::kWriteWithImmediate, 0, end.window_region(),
                                          0, Bytes(100, 0xBB));
            spoil(&frame.header);
            return frame.Sealed();
          }};
}

std::vector<BadFrames> AllBadFrames() {
  std::vector<BadFrames> all = {
      BadHeader("operation 0", "operation 0", [](FrameHeader* header) { header->opcode = 0; }),
      BadHeader("operation 7", "operation 7", [](FrameHeader* header) { header->opcode = 7; }),
      BadHeader("operation 255", "operation 255",
                [](FrameHeader* header) { header->opcode = 255; }),
      BadHeader("a flag", "flags", [](FrameHeader* header) { header->flags = 1; }),
      BadHeader("all flags", "flags", [](FrameHeader* header) { header->flags = 0xFF; }),
      BadHeader("a frame left out", "frame 1 where frame 0",
                [](FrameHeader* header) { header->sequence = 1; }),
      BadHeader("a frame before the first", "frame 65535 where frame 0",
                [](FrameHeader* header) { header->sequence = 0xFFFF; }),
      BadHeader("too long", "of 67108865 bytes",
                [](FrameHeader* header) { header->length = kMaxPayload + 1; }),
      BadHeader("as long as can be", "of 4294967295 bytes",
                [](FrameHeader* header) { header->length = 0xFFFFFFFF; }),
      BadHeader("longer than the region", "not allowed",
                [](FrameHeader* header) { header->length = kWindow + 1; }),
      BadHeader("a foreign key", "not allowed", [](FrameHeader* header) { header->key = 0; }),
      BadHeader("behind the region", "not allowed",
                [](FrameHeader* header) { header->remote_address = kWindow - 99; }),
      BadHeader("before the region", "not allowed",
                [](FrameHeader* header) { header->remote_address = ~uint64_t{0}; }),
      BadHeader("a payload checksum that was not agreed on", "checksum",
                [](FrameHeader* header) { header->payload_crc = 1; }),
  };
  all.push_back(
      {"a write to memory that is only read", "not allowed", [](const FabricEnd& end) {
         return MakeRawWrite(FrameOpcode::kWrite, 0, end.source_region(), 0, Bytes(1)).Sealed();
       }});
  for (FrameOpcode opcode :
       {FrameOpcode::kSend, FrameOpcode::kSendWithImmediate, FrameOpcode::kSendWithInvalidate}) {
    all.push_back({"a message too long", "for a receive of 200", [opcode](const FabricEnd&) {
                     return MakeRawFrame(opcode, 0, Bytes(kReceiveBytes + 1)).Sealed();
                   }});
  }
  all.push_back({"a replayed frame", "frame 0 where frame 1", [](const FabricEnd&) {
                   const Bytes once = MakeRawFrame(FrameOpcode::kSend, 0, Bytes(10)).Sealed();
                   return once + once;
                 }});
  all.push_back({"frames in the wrong order", "frame 2 where frame 1", [](const FabricEnd&) {
                   return MakeRawFrame(FrameOpcode::kSend, 0, Bytes(10)).Sealed() +
                          MakeRawFrame(FrameOpcode::kSend, 2, Bytes(10)).Sealed() +
                          MakeRawFrame(FrameOpcode::kSend, 1, Bytes(10)).Sealed();
                 }});
  all.push_back(
      {"an immediate without a receive", "no receive is posted",
       [](const FabricEnd&) { return MakeRawFrame(FrameOpcode::kWriteWithImmediate, 0).Sealed(); },
       0, /*receives=*/0});
  all.push_back({"a goodbye that does not end", "goodbye of 513 bytes", [](const FabricEnd&) {
                   return MakeRawFrame(FrameOpcode::kGoodbye, 0, Bytes(513)).Sealed();
                 }});
  all.push_back({"a payload with a wrong checksum", "payload with a wrong checksum",
                 [](const FabricEnd& end) {
                   RawFrame frame = MakeRawWrite(FrameOpcode::kWriteWithImmediate, 0,
                                                 end.window_region(), 0, Bytes(100, 0xBB));
                   frame.header.payload_crc = Crc32c(0, frame.payload) ^ 0x8000;
                   return frame.Sealed();
                 },
                 kFeaturePayloadCrc});
  all.push_back({"a payload without the checksum that was agreed on", "wrong checksum",
                 [](const FabricEnd&) {
                   return MakeRawFrame(FrameOpcode::kSend, 0, Bytes(100, 0xBB)).Sealed();
                 },
                 kFeaturePayloadCrc});
  all.push_back({"a checksum of nothing", "wrong checksum",
                 [](const FabricEnd&) {
                   RawFrame frame = MakeRawFrame(FrameOpcode::kSend, 0);
                   frame.header.payload_crc = 1;
                   return frame.Sealed();
                 },
                 kFeaturePayloadCrc});
  all.push_back({"another hello", "checksum",
                 [](const FabricEnd&) { return HelloBytes(HelloKind::kConnect); }});
  all.push_back({"garbage", "checksum", [](const FabricEnd&) { return Pattern(100'000, 1); }});
  all.push_back({"zeros", "checksum", [](const FabricEnd&) { return Bytes(1000); }});
  return all;
}

TEST_F(StreamFramesTest, EachMistakeEndsTheConnectionAndNoOther) {
  for (const BadFrames& bad : AllBadFrames()) {
    SCOPED_TRACE(bad.name);
    Accepted accepted = Greeted(bad.features, bad.receives);
    EXPECT_TRUE(accepted.peer.Send(bad.bytes(*accepted.end)));
    ExpectViolation(&accepted, bad.reason);
    EXPECT_LE(accepted.end->message_count(), 1u);
    EXPECT_TRUE(AllBytesAre(0, accepted.end->source()));
  }
}

TEST_F(StreamFramesTest, EachBitOfAHeaderMatters) {
  for (size_t bit = 0; bit < 8 * sizeof(FrameHeader); bit += 3) {
    Accepted accepted = Greeted();
    Bytes bytes =
        MakeRawWrite(FrameOpcode::kWrite, 0, accepted.end->window_region(), 0, Bytes(50, 0xBB))
            .Sealed();
    bytes[bit / 8] ^= 1 << bit % 8;
    EXPECT_TRUE(accepted.peer.Send(bytes));
    ExpectViolation(&accepted, "checksum");
    EXPECT_TRUE(AllBytesAre(0, accepted.end->window()));
  }
}

// Three frames that are as they should be, each with a payload.
Bytes GoodFrames(const FabricEnd& end) {
  RawFrame last =
      MakeRawWrite(FrameOpcode::kWriteWithImmediate, 2, end.window_region(), 300, Pattern(70, 3));
  last.header.immediate = 99;
  return MakeRawFrame(FrameOpcode::kSend, 0, Pattern(50, 1)).Sealed() +
         MakeRawWrite(FrameOpcode::kWrite, 1, end.window_region(), 100, Pattern(60, 2)).Sealed() +
         last.Sealed();
}

void ExpectGoodFrames(FabricEnd* end) {
  ASSERT_TRUE(end->WaitForMessages(2)) << end->why();
  EXPECT_THAT(end->messages()[0].data, ElementsAreArray(Pattern(50, 1)));
  EXPECT_EQ(end->messages()[1].immediate, 99u);
  EXPECT_TRUE(SameBytes(end->window().subspan(100, 60), Pattern(60, 2)));
  EXPECT_TRUE(SameBytes(end->window().subspan(300, 70), Pattern(70, 3)));
}

TEST_F(StreamFramesTest, SplitAtEachByte) {
  const size_t total = 3 * sizeof(FrameHeader) + 50 + 60 + 70;
  for (size_t at = 0; at <= total; ++at) {
    Accepted accepted = Greeted();
    const Bytes bytes = GoodFrames(*accepted.end);
    ASSERT_EQ(bytes.size(), total);
    EXPECT_TRUE(accepted.peer.Send(absl::MakeConstSpan(bytes).first(at)));
    // Twice around: what was sent is there, and was looked at.
    thread_->RunAndWait([] {});
    thread_->RunAndWait([] {});
    EXPECT_TRUE(accepted.peer.Send(absl::MakeConstSpan(bytes).subspan(at)));
    ExpectGoodFrames(accepted.end.get());
  }
}

TEST_F(StreamFramesTest, TruncatedAtEachByte) {
  const size_t total = 3 * sizeof(FrameHeader) + 50 + 60 + 70;
  for (size_t at = 0; at < total; ++at) {
    Accepted accepted = Greeted();
    const Bytes bytes = GoodFrames(*accepted.end);
    EXPECT_TRUE(accepted.peer.Send(absl::MakeConstSpan(bytes).first(at)));
    if (at % 2 == 0) {
      accepted.peer.CloseSending();
    } else {
      accepted.peer.Close();
    }
    ASSERT_TRUE(accepted.end->WaitUntilDown());
    EXPECT_EQ(accepted.end->error(), ECONNRESET) << accepted.end->why();
    EXPECT_EQ(accepted.end->message_count(), at < sizeof(FrameHeader) + 50 ? 0u : 1u);
  }
}

TEST_F(StreamFramesTest, ResetInTheMiddleOfAPayload) {
  Accepted accepted = Greeted();
  const Bytes bytes =
      MakeRawWrite(FrameOpcode::kWrite, 0, accepted.end->window_region(), 0, Bytes(kWindow, 0xBB))
          .Sealed();
  EXPECT_TRUE(accepted.peer.Send(absl::MakeConstSpan(bytes).first(1000)));
  thread_->RunAndWait([] {});
  accepted.peer.Reset();
  ASSERT_TRUE(accepted.end->WaitUntilDown());
  EXPECT_EQ(accepted.end->error(), ECONNRESET);
}

// Large payloads are waited for in large pieces, whatever pieces they come in.
TEST_F(StreamFramesTest, LargePayloadInSmallPieces) {
  constexpr uint32_t kLarge = 1 << 20;
  Accepted accepted = Greeted(0, 8, {}, kLarge);
  const Bytes payload = Pattern(kLarge, 7);
  const Bytes bytes =
      MakeRawWrite(FrameOpcode::kWrite, 0, accepted.end->window_region(), 0, payload).Sealed() +
      MakeRawFrame(FrameOpcode::kSend, 1, Bytes(5)).Sealed();
  constexpr size_t kBounds[] = {1000, 300'000, 300'001, kLarge - 1, kLarge + 1, kLarge + 100};
  size_t sent = 0;
  for (size_t bound : kBounds) {
    EXPECT_TRUE(accepted.peer.Send(absl::MakeConstSpan(bytes).subspan(sent, bound - sent)));
    sent = bound;
    thread_->RunAndWait([] {});
    absl::SleepFor(absl::Milliseconds(5));
  }
  ASSERT_TRUE(accepted.end->WaitForMessages(1)) << accepted.end->why();
  EXPECT_TRUE(SameBytes(accepted.end->window(), payload));
}

TEST_F(StreamFramesTest, LargePayloadCutShort) {
  constexpr uint32_t kLarge = 1 << 20;
  for (size_t at : {100, 1000, 300'000}) {
    Accepted accepted = Greeted(0, 8, {}, kLarge);
    const Bytes bytes =
        MakeRawWrite(FrameOpcode::kWrite, 0, accepted.end->window_region(), 0, Bytes(kLarge))
            .Sealed();
    EXPECT_TRUE(accepted.peer.Send(absl::MakeConstSpan(bytes).first(at)));
    thread_->RunAndWait([] {});
    accepted.peer.CloseSending();
    ASSERT_TRUE(accepted.end->WaitUntilDown());
    EXPECT_EQ(accepted.end->error(), ECONNRESET) << accepted.end->why();
  }
}

TEST_F(StreamFramesTest, MayComeWithTheHello) {
  // Nothing that the peer knows before it was accepted lets it write, but it may send.
  Bytes behind;
  for (uint16_t i = 0; i < 5; ++i) {
    behind = behind + MakeRawFrame(FrameOpcode::kSend, i, Pattern(100, i)).Sealed();
  }
  Accepted accepted = Greeted(0, 8, behind);
  ASSERT_TRUE(accepted.end->WaitForMessages(5));
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_THAT(accepted.end->messages()[i].data, ElementsAreArray(Pattern(100, i)));
  }
}

TEST_F(StreamFramesTest, SequenceNumbersWrap) {
  Accepted accepted = Greeted();
  Bytes bytes;
  for (uint32_t i = 0; i < 0x10000; ++i) {
    const Bytes one = MakeRawFrame(FrameOpcode::kWrite, static_cast<uint16_t>(i)).Sealed();
    bytes.insert(bytes.end(), one.begin(), one.end());
  }
  bytes = std::move(bytes) + MakeRawFrame(FrameOpcode::kSend, 0, Bytes(5)).Sealed();
  EXPECT_TRUE(accepted.peer.Send(bytes));
  EXPECT_TRUE(accepted.end->WaitForMessages(1)) << accepted.end->why();
}

TEST_F(StreamFramesTest, GoodbyeToTheByte) {
  Accepted accepted = Greeted(kFeaturePayloadCrc);
  accepted.end->Disconnect(ECONNABORTED, "closing");
  RawFrame expected = MakeRawFrame(FrameOpcode::kGoodbye, 0, {'c', 'l', 'o', 's', 'i', 'n', 'g'});
  expected.header.immediate = ECONNABORTED;
  expected.header.payload_crc = Crc32c(0, expected.payload);
  EXPECT_THAT(accepted.peer.ReceiveAll(), ElementsAreArray(expected.Sealed()));
}

TEST_F(StreamFramesTest, RequestsToTheByte) {
  Accepted accepted = Greeted(kFeaturePayloadCrc);
  FabricEnd& end = *accepted.end;
  std::copy_n(Pattern(64, 1).begin(), 64, end.source().begin());
  const Region theirs = {.address = 0x1122334455667788, .local_key = 0, .remote_key = 0x99AABBCC};
  WorkRequest invalidate = end.Request(Opcode::kSendWithInvalidate, 0, 3);
  invalidate.key = 0xFFFFFFF1;
  end.Run([&] {
    end.Post(end.WriteRequest(Opcode::kWriteWithImmediate, 10, 20, theirs, 1, 0xCAFE));
    end.Post(end.Request(Opcode::kSendWithImmediate, 5, 0, 0xFFFFFFFF));
    end.Post(invalidate);
  });
  RawFrame write = MakeRawWrite(FrameOpcode::kWriteWithImmediate, 0, theirs, 1, {});
  const Bytes pattern = Pattern(64, 1);
  write.payload.assign(pattern.begin() + 10, pattern.begin() + 30);
  write.header.length = 20;
  write.header.immediate = 0xCAFE;
  write.header.payload_crc = Crc32c(0, write.payload);
  RawFrame send = MakeRawFrame(FrameOpcode::kSendWithImmediate, 1);
  send.header.immediate = 0xFFFFFFFF;
  RawFrame with_invalidate = MakeRawFrame(FrameOpcode::kSendWithInvalidate, 2,
                                          Bytes(pattern.begin(), pattern.begin() + 3));
  with_invalidate.header.key = 0xFFFFFFF1;
  with_invalidate.header.payload_crc = Crc32c(0, with_invalidate.payload);
  const Bytes expected = write.Sealed() + send.Sealed() + with_invalidate.Sealed();
  EXPECT_THAT(accepted.peer.Receive(expected.size()), ElementsAreArray(expected));
}

TEST_F(StreamFramesTest, PeersMayGiveAnyReason) {
  for (uint32_t error : {0u, 1u, 71u, 4095u, 4096u, 0x80000000u, 0xFFFFFFFFu}) {
    for (const Bytes& words : {Bytes(), Bytes(kMaxGoodbye, 0xFF), Bytes{'n', 'o', '\n', 0, 27}}) {
      Accepted accepted = Greeted();
      RawFrame goodbye = MakeRawFrame(FrameOpcode::kGoodbye, 0, words);
      goodbye.header.immediate = error;
      EXPECT_TRUE(accepted.peer.Send(goodbye.Sealed() + Bytes(100, 'x')));
      ASSERT_TRUE(accepted.end->WaitUntilDown());
      EXPECT_FALSE(IsViolation(accepted.end->why()));
      EXPECT_EQ(accepted.end->error(), static_cast<int>(std::clamp<uint32_t>(error, 1, 4095)));
      EXPECT_THAT(accepted.peer.ReceiveAll(), IsEmpty()) << "a goodbye is not answered";
    }
  }
}

// The reset is noticed by sending first, while the peer's last words still wait in the socket.
TEST_F(StreamFramesTest, ReasonIsHeardThoughSendingFails) {
  for (bool says_why : {true, false}) {
    Accepted accepted = Greeted();
    const absl::Time start = absl::Now();
    accepted.end->Run([&] {
      RawFrame goodbye = MakeRawFrame(FrameOpcode::kGoodbye, 0);
      goodbye.header.immediate = EREMOTEIO;
      if (says_why) {
        EXPECT_TRUE(accepted.peer.Send(goodbye.Sealed()));
      }
      accepted.peer.Reset();
      accepted.end->Post(accepted.end->Request(Opcode::kSend, 0, 10));
    });
    ASSERT_TRUE(accepted.end->WaitUntilDown());
    EXPECT_EQ(accepted.end->error(), says_why ? EREMOTEIO : ECONNRESET) << accepted.end->why();
    EXPECT_LT(absl::Now() - start, absl::Seconds(10));
    EXPECT_TRUE(accepted.end->sent().empty());
  }
}

TEST_F(StreamFramesTest, PeerThatGoesOnAfterAViolation) {
  Accepted accepted = Greeted();
  const absl::Time start = absl::Now();
  const Bytes garbage = Pattern(1 << 20, 7);
  while (!accepted.end->down() && absl::Now() - start < kPatience) {
    if (!accepted.peer.Send(garbage)) break;
  }
  EXPECT_TRUE(accepted.end->WaitUntilDown());
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  EXPECT_TRUE(IsViolation(accepted.end->why()));
  EXPECT_TRUE(AllBytesAre(0, accepted.end->window()));
}

TEST_F(StreamFramesTest, PeerThatNeitherReadsNorLeaves) {
  Accepted accepted = Greeted();
  const absl::Time start = absl::Now();
  accepted.end->Disconnect(EINTR, "enough");
  ASSERT_TRUE(accepted.end->WaitUntilDown());
  EXPECT_GE(absl::Now() - start, Options().goodbye_timeout);
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  EXPECT_EQ(accepted.end->error(), EINTR);
}

}  // namespace
}  // namespace rnbd::rtrs
