#include "rtrs/stream_socket.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::rtrs {
namespace {

using ::testing::HasSubstr;

bool Exists(const std::string& path) {
  struct stat file;
  return lstat(path.c_str(), &file) == 0;
}

int TryToConnect(const Address& address) {
  const absl::StatusOr<SocketAddress> to = ToSocketAddress(address);
  EXPECT_TRUE(to.ok()) << to.status();
  absl::StatusOr<UniqueFd> socket = OpenStreamSocket(to->family(), {});
  EXPECT_TRUE(socket.ok()) << socket.status();
  return connect(socket->get(), to->get(), to->length) == 0 ? 0 : errno;
}

class StreamSocketTest : public testing::Test {
 protected:
  StreamSocketTest() {
    // Short enough for a sockaddr_un.
    char name[] = "/tmp/rnbd-socket-XXXXXX";
    directory_ = mkdtemp(name);
    address_ = *ParseServerAddress(AddressScheme::kUnix, directory_ + "/server.sock");
  }
  ~StreamSocketTest() override {
    for (const char* name : {"/server.sock", "/other"}) unlink((directory_ + name).c_str());
    EXPECT_EQ(rmdir(directory_.c_str()), 0) << "something was left behind";
  }

  // What a server that was killed leaves behind.
  void LeaveSocketBehind() {
    const absl::StatusOr<SocketAddress> to = ToSocketAddress(address_);
    const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM, 0));
    ASSERT_EQ(bind(socket.get(), to->get(), to->length), 0);
    ASSERT_EQ(listen(socket.get(), 1), 0);
  }

  std::string directory_;
  Address address_;
};

TEST_F(StreamSocketTest, ListensOnUnixAndCleansUp) {
  {
    const absl::StatusOr<ListeningSocket> socket = ListeningSocket::Open(address_);
    ASSERT_TRUE(socket.ok()) << socket.status();
    EXPECT_EQ(socket->address(), address_);
    EXPECT_EQ(TryToConnect(address_), 0);
  }
  EXPECT_FALSE(Exists(address_.path));
}

TEST_F(StreamSocketTest, AUnixSocketHasTheModeThatIsAskedForFromTheBeginning) {
  const absl::StatusOr<ListeningSocket> socket = ListeningSocket::Open(address_, 0600);
  ASSERT_TRUE(socket.ok()) << socket.status();
  struct stat file;
  ASSERT_EQ(lstat(address_.path.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, mode_t{0600});
}

TEST_F(StreamSocketTest, ReplacesASocketThatWasLeftBehind) {
  LeaveSocketBehind();
  ASSERT_TRUE(Exists(address_.path));
  const absl::StatusOr<ListeningSocket> socket = ListeningSocket::Open(address_);
  ASSERT_TRUE(socket.ok()) << socket.status();
  EXPECT_EQ(TryToConnect(address_), 0);
}

TEST_F(StreamSocketTest, LeavesALivingSocketAlone) {
  const absl::StatusOr<ListeningSocket> first = ListeningSocket::Open(address_);
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::StatusOr<ListeningSocket> second = ListeningSocket::Open(address_);
  EXPECT_EQ(StatusToErrno(second.status()), EADDRINUSE) << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(address_.path));
  EXPECT_EQ(TryToConnect(address_), 0);
}

TEST_F(StreamSocketTest, LeavesALivingSocketAloneWhoseBacklogIsFull) {
  const absl::StatusOr<SocketAddress> to = ToSocketAddress(address_);
  const UniqueFd busy(::socket(AF_UNIX, SOCK_STREAM, 0));
  ASSERT_EQ(bind(busy.get(), to->get(), to->length), 0);
  ASSERT_EQ(listen(busy.get(), 0), 0);
  std::vector<UniqueFd> waiting;
  int error = 0;
  while (error == 0 && waiting.size() < 100) {
    waiting.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
    error = connect(waiting.back().get(), to->get(), to->length) == 0 ? 0 : errno;
  }
  ASSERT_EQ(error, EAGAIN);
  EXPECT_EQ(StatusToErrno(ListeningSocket::Open(address_).status()), EADDRINUSE);
  EXPECT_TRUE(Exists(address_.path));
}

