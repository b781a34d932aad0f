// What a peer can do wrong in its hello, or in its answer to ours. Each mistake ends that
// connection within a bounded time; nobody else notices.

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "common/crc32c.h"
#include "common/logging.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/stream_fabric.h"
#include "rtrs/stream_socket.h"
#include "spdlog/sinks/ostream_sink.h"
#include "testing/fabric_harness.h"
#include "testing/raw_stream_peer.h"
#include "testing/stream_violations_fixture.h"

namespace rnbd::rtrs {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using StreamHelloTest = StreamViolationsFixture;

TEST_F(StreamHelloTest, EachByteOfAHelloMatters) {
  const Bytes good = HelloBytes(HelloKind::kConnect, 0, "somebody");
  for (size_t i = 0; i < good.size(); ++i) {
    RawStreamPeer peer = RawStreamPeer::ConnectTo(acceptor_.address());
    Bytes bad = good;
    bad[i] ^= 0x10;
    EXPECT_TRUE(peer.Send(bad));
    EXPECT_THAT(peer.ReceiveAll(), IsEmpty()) << "byte " << i;
  }
  EXPECT_EQ(counters().violations, good.size());
  EXPECT_EQ(counters().incoming, 0u);
}

TEST_F(StreamHelloTest, OtherKindsAreNoRequests) {
  for (int kind : {0, 2, 3, 4, 255}) {
    RawStreamPeer peer = RawStreamPeer::ConnectTo(acceptor_.address());
    EXPECT_TRUE(peer.Send(HelloBytes(static_cast<HelloKind>(kind))));
    EXPECT_THAT(peer.ReceiveAll(), IsEmpty());
  }
  EXPECT_EQ(counters().violations, 5u);
}

TEST_F(StreamHelloTest, OtherVersionsAreToldOurs) {
  Hello hello = MakeHello(HelloKind::kConnect, 0, {});
  hello.version = kHelloVersion + 1;
  RawStreamPeer peer = RawStreamPeer::ConnectTo(acceptor_.address());
  EXPECT_TRUE(peer.Send(SealedHello(hello)));
  const Hello rejection = MakeHello(HelloKind::kReject, 0, {});
  EXPECT_THAT(peer.ReceiveAll(), ElementsAreArray(MessageBytes(rejection)));
  EXPECT_EQ(counters().violations, 1u);
}

TEST_F(StreamHelloTest, ReservedBytesAndUnknownFeaturesAreForTheFuture) {
  Hello hello = MakeHello(HelloKind::kConnect, 0xFFFFFFFE, {});
  hello.reserved = 0xFF;
  std::fill(std::begin(hello.reserved2), std::end(hello.reserved2), 0xFF);
  RawStreamPeer peer = RawStreamPeer::ConnectTo(acceptor_.address());
  EXPECT_TRUE(peer.Send(SealedHello(hello)));
  std::unique_ptr<IncomingConnection> incoming = acceptor_.Next();
  ASSERT_NE(incoming, nullptr);
  FabricEnd end(thread_.get());
  end.CreateFor(incoming.get());
  end.Accept(PrivateData(""));
  EXPECT_THAT(peer.Receive(sizeof(Hello)), ElementsAreArray(HelloBytes(HelloKind::kAccept, 0)));
}

TEST_F(StreamHelloTest, TruncatedAtEachByte) {
  const Bytes good = HelloBytes(HelloKind::kConnect);
  for (size_t i = 0; i < good.size(); ++i) {
    RawStreamPeer peer = RawStreamPeer::ConnectTo(acceptor_.address());
    EXPECT_TRUE(peer.Send(absl::MakeConstSpan(good).first(i)));
    peer.CloseSending();
    EXPECT_THAT(peer.ReceiveAll(), IsEmpty());
  }
  EXPECT_EQ(counters().silent, good.size());
  EXPECT_EQ(counters().incoming, 0u);
}

TEST_F(StreamHelloTest, MayComeInPieces) {
  const Bytes good = HelloBytes(HelloKind::kConnect, 0, "patience");
  for (size_t piece : {1, 31, 95}) {
    RawStreamPeer peer = RawStreamPeer::ConnectTo(acceptor_.address());
    for (size_t at = 0; at < good.size(); at += piece) {
      EXPECT_TRUE(peer.Send(absl::MakeConstSpan(good).subspan(at, piece)));
      thread_->RunAndWait([] {});
    }
    std::unique_ptr<IncomingConnection> incoming = acceptor_.Next();
    ASSERT_NE(incoming, nullptr);
    EXPECT_THAT(incoming->private_data(), ElementsAreArray(PrivateData("patience")));
  }
}

TEST_F(StreamHelloTest, SilenceEnds) {
  const absl::Time start = absl::Now();
  RawStreamPeer peer = RawStreamPeer::ConnectTo(acceptor_.address());
  EXPECT_THAT(peer.ReceiveAll(), IsEmpty());
  EXPECT_GE(absl::Now() - start, Options().hello_timeout);
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  EXPECT_EQ(counters().silent, 1u);
}

TEST_F(StreamHelloTest, DribblingEnds) {
  const Bytes good = HelloBytes(HelloKind::kConnect);
  RawStreamPeer peer = RawStreamPeer::ConnectTo(acceptor_.address());
  const absl::Time start = absl::Now();
  for (size_t i = 0; i + 1 < good.size() && !peer.ended(); ++i) {
    peer.Send(absl::MakeConstSpan(good).subspan(i, 1));
    peer.Receive(1, absl::Milliseconds(50));
  }
  EXPECT_TRUE(peer.ended());
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  EXPECT_EQ(counters().silent, 1u);
}

TEST_F(StreamHelloTest, ThoseWhoSayNothingDoNotKeepOutOthers) {
  std::vector<RawStreamPeer> silent;
  for (int i = 0; i < 20; ++i) silent.push_back(RawStreamPeer::ConnectTo(acceptor_.address()));
  Accepted accepted = Greeted();
  ExpectCount(&ListenerCounters::crowded_out, 12 + 1);
  // The oldest went.
  for (int i = 0; i < 12; ++i) EXPECT_THAT(silent[i].ReceiveAll(), IsEmpty());
}

TEST_F(StreamHelloTest, RunningOutOfFilesHoldsUpNewPeersOnly) {
  const absl::StatusOr<SocketAddress> to = ToSocketAddress(acceptor_.address());
  ASSERT_TRUE(to.ok());
  std::vector<RawStreamPeer> peers;
  for (int i = 0; i < 3; ++i) {
    absl::StatusOr<UniqueFd> socket = OpenStreamSocket(to->family(), {});
    ASSERT_TRUE(socket.ok());
    peers.emplace_back(*std::move(socket));
  }
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  // Numbers are given out from the lowest on.
  EXPECT_EQ(counters().failures, 0u);
  const UniqueFd lowest(dup(0));
  rlimit none = before;
  none.rlim_cur = lowest.get();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  for (RawStreamPeer& peer : peers) {
    EXPECT_EQ(connect(peer.socket(), to->get(), to->length), 0);
    EXPECT_TRUE(peer.Send(HelloBytes(HelloKind::kConnect)));
  }
  // The accept that was already waiting has the limit of its time.
  EXPECT_NE(acceptor_.Next(), nullptr);
  const absl::Time limit = absl::Now() + kPatience;
  while (counters().failures < 3 && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_GE(counters().failures, 3u);
  EXPECT_LE(counters().failures, 1000u) << "it must not try all the time";
  EXPECT_LE(counters().incoming, 2u);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  for (int i = 0; i < 2; ++i) EXPECT_NE(acceptor_.Next(), nullptr);
}

TEST_F(StreamHelloTest, ReportsManyBadPeersOnce) {
  std::ostringstream text;
  auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(text);
  std::shared_ptr<spdlog::logger> before = spdlog::default_logger();
  thread_->RunAndWait(
      [&] { spdlog::set_default_logger(std::make_shared<spdlog::logger>("test", sink)); });
  for (int i = 0; i < 50; ++i) {
    RawStreamPeer peer = RawStreamPeer::ConnectTo(acceptor_.address());
    EXPECT_TRUE(peer.Send(Bytes(sizeof(Hello), 'x')));
    EXPECT_THAT(peer.ReceiveAll(), IsEmpty());
  }
  thread_->RunAndWait([&] { spdlog::set_default_logger(before); });
  const std::string lines = text.str();
  EXPECT_LE(std::count(lines.begin(), lines.end(), '\n'), 1) << lines;
  EXPECT_EQ(counters().violations, 50u);
}

// The accepting end, done by hand.
class StreamAnswerTest : public StreamViolationsFixture {
 protected:
  std::unique_ptr<FabricEnd> Connecting(RawStreamPeer* peer, bool checksum = false,
                                        absl::Duration timeout = kPatience) {
    StreamOptions options = Options();
    options.payload_checksum = checksum;
    StreamFabric fabric(options);
    auto end = std::make_unique<FabricEnd>(client_thread_.get());
    end->CreateFor(&fabric, listener_.path());
    end->Connect(PrivateData("hello"), timeout);
    *peer = listener_.Accept();
    EXPECT_THAT(peer->Receive(sizeof(Hello)),
                ElementsAreArray(HelloBytes(HelloKind::kConnect, checksum ? 1 : 0, "hello")));
    return end;
  }

  RawStreamListener listener_;
  RawStreamPeer peer_{UniqueFd()};
};

TEST_F(StreamAnswerTest, EachByteMatters) {
  const Bytes good = HelloBytes(HelloKind::kAccept, 0, "come in");
  for (size_t i = 0; i < good.size(); i += 2) {
    const std::unique_ptr<FabricEnd> end = Connecting(&peer_);
    Bytes bad = good;
    bad[i] ^= 0x10;
    EXPECT_TRUE(peer_.Send(bad));
    ASSERT_TRUE(end->WaitUntilDown());
    EXPECT_TRUE(IsViolation(end->why())) << end->why();
    EXPECT_FALSE(end->established());
    EXPECT_THAT(end->disconnected_with(), IsEmpty());
  }
}

TEST_F(StreamAnswerTest, TruncatedAtEachByte) {
  const Bytes good = HelloBytes(HelloKind::kAccept);
  for (size_t i = 0; i < good.size(); i += 5) {
    const std::unique_ptr<FabricEnd> end = Connecting(&peer_);
    EXPECT_TRUE(peer_.Send(absl::MakeConstSpan(good).first(i)));
    peer_.CloseSending();
    ASSERT_TRUE(end->WaitUntilDown());
    EXPECT_EQ(end->error(), ECONNRESET) << end->why();
    EXPECT_FALSE(end->established());
  }
}

TEST_F(StreamAnswerTest, SilenceEnds) {
  const std::unique_ptr<FabricEnd> end = Connecting(&peer_, false, absl::Seconds(1));
  ASSERT_TRUE(end->WaitUntilDown());
  EXPECT_EQ(end->error(), ETIMEDOUT);
  EXPECT_THAT(std::string(end->why().message()), HasSubstr(listener_.address().ToString()));
}

TEST_F(StreamAnswerTest, RequestsAreNoAnswers) {
  const std::unique_ptr<FabricEnd> end = Connecting(&peer_);
  EXPECT_TRUE(peer_.Send(HelloBytes(HelloKind::kConnect)));
  ASSERT_TRUE(end->WaitUntilDown());
  EXPECT_TRUE(IsViolation(end->why())) << end->why();
}

TEST_F(StreamAnswerTest, OtherVersionsAreNamed) {
  const std::unique_ptr<FabricEnd> end = Connecting(&peer_);
  Hello hello = MakeHello(HelloKind::kReject, 0, {});
  hello.version = 77;
  EXPECT_TRUE(peer_.Send(SealedHello(hello)));
  ASSERT_TRUE(end->WaitUntilDown());
  EXPECT_EQ(end->error(), EPROTONOSUPPORT);
  EXPECT_THAT(std::string(end->why().message()), HasSubstr("77"));
}

TEST_F(StreamAnswerTest, FeaturesMustBeWhatWasAskedFor) {
  for (const auto& [checksum, features] :
       std::vector<std::pair<bool, uint32_t>>{{true, 0}, {false, 2}, {true, 3}, {true, ~0u}}) {
    const std::unique_ptr<FabricEnd> end = Connecting(&peer_, checksum);
    EXPECT_TRUE(peer_.Send(HelloBytes(HelloKind::kAccept, features)));
    ASSERT_TRUE(end->WaitUntilDown());
    EXPECT_TRUE(IsViolation(end->why())) << end->why();
    EXPECT_FALSE(end->established());
  }
}

TEST_F(StreamAnswerTest, ThePeerMayAskForChecksumsToo) {
  const std::unique_ptr<FabricEnd> end = Connecting(&peer_, /*checksum=*/false);
  EXPECT_TRUE(peer_.Send(HelloBytes(HelloKind::kAccept, kFeaturePayloadCrc)));
  ASSERT_TRUE(end->WaitUntilEstablished());
  RawFrame frame = MakeRawFrame(FrameOpcode::kSend, 0, Pattern(100, 1));
  frame.header.payload_crc = Crc32c(0, frame.payload);
  EXPECT_TRUE(peer_.Send(frame.Sealed()));
  EXPECT_TRUE(end->WaitForMessages(1)) << end->why();
}

TEST_F(StreamAnswerTest, FramesMayComeWithTheAnswer) {
  const std::unique_ptr<FabricEnd> end = Connecting(&peer_);
  EXPECT_TRUE(peer_.Send(HelloBytes(HelloKind::kAccept) +
                         MakeRawFrame(FrameOpcode::kSend, 0, Pattern(100, 1)).Sealed()));
  ASSERT_TRUE(end->WaitForMessages(1)) << end->why();
  EXPECT_THAT(end->messages()[0].data, ElementsAreArray(Pattern(100, 1)));
}

TEST_F(StreamAnswerTest, RejectionMayBeFollowedByAnything) {
  const std::unique_ptr<FabricEnd> end = Connecting(&peer_);
  EXPECT_TRUE(peer_.Send(HelloBytes(HelloKind::kReject, 0xFF, "no") + Bytes(1000, 'x')));
  ASSERT_TRUE(end->WaitUntilDown());
  EXPECT_EQ(end->error(), ECONNREFUSED);
  EXPECT_THAT(end->disconnected_with(), ElementsAreArray(PrivateData("no")));
}

}  // namespace
}  // namespace rnbd::rtrs
