#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/crc32c.h"
#include "common/logging.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/stream_fabric.h"
#include "rtrs/stream_socket.h"
#include "spdlog/sinks/ostream_sink.h"
#include "testing/fabric_harness.h"
#include "testing/raw_stream_peer.h"

// What a peer can do wrong on a socket. Each mistake ends that connection, with a reason that names
// it, within a bounded time; nobody else notices.
namespace rnbd::rtrs {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint32_t kWindow = 4096;
constexpr uint32_t kReceiveBytes = 200;

size_t OpenFiles() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                       std::filesystem::directory_iterator());
}

Bytes BytesOfHello(const Hello& hello) {
  const absl::Span<const uint8_t> bytes = MessageBytes(hello);
  return Bytes(bytes.begin(), bytes.end());
}

// With the CRC of what is in it.
Bytes SealedHello(Hello hello) {
  hello.crc = Crc32c(0, MessageBytes(hello).first(offsetof(Hello, crc)));
  return BytesOfHello(hello);
}

// A listener that accepts everybody, and a connection of somebody who behaves.
class StreamViolationsTest : public testing::Test {
 protected:
  static StreamOptions Options() {
    StreamOptions options;
    // Longer than a busy machine keeps this test's threads waiting between two steps.
    options.hello_timeout = absl::Seconds(2);
    options.goodbye_timeout = absl::Seconds(1);
    options.max_greeting = 8;
    return options;
  }

  explicit StreamViolationsTest(const StreamOptions& options = Options())
      : thread_(StartRingThread("server")),
        client_thread_(StartRingThread("client")),
        fabric_(options),
        acceptor_(thread_.get()) {
    const absl::Status listening =
        acceptor_.Listen(&fabric_, *ParseServerAddress(AddressScheme::kTcp, "127.0.0.1:0"));
    EXPECT_TRUE(listening.ok()) << listening;
    open_files_ = OpenFiles();
    bystander_client_ = std::make_unique<FabricEnd>(client_thread_.get());
    bystander_server_ = std::make_unique<FabricEnd>(thread_.get());
    ConnectEnds(&fabric_, &acceptor_, bystander_client_.get(), bystander_server_.get());
  }

  ~StreamViolationsTest() override {
    bystander_client_->Post(bystander_client_->Request(Opcode::kSend, 0, 10));
    EXPECT_TRUE(bystander_server_->WaitForMessages(1)) << "the bystander was hurt";
    bystander_client_.reset();
    bystander_server_.reset();
    // A socket whose last operation was cancelled is closed a moment later.
    const absl::Time limit = absl::Now() + kPatience;
    while (OpenFiles() > open_files_ && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_LE(OpenFiles(), open_files_) << "a socket was left open";
  }

  ListenerCounters counters() {
    ListenerCounters counters = acceptor_.listener()->counters();
    --counters.incoming;  // the bystander
    return counters;
  }

  // Waits for a counter of the listener.
  void ExpectCount(uint64_t ListenerCounters::*counter, uint64_t expected) {
    const absl::Time limit = absl::Now() + kPatience;
    while (counters().*counter < expected && absl::Now() < limit) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_EQ(counters().*counter, expected);
  }

  // Says hello, and accepts it.
  struct Accepted {
    std::unique_ptr<FabricEnd> end;
    RawStreamPeer peer;  // goes first, so that the end need not wait for it
  };
  Accepted Greeted(uint32_t features = 0, uint32_t receives = 8, const Bytes& behind = {}) {
    Accepted accepted = {nullptr, RawStreamPeer::ConnectTo(acceptor_.address())};
    EXPECT_TRUE(accepted.peer.Send(HelloBytes(HelloKind::kConnect, features, "raw") + behind));
    std::unique_ptr<IncomingConnection> incoming = acceptor_.Next();
    EXPECT_NE(incoming, nullptr);
    accepted.end = std::make_unique<FabricEnd>(
        thread_.get(), EndOptions{.limits = {.send_requests = 8, .receives = receives},
                                  .receives = receives,
                                  .receive_bytes = kReceiveBytes,
                                  .window_bytes = kWindow,
                                  .source_bytes = kWindow});
    accepted.end->CreateFor(incoming.get());
    accepted.end->Accept(PrivateData("welcome"));
    EXPECT_TRUE(accepted.end->WaitUntilEstablished());
    const Bytes hello = accepted.peer.Receive(sizeof(Hello));
    EXPECT_THAT(hello, ElementsAreArray(HelloBytes(HelloKind::kAccept, features, "welcome")));
    return accepted;
  }

  // The peer went too far: the connection ends, and says why to both.
  static void ExpectViolation(Accepted* accepted, const std::string& text) {
    const Bytes goodbye = accepted->peer.ReceiveAll();
    EXPECT_EQ(GoodbyeError(goodbye), EPROTO);
    EXPECT_THAT(std::string(goodbye.begin(), goodbye.end()), HasSubstr(text));
    accepted->peer.Close();
    ASSERT_TRUE(accepted->end->WaitUntilDown());
    EXPECT_TRUE(IsViolation(accepted->end->why())) << accepted->end->why();
    EXPECT_THAT(std::string(accepted->end->why().message()), HasSubstr(text));
  }

  std::unique_ptr<RingThread> thread_;
  std::unique_ptr<RingThread> client_thread_;
  StreamFabric fabric_;
  FabricAcceptor acceptor_;
  std::unique_ptr<FabricEnd> bystander_client_;
  std::unique_ptr<FabricEnd> bystander_server_;
  size_t open_files_ = 0;
};

using StreamHelloTest = StreamViolationsTest;
using StreamFramesTest = StreamViolationsTest;

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

// The accepting end, done by hand.
class StreamAnswerTest : public StreamViolationsTest {
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