// A slip of the pen in a configuration must not cost anybody a file.
TEST_F(StreamSocketTest, LeavesOtherFilesAlone) {
  std::ofstream(address_.path) << "an image";
  EXPECT_EQ(StatusToErrno(ListeningSocket::Open(address_).status()), EADDRINUSE);
  std::string text;
  std::getline(std::ifstream(address_.path), text);
  EXPECT_EQ(text, "an image");

  ASSERT_EQ(unlink(address_.path.c_str()), 0);
  ASSERT_EQ(symlink((directory_ + "/other").c_str(), address_.path.c_str()), 0);
  std::ofstream(directory_ + "/other") << "an image";
  EXPECT_EQ(StatusToErrno(ListeningSocket::Open(address_).status()), EADDRINUSE);
  EXPECT_TRUE(Exists(address_.path));
  EXPECT_TRUE(Exists(directory_ + "/other"));

  ASSERT_EQ(unlink(address_.path.c_str()), 0);
  ASSERT_EQ(mkdir(address_.path.c_str(), 0700), 0);
  EXPECT_EQ(StatusToErrno(ListeningSocket::Open(address_).status()), EADDRINUSE);
  ASSERT_EQ(rmdir(address_.path.c_str()), 0);
}

TEST_F(StreamSocketTest, RemovesItsOwnFileOnly) {
  absl::StatusOr<ListeningSocket> first = ListeningSocket::Open(address_);
  ASSERT_TRUE(first.ok()) << first.status();
  // Somebody else has taken the place.
  ASSERT_EQ(unlink(address_.path.c_str()), 0);
  LeaveSocketBehind();
  first->Close();
  EXPECT_TRUE(Exists(address_.path));
}

TEST_F(StreamSocketTest, CloseFreesTheAddressAtOnce) {
  absl::StatusOr<ListeningSocket> first = ListeningSocket::Open(address_);
  ASSERT_TRUE(first.ok()) << first.status();
  // Somebody still holds the file, as an operation does that is being cancelled.
  const UniqueFd held(dup(first->get()));
  first->Close();
  EXPECT_EQ(TryToConnect(address_), ENOENT);
  EXPECT_TRUE(ListeningSocket::Open(address_).ok());

  const Address any = *ParseServerAddress(AddressScheme::kTcp, "127.0.0.1:0");
  absl::StatusOr<ListeningSocket> tcp = ListeningSocket::Open(any);
  ASSERT_TRUE(tcp.ok()) << tcp.status();
  const Address address = tcp->address();
  const UniqueFd held_tcp(dup(tcp->get()));
  tcp->Close();
  EXPECT_EQ(TryToConnect(address), ECONNREFUSED);
  EXPECT_TRUE(ListeningSocket::Open(address).ok());
}

