#ifndef RNBD_TESTING_STREAM_VIOLATIONS_FIXTURE_H_
#define RNBD_TESTING_STREAM_VIOLATIONS_FIXTURE_H_

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/crc32c.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/stream_fabric.h"
#include "rtrs/stream_socket.h"
#include "testing/fabric_harness.h"
#include "testing/raw_stream_peer.h"

// What tests share in which a peer on a socket makes mistakes.
namespace rnbd::rtrs {

inline constexpr uint32_t kWindow = 4096;
inline constexpr uint32_t kReceiveBytes = 200;

inline size_t OpenFiles() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                       std::filesystem::directory_iterator());
}

inline Bytes BytesOfHello(const Hello& hello) {
  const absl::Span<const uint8_t> bytes = MessageBytes(hello);
  return Bytes(bytes.begin(), bytes.end());
}

// With the CRC of what is in it.
inline Bytes SealedHello(Hello hello) {
  hello.crc = Crc32c(0, MessageBytes(hello).first(offsetof(Hello, crc)));
  return BytesOfHello(hello);
}

// A listener that accepts everybody, and a connection of somebody who behaves.
class StreamViolationsFixture : public ::testing::Test {
 protected:
  static StreamOptions Options() {
    StreamOptions options;
    // Longer than a busy machine keeps this test's threads waiting between two steps.
    options.hello_timeout = absl::Seconds(2);
    options.goodbye_timeout = absl::Seconds(1);
    options.max_greeting = 8;
    return options;
  }

  explicit StreamViolationsFixture(const StreamOptions& options = Options())
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

  ~StreamViolationsFixture() override {
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
  Accepted Greeted(uint32_t features = 0, uint32_t receives = 8, const Bytes& behind = {},
                   uint32_t window = kWindow) {
    Accepted accepted = {nullptr, RawStreamPeer::ConnectTo(acceptor_.address())};
    EXPECT_TRUE(accepted.peer.Send(HelloBytes(HelloKind::kConnect, features, "raw") + behind));
    std::unique_ptr<IncomingConnection> incoming = acceptor_.Next();
    EXPECT_NE(incoming, nullptr);
    accepted.end = std::make_unique<FabricEnd>(
        thread_.get(), EndOptions{.limits = {.send_requests = 8, .receives = receives},
                                  .receives = receives,
                                  .receive_bytes = kReceiveBytes,
                                  .window_bytes = window,
                                  .source_bytes = kWindow});
    accepted.end->CreateFor(incoming.get());
    accepted.end->Accept(PrivateData("welcome"));
    EXPECT_TRUE(accepted.end->WaitUntilEstablished());
    const Bytes hello = accepted.peer.Receive(sizeof(Hello));
    EXPECT_THAT(hello,
                ::testing::ElementsAreArray(HelloBytes(HelloKind::kAccept, features, "welcome")));
    return accepted;
  }

  // The peer went too far: the connection ends, and says why to both.
  static void ExpectViolation(Accepted* accepted, const std::string& text) {
    const Bytes goodbye = accepted->peer.ReceiveAll();
    EXPECT_EQ(GoodbyeError(goodbye), EPROTO);
    EXPECT_THAT(std::string(goodbye.begin(), goodbye.end()), ::testing::HasSubstr(text));
    accepted->peer.Close();
    ASSERT_TRUE(accepted->end->WaitUntilDown());
    EXPECT_TRUE(IsViolation(accepted->end->why())) << accepted->end->why();
    EXPECT_THAT(std::string(accepted->end->why().message()), ::testing::HasSubstr(text));
  }

  std::unique_ptr<RingThread> thread_;
  std::unique_ptr<RingThread> client_thread_;
  StreamFabric fabric_;
  FabricAcceptor acceptor_;
  std::unique_ptr<FabricEnd> bystander_client_;
  std::unique_ptr<FabricEnd> bystander_server_;
  size_t open_files_ = 0;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_TESTING_STREAM_VIOLATIONS_FIXTURE_H_
