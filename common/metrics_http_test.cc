#include "common/metrics_http.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/timed_io.h"
#include "common/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class MetricsHttpTest : public ::testing::Test {
 protected:
  MetricsHttpTest() {
    UniqueFd listening(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address_);
    EXPECT_EQ(bind(listening.get(), Address(), length), 0);
    EXPECT_EQ(listen(listening.get(), 64), 0);
    EXPECT_EQ(getsockname(listening.get(), Address(), &length), 0);
    auto http = MetricsHttp::Start(std::move(listening),
                                   [this] { return absl::StrCat("asked ", ++asked_, "\n"); });
    EXPECT_TRUE(http.ok()) << http.status();
    http_ = *std::move(http);
  }

  sockaddr* Address() { return reinterpret_cast<sockaddr*>(&address_); }

  UniqueFd Connect() {
    UniqueFd peer(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(peer.get(), Address(), sizeof(address_)), 0);
    return peer;
  }
  static void Say(const UniqueFd& peer, const std::string& text) {
    EXPECT_TRUE(
        SendAll(peer.get(),
                absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size()),
                {absl::Now() + absl::Seconds(20)})
            .ok());
  }
  // All of the answer, up to its end.
  static std::string Hear(const UniqueFd& peer) {
    std::string text;
    uint8_t byte;
    while (
        ReceiveAll(peer.get(), absl::MakeSpan(&byte, 1), {absl::Now() + absl::Seconds(20)}).ok()) {
      text.push_back(static_cast<char>(byte));
    }
    return text;
  }
  std::string Ask(const std::string& line) {
    const UniqueFd peer = Connect();
    Say(peer, absl::StrCat(line, " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    return Hear(peer);
  }

  sockaddr_in address_ = {};
  int asked_ = 0;
  std::unique_ptr<MetricsHttp> http_;
};

TEST_F(MetricsHttpTest, ServesTheTextAsItIsNow) {
  const std::string first = Ask("GET /metrics");
  EXPECT_THAT(first, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(first, HasSubstr("Content-Type: text/plain; version=0.0.4"));
  EXPECT_THAT(first, HasSubstr("\r\n\r\nasked 1\n"));
  EXPECT_THAT(Ask("GET /metrics"), HasSubstr("\r\n\r\nasked 2\n"));
  EXPECT_THAT(Ask("HEAD /metrics"), Not(HasSubstr("asked")));
}

TEST_F(MetricsHttpTest, NothingElseIsThere) {
  EXPECT_THAT(Ask("GET /"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Ask("GET /metrics/../etc/passwd"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Ask("POST /metrics"), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(Ask("nonsense"), Not(HasSubstr("asked")));
  EXPECT_EQ(asked_, 0);
}

TEST_F(MetricsHttpTest, WhoeverIsSlowOrSaysTooMuchIsInNobodysWay) {
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 8; ++i) {
    silent.push_back(Connect());
    Say(silent.back(), "GET /metr");
  }
  EXPECT_THAT(Ask("GET /metrics"), HasSubstr("asked 1\n"));
  const UniqueFd loud = Connect();
  const std::string header = absl::StrCat("X: ", std::string(1000, 'x'), "\r\n");
  Say(loud, "GET /metrics HTTP/1.1\r\n");
  absl::Status said;
  for (int i = 0; i < 100'000 && said.ok(); ++i) {
    said =
        SendAll(loud.get(),
                absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(header.data()), header.size()),
                {absl::Now() + absl::Seconds(20)});
  }
  EXPECT_FALSE(said.ok()) << "it takes a hundred megabytes of headers";
  EXPECT_THAT(Ask("GET /metrics"), HasSubstr("asked 2\n"));
}

TEST_F(MetricsHttpTest, AtTheEndNobodyIsServed) {
  const UniqueFd waits = Connect();
  http_.reset();
  EXPECT_EQ(Hear(waits), "");
  const UniqueFd late(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_NE(connect(late.get(), Address(), sizeof(address_)), 0);
}

}  // namespace
}  // namespace rnbd