TEST_F(StreamSocketTest, OneOfThoseThatStartAtOnceWins) {
  for (int round = 0; round < 20; ++round) {
    LeaveSocketBehind();
    std::atomic<int> won{0};
    std::vector<std::unique_ptr<ListeningSocket>> sockets(4);
    std::vector<std::thread> threads;
    for (std::unique_ptr<ListeningSocket>& place : sockets) {
      threads.emplace_back([&] {
        absl::StatusOr<ListeningSocket> socket = ListeningSocket::Open(address_);
        if (!socket.ok()) return;
        ++won;
        place = std::make_unique<ListeningSocket>(*std::move(socket));
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(won, 1);
    EXPECT_EQ(TryToConnect(address_), 0) << "the winner is the one who can be reached";
  }
}

TEST_F(StreamSocketTest, ErrorsNameTheAddress) {
  const Address nowhere =
      *ParseServerAddress(AddressScheme::kUnix, directory_ + "/missing/server.sock");
  const absl::Status status = ListeningSocket::Open(nowhere).status();
  EXPECT_EQ(StatusToErrno(status), ENOENT);
  EXPECT_THAT(std::string(status.message()), HasSubstr(nowhere.path));
  // An address of documentation, which nobody has.
  const Address foreign = *ParseServerAddress(AddressScheme::kTcp, "192.0.2.1:0");
  const absl::Status not_ours = ListeningSocket::Open(foreign).status();
  EXPECT_EQ(StatusToErrno(not_ours), EADDRNOTAVAIL);
  EXPECT_THAT(std::string(not_ours.message()), HasSubstr("192.0.2.1"));
}

TEST_F(StreamSocketTest, ListensOnBothFamilies) {
  const absl::StatusOr<ListeningSocket> socket =
      ListeningSocket::Open(*ParseServerAddress(AddressScheme::kTcp, "[::]:0"));
  ASSERT_TRUE(socket.ok()) << socket.status();
  EXPECT_GT(socket->address().port, 0);
  for (const char* host : {"127.0.0.1", "[::1]"}) {
    const absl::StatusOr<Address> to =
        ParseAddress(absl::StrCat("tcp:", host, ":", socket->address().port));
    ASSERT_TRUE(to.ok());
    EXPECT_EQ(TryToConnect(*to), 0) << host;
  }
}

// A connection that is lost on the way ends in time, though nothing is being sent.
TEST_F(StreamSocketTest, BoundsSilenceOnTcp) {
  absl::StatusOr<UniqueFd> socket = OpenStreamSocket(AF_INET, {});
  ASSERT_TRUE(socket.ok()) << socket.status();
  auto option = [&](int level, int name) {
    int value = 0;
    socklen_t length = sizeof(value);
    EXPECT_EQ(getsockopt(socket->get(), level, name, &value, &length), 0);
    return value;
  };
  EXPECT_EQ(option(SOL_SOCKET, SO_KEEPALIVE), 1);
  EXPECT_LE(option(IPPROTO_TCP, TCP_KEEPIDLE) + option(IPPROTO_TCP, TCP_KEEPINTVL), 40);
  EXPECT_EQ(option(IPPROTO_TCP, TCP_USER_TIMEOUT), 40000);
}

TEST_F(StreamSocketTest, ConnectsFromASource) {
  const absl::StatusOr<ListeningSocket> listener =
      ListeningSocket::Open(*ParseServerAddress(AddressScheme::kTcp, "127.0.0.1:0"));
  ASSERT_TRUE(listener.ok());
  const absl::StatusOr<Address> source = ParseAddress("tcp:127.0.0.2", 0);
  ASSERT_TRUE(source.ok());
  const absl::StatusOr<UniqueFd> socket = OpenStreamSocket(AF_INET, *source);
  ASSERT_TRUE(socket.ok()) << socket.status();
  const absl::StatusOr<SocketAddress> to = ToSocketAddress(listener->address());
  ASSERT_EQ(connect(socket->get(), to->get(), to->length), 0);
  EXPECT_EQ(LocalAddress(socket->get(), AddressScheme::kTcp)->host, "127.0.0.2");
  EXPECT_EQ(*PeerAddress(socket->get(), AddressScheme::kTcp), listener->address());
  int no_delay = 0;
  socklen_t length = sizeof(no_delay);
  ASSERT_EQ(getsockopt(socket->get(), IPPROTO_TCP, TCP_NODELAY, &no_delay, &length), 0);
  EXPECT_EQ(no_delay, 1);
}

TEST_F(StreamSocketTest, SourceThatIsNotOurs) {
  const absl::StatusOr<Address> source = ParseAddress("tcp:192.0.2.1", 0);
  const absl::Status status = OpenStreamSocket(AF_INET, *source).status();
  EXPECT_EQ(StatusToErrno(status), EADDRNOTAVAIL);
  EXPECT_THAT(std::string(status.message()), HasSubstr("192.0.2.1"));
}

}  // namespace
}  // namespace rnbd::rtrs
