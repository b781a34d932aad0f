#include "testing/torture/weather_proxy.h"

#include <sys/socket.h>

#include <cerrno>
#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "rtrs/address.h"
#include "rtrs/stream_socket.h"
#include "testing/socket_path.h"

namespace rnbd::testing {
namespace {

using rtrs::Address;

class WeatherProxyTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    auto server = rtrs::ListeningSocket::Open(Somewhere());
    ASSERT_TRUE(server.ok()) << server.status();
    server_.emplace(*std::move(server));
    const absl::Status status = proxy_.AddRoute("a", Somewhere(), server_->address());
    ASSERT_TRUE(status.ok()) << status;
    ConnectBoth();
  }

  static Address Somewhere() {
    if (!GetParam()) return *rtrs::ParseAddress("tcp:127.0.0.1:0");
    return *rtrs::ParseAddress(absl::StrCat("unix:", UnusedSocketPath()));
  }

  // An errno.
  int Connect() {
    const rtrs::SocketAddress address = *rtrs::ToSocketAddress(*proxy_.AddressOf("a"));
    client_ = UniqueFd(socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    return connect(client_.get(), address.get(), address.length) == 0 ? 0 : errno;
  }
  void ConnectBoth() {
    ASSERT_EQ(Connect(), 0);
    const int before = Command("count");
    ASSERT_TRUE(Pump([&] { return Command("count") == before + 1; }));
    peer_ = UniqueFd(accept(server_->get(), nullptr, nullptr));
    ASSERT_TRUE(peer_.valid());
  }
  int Command(const std::string& command) {
    const absl::StatusOr<int> result = proxy_.Command("a " + command);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.value_or(-1);
  }
  bool Pump(const std::function<bool()>& done, absl::Duration limit = absl::Seconds(10)) {
    const absl::Time end = absl::Now() + limit;
    while (!done()) {
      if (absl::Now() > end) return false;
      proxy_.Turn(-1, absl::Milliseconds(5));
    }
    return true;
  }

  // Reads what is there: bytes, "EOF", or an error's name; "" if there is nothing.
  static std::string Read(const UniqueFd& socket) {
    char buffer[65536];
    const ssize_t bytes = recv(socket.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    if (bytes > 0) return std::string(buffer, static_cast<size_t>(bytes));
    if (bytes == 0) return "EOF";
    return errno == EAGAIN ? "" : errno == ECONNRESET ? "RESET" : "?";
  }
  std::string Receive(const UniqueFd& socket, absl::Duration limit = absl::Seconds(10)) {
    std::string text;
    Pump(
        [&] {
          text = Read(socket);
          return !text.empty();
        },
        limit);
    return text;
  }
  static void Send(const UniqueFd& socket, const std::string& text) {
    EXPECT_EQ(send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  static constexpr absl::Duration kShort = absl::Milliseconds(100);

  absl::optional<rtrs::ListeningSocket> server_;
  WeatherProxy proxy_;
  UniqueFd client_;
  UniqueFd peer_;
};

INSTANTIATE_TEST_SUITE_P(Sockets, WeatherProxyTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Unix" : "Tcp"; });

TEST_P(WeatherProxyTest, PassesOnBothWays) {
  Send(client_, "there");
  EXPECT_EQ(Receive(peer_), "there");
  Send(peer_, "back");
  EXPECT_EQ(Receive(client_), "back");
}

TEST_P(WeatherProxyTest, PassesOnAnEnd) {
  Send(client_, "last");
  shutdown(client_.get(), SHUT_WR);
  EXPECT_EQ(Receive(peer_), "last");
  EXPECT_EQ(Receive(peer_), "EOF");
  Send(peer_, "answer");
  EXPECT_EQ(Receive(client_), "answer");
  peer_.reset(-1);
  EXPECT_EQ(Receive(client_), "EOF");
  EXPECT_TRUE(Pump([&] { return Command("count") == 0; }));
}

TEST_P(WeatherProxyTest, CutsAndResets) {
  EXPECT_EQ(Command("cut"), 1);
  EXPECT_EQ(Receive(client_), "EOF");
  EXPECT_EQ(Receive(peer_), "EOF");
  ConnectBoth();
  EXPECT_EQ(Command("reset"), 1);
  // A Unix socket breaks without a word.
  const std::string expected = GetParam() ? "EOF" : "RESET";
  EXPECT_EQ(Receive(client_), expected);
  EXPECT_EQ(Receive(peer_), expected);
  ConnectBoth();
  EXPECT_EQ(Command("reset_one 5"), 1);
  EXPECT_EQ(Receive(client_), expected);
}

TEST_P(WeatherProxyTest, RefusesAndAcceptsAgainAtTheSamePlace) {
  Command("refuse");
  UniqueFd first = std::move(client_);
  const int error = Connect();
  EXPECT_TRUE(error == ECONNREFUSED || error == ENOENT) << error;
  Send(first, "still there");
  EXPECT_EQ(Receive(peer_), "still there");
  Command("accept");
  ConnectBoth();
}

TEST_P(WeatherProxyTest, StallsInSilenceAndGoesOn) {
  Command("stall");
  Send(client_, "late");
  EXPECT_EQ(Receive(peer_, kShort), "");
  client_.reset(-1);
  EXPECT_EQ(Receive(peer_, kShort), "");
  Command("go_on");
  EXPECT_EQ(Receive(peer_), "late");
  EXPECT_EQ(Receive(peer_), "EOF");
}

TEST_P(WeatherProxyTest, ForgetsTowardsTheServerOnly) {
  Command("forget");
  EXPECT_NE(Receive(peer_), "");
  EXPECT_EQ(Receive(client_, kShort), "");
  Command("clear");
  EXPECT_NE(Receive(client_), "");
}

TEST_P(WeatherProxyTest, Delays) {
  Command("delay 80");
  const absl::Time begin = absl::Now();
  Send(client_, "slow");
  EXPECT_EQ(Receive(peer_), "slow");
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(80));
}

TEST_P(WeatherProxyTest, LimitsTheRate) {
  Command("limit 200000");
  const absl::Time begin = absl::Now();
  Send(client_, std::string(40000, 'x'));
  size_t received = 0;
  EXPECT_TRUE(Pump([&] {
    received += Read(peer_).size();
    return received == 40000;
  }));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(150));
}

TEST_P(WeatherProxyTest, SaysWhatItDoesNotKnow) {
  EXPECT_FALSE(proxy_.Command("b cut").ok());
  EXPECT_FALSE(proxy_.Command("a dance").ok());
  EXPECT_FALSE(proxy_.Command("a").ok());
  EXPECT_FALSE(proxy_.Command("a delay much").ok());
  EXPECT_TRUE(proxy_.Command("* clear").ok());
}

}  // namespace
}  // namespace rnbd::testing
