// A session with a server that lies.

#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "client/mapped_session.h"
#include "common/rnbd_messages.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/server.h"
#include "testing/device_server.h"
#include "testing/mapped_session_fixture.h"
#include "testing/session_harness.h"
#include "testing/socket_path.h"

namespace rnbd::client {
namespace {

using rtrs::Eventually;
using testing::DeviceServer;
using testing::TestSessionConfig;

// Answers as a function says; data of a reply is what the function left in the chunk.
class ScriptedServer final : private rtrs::ServerHandler {
 public:
  using Answer = std::function<int(RnbdMessageType type, absl::Span<const uint8_t> message,
                                   absl::Span<uint8_t> reply)>;

  ScriptedServer(rtrs::Fabric* fabric, Answer answer)
      : answer_(std::move(answer)), threads_("scripted", 1) {
    threads_.control()->RunAndWait([&] {
      rtrs::ServerHandler* handler = this;
      server_ =
          std::make_unique<rtrs::Server>(DeviceServer::DefaultRtrsOptions(),
                                         threads_.control()->ring(), threads_.workers(), handler);
      address_ = *server_->Listen(
          fabric, *rtrs::ParseAddress(absl::StrCat("unix:", testing::UnusedSocketPath())));
    });
  }
  ~ScriptedServer() {
    absl::Notification stopped;
    threads_.control()->RunAndWait([&] {
      server_->Shutdown(ErrnoToStatus(ESHUTDOWN, "the test ends"), [&] {
        server_.reset();
        stopped.Notify();
      });
    });
    stopped.WaitForNotification();
    threads_.Settle();
  }

  rtrs::PathAddress path() const { return {.source = {}, .destination = address_}; }

  // Ids that clients closed.
  std::vector<uint32_t> closed() {
    absl::MutexLock lock(&mutex_);
    return closed_;
  }

 private:
  class Session final : public rtrs::ServerSessionHandler {
   public:
    explicit Session(ScriptedServer* server) : server_(server) {}
    absl::Status MayJoin(const rtrs::Address&) override { return absl::OkStatus(); }
    void OnRequest(rtrs::ServerRequest* request) override {
      const RnbdMessageType type = *ParseUserMessageType(request->user_message());
      if (type == RnbdMessageType::kClose) {
        absl::MutexLock lock(&server_->mutex_);
        server_->closed_.push_back(*ParseClose(request->user_message(), request->direction(), 0));
      }
      request->Complete(server_->answer_(type, request->user_message(), request->data()));
    }

   private:
    ScriptedServer* const server_;
  };

  absl::Status MayBegin(const std::string&, const rtrs::Address&) override {
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<rtrs::ServerSessionHandler>> OnSession(
      const rtrs::ServerSessionInfo&) override {
    return std::make_unique<Session>(this);
  }

  const Answer answer_;
  rtrs::TestThreads threads_;
  rtrs::Address address_;
  std::unique_ptr<rtrs::Server> server_;
  absl::Mutex mutex_;
  std::vector<uint32_t> closed_ ABSL_GUARDED_BY(mutex_);
};

class MappedSessionRepliesTest : public testing::MappedSessionFixture {};

DeviceGeometry GoodGeometry() {
  DeviceGeometry geometry;
  geometry.nsectors = 2048;
  geometry.writeback = true;
  return geometry;
}

template <typename Message>
int Reply(const Message& message, absl::Span<uint8_t> reply) {
  std::memcpy(reply.data(), &message, sizeof(message));
  return 0;
}

TEST_F(MappedSessionRepliesTest, GivesBackADeviceWhoseGeometryIsImpossible) {
  for (int kind = 0; kind < 4; ++kind) {
    ScriptedServer server(&fabric_, [kind](RnbdMessageType type, absl::Span<const uint8_t>,
                                           absl::Span<uint8_t> reply) {
      if (type == RnbdMessageType::kSessInfo) return Reply(MakeSessInfoResponse(2), reply);
      if (type != RnbdMessageType::kOpen) return 0;
      OpenResponse response = MakeOpenResponse(42, GoodGeometry());
      if (kind == 0) response.logical_block_size = 0;
      if (kind == 1) response.logical_block_size = 513;
      if (kind == 2) response.nsectors = ~uint64_t{0};
      if (kind == 3) {
        response.nsectors = kDiskBytes / 512 + 1;
        response.logical_block_size = 4096;
      }
      return Reply(response, reply);
    });
    config_ = TestSessionConfig(server.path(), {"disk0"});
    StartClient();
    EXPECT_EQ(StatusToErrno(client_->WaitFailed("disk0")), EINVAL);
    EXPECT_TRUE(Eventually([&] { return !server.closed().empty(); }));
    EXPECT_EQ(server.closed()[0], 42u);
    EXPECT_TRUE(client_->Close().ok());
    client_.reset();
  }
}

TEST_F(MappedSessionRepliesTest, BelievesNoReplyThatIsNone) {
  std::atomic<int> opens{0};
  ScriptedServer server(&fabric_, [&opens](RnbdMessageType type, absl::Span<const uint8_t>,
                                           absl::Span<uint8_t> reply) {
    if (type == RnbdMessageType::kSessInfo) return Reply(MakeSessInfoResponse(2), reply);
    if (type == RnbdMessageType::kOpen && opens.fetch_add(1) == 0) {
      std::memset(reply.data(), 0, reply.size());  // success, and not a word more
      return 0;
    }
    if (type == RnbdMessageType::kOpen) return Reply(MakeOpenResponse(7, GoodGeometry()), reply);
    return 0;
  });
  config_ = TestSessionConfig(server.path(), {"disk0"});
  StartClient();
  EXPECT_EQ(StatusToErrno(client_->WaitFailed("disk0")), EPROTO);
  EXPECT_EQ(client_->WaitOpen("disk0")->size(), kDiskBytes);
  EXPECT_TRUE(server.closed().empty()) << "an id that was never given out was closed";
  EXPECT_TRUE(client_->Close().ok());
  EXPECT_THAT(server.closed(), ::testing::ElementsAre(7));
  client_.reset();
}

TEST_F(MappedSessionRepliesTest, ASessInfoThatIsRefusedIsTriedAgain) {
  std::atomic<int> infos{0};
  ScriptedServer server(&fabric_, [&infos](RnbdMessageType type, absl::Span<const uint8_t>,
                                           absl::Span<uint8_t> reply) {
    if (type == RnbdMessageType::kSessInfo && infos.fetch_add(1) == 0) return EINVAL;
    if (type == RnbdMessageType::kSessInfo) return Reply(MakeSessInfoResponse(1), reply);
    if (type == RnbdMessageType::kOpen) {
      EXPECT_EQ(infos.load(), 2) << "OPEN before SESS_INFO was answered";
      return Reply(MakeOpenResponse(0, GoodGeometry()), reply);
    }
    return 0;
  });
  config_ = TestSessionConfig(server.path(), {"disk0"});
  StartClient();
  EXPECT_EQ(StatusToErrno(client_->WaitFailed("disk0")), EINVAL);
  client_->WaitOpen("disk0");
  EXPECT_TRUE(client_->Close().ok());
  client_.reset();
}

}  // namespace
}  // namespace rnbd::client
