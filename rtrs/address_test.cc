#include "rtrs/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "absl/hash/hash_testing.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::rtrs {
namespace {

using ::testing::HasSubstr;

std::string Parsed(absl::string_view text) {
  const absl::StatusOr<Address> address = ParseAddress(text);
  return address.ok() ? address->ToString() : std::string(address.status().message());
}

struct Case {
  std::string text;
  Address expected;
  std::string canonical;
};

Address Tcp(const std::string& host, uint16_t port) {
  return {AddressScheme::kTcp, host, port, ""};
}
Address Ip(const std::string& host, uint16_t port) { return {AddressScheme::kIp, host, port, ""}; }
Address Gid(const std::string& host, uint16_t port) {
  return {AddressScheme::kGid, host, port, ""};
}
Address Unix(const std::string& path) { return {AddressScheme::kUnix, "", 0, path}; }

TEST(ParseAddress, AcceptsEveryForm) {
  const std::string gid = "fe80:0000:0000:0000:0202:c9ff:fe39:7c11";
  const std::vector<Case> cases = {
      {"tcp:127.0.0.1:1234", Tcp("127.0.0.1", 1234), "tcp:127.0.0.1:1234"},
      {"tcp:127.0.0.1", Tcp("127.0.0.1", 1234), "tcp:127.0.0.1:1234"},
      {"tcp:[::1]:99", Tcp("::1", 99), "tcp:[::1]:99"},
      {"tcp:[0:0:0:0:0:0:0:1]", Tcp("::1", 1234), "tcp:[::1]:1234"},
      {"tcp:[fe80::1%eth0]:1", Tcp("fe80::1%eth0", 1), "tcp:[fe80::1%eth0]:1"},
      {"tcp:[::ffff:10.0.0.1]:1", Tcp("10.0.0.1", 1), "tcp:10.0.0.1:1"},
      {"tcp:Store-1.example.org", Tcp("store-1.example.org", 1234), "tcp:store-1.example.org:1234"},
      {"tcp:localhost:65535", Tcp("localhost", 65535), "tcp:localhost:65535"},
      {"tcp:127.0.0.1:0", Tcp("127.0.0.1", 0), "tcp:127.0.0.1"},
      {"unix:/run/x.sock", Unix("/run/x.sock"), "unix:/run/x.sock"},
      {"unix:/run/a,b@c:1", Unix("/run/a,b@c:1"), "unix:/run/a,b@c:1"},
      {"ip:10.0.0.1", Ip("10.0.0.1", 1234), "ip:10.0.0.1"},
      {"ip:10.0.0.1:77", Ip("10.0.0.1", 77), "ip:10.0.0.1:77"},
      {"ip:fe80::1", Ip("fe80::1", 1234), "ip:fe80::1"},
      {"ip:2001:DB8:0::1", Ip("2001:db8::1", 1234), "ip:2001:db8::1"},
      {"ip:[fe80::1]:77", Ip("fe80::1", 77), "ip:[fe80::1]:77"},
      {"gid:" + gid, Gid(gid, 1234), "gid:" + gid},
      {"gid:fe80::202:c9ff:fe39:7c11", Gid(gid, 1234), "gid:" + gid},
      {"gid:[fe80::202:c9ff:fe39:7c11]:40000", Gid(gid, 40000), "gid:[" + gid + "]:40000"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.text);
    const absl::StatusOr<Address> address = ParseAddress(c.text);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(*address, c.expected);
    EXPECT_EQ(address->ToString(), c.canonical);
    if (address->scheme != AddressScheme::kUnix && address->port == 0) continue;
    EXPECT_EQ(*ParseAddress(address->ToString()), *address) << "must read back what it prints";
  }
}

TEST(ParseAddress, TakesTheDefaultPortOfTheCaller) {
  EXPECT_EQ(ParseAddress("ip:fe80::1", 4321)->port, 4321);
  EXPECT_EQ(ParseAddress("ip:[fe80::1]:5", 4321)->port, 5);
  EXPECT_EQ(ParseAddress("unix:/x", 4321)->port, 0);
}

TEST(ParseAddress, MissingSchemeHasTheKernelsErrno) {
  for (const char* text : {"", "127.0.0.1:1234", "[::1]:1", "udp:127.0.0.1", "TCP:127.0.0.1",
                           "/run/x.sock", "tcp", ":"}) {
    SCOPED_TRACE(text);
    const absl::Status status = ParseAddress(text).status();
    EXPECT_EQ(StatusToErrno(status), EPROTONOSUPPORT);
    EXPECT_EQ(status.message(), absl::StrCat("address \"", text,
                                             "\": expected it to begin with tcp:, unix:, ip: or "
                                             "gid:"));
  }
}

TEST(ParseAddress, SaysWhatIsWrong) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"tcp:", "the host is missing"},
      {"tcp::1234", "the host is missing"},
      {"tcp:[]:1234", "the host is missing"},
      {"tcp:::1", "an IPv6 address needs brackets, as in [::1]:1234"},
      {"tcp:[::1", "the brackets do not match"},
      {"tcp:[::1]1234", "the brackets do not match"},
      {"tcp:[10.0.0.1]:1", "expected an IPv6 address between the brackets"},
      {"tcp:10.0.0.300", "expected an IPv4 address"},
      {"tcp:1234", "expected an IPv4 address"},
      {"tcp:a..b", "expected an IPv4 address"},
      {"tcp:-a.b", "expected an IPv4 address"},
      {"tcp:a b", "expected an IPv4 address"},
      {"tcp:" + std::string(64, 'a'), "expected an IPv4 address"},
      {"tcp:[fe80::1%]:1", "expected an IPv6 address"},
      {"tcp:[fe80::1%a/b]:1", "expected an IPv6 address"},
      {"tcp:10.0.0.1:", "\"\" is no port"},
      {"tcp:10.0.0.1:65536", "\"65536\" is no port"},
      {"tcp:10.0.0.1:-1", "\"-1\" is no port"},
      {"tcp:10.0.0.1:+1", "\"+1\" is no port"},
      {"tcp:10.0.0.1: 1", "\" 1\" is no port"},
      {"tcp:10.0.0.1:000080", "\"000080\" is no port"},
      {"ip:", "the host is missing"},
      {"ip:host.name", "expected an IPv4 or IPv6 address"},
      {"ip:10.0.0", "expected an IPv4 or IPv6 address"},
      {"ip:fe80:::1", "expected an IPv4 or IPv6 address"},
      {"gid:10.0.0.1", "expected a GID of eight groups"},
      {"gid:fe80::1%eth0", "expected a GID of eight groups"},
      {"gid:1:2:3", "expected a GID of eight groups"},
      {"unix:", "expected the absolute path of a socket"},
      {"unix:run/x.sock", "expected the absolute path of a socket"},
      {"unix:/" + std::string(107, 'x'), "may have 107 bytes, this one has 108"},
      {std::string("unix:/a\0b", 9), "the path contains a NUL"},
      {std::string("ip:1.2.3.4\0x", 12), "it contains a NUL"},
  };
  for (const auto& [text, message] : cases) {
    SCOPED_TRACE(text);
    const absl::StatusOr<Address> address = ParseAddress(text);
    ASSERT_FALSE(address.ok()) << *address;
    EXPECT_EQ(StatusToErrno(address.status()), EINVAL);
    EXPECT_THAT(Parsed(text), HasSubstr(message));
    EXPECT_THAT(Parsed(text), HasSubstr("address \"" + text + "\": "));
  }
}

TEST(ParseAddress, TakesTheLongestSocketPath) {
  const std::string path = "/" + std::string(106, 'x');
  const absl::StatusOr<Address> address = ParseAddress("unix:" + path);
  ASSERT_TRUE(address.ok()) << address.status();
  EXPECT_EQ(FromSocketAddress(AddressScheme::kUnix, *ToSocketAddress(*address))->path, path);
}

TEST(ParsePathAddress, TakesAnOptionalSource) {
  EXPECT_EQ(*ParsePathAddress("ip:10.0.0.2"), (PathAddress{absl::nullopt, Ip("10.0.0.2", 1234)}));
  const PathAddress both = {Ip("10.0.0.1", 0), Ip("10.0.0.2", 1234)};
  EXPECT_EQ(*ParsePathAddress("ip:10.0.0.1@ip:10.0.0.2"), both);
  EXPECT_EQ(*ParsePathAddress("ip:10.0.0.1,ip:10.0.0.2"), both);
  EXPECT_EQ(both.ToString(), "ip:10.0.0.1@ip:10.0.0.2");
  const absl::StatusOr<PathAddress> tcp = ParsePathAddress("tcp:[::2]:9@tcp:[::1]", 77);
  ASSERT_TRUE(tcp.ok()) << tcp.status();
  EXPECT_EQ(*tcp, (PathAddress{Tcp("::2", 9), Tcp("::1", 77)}));
}

TEST(ParsePathAddress, ReadsBackWhatItPrints) {
  for (const char* text : {"tcp:[::2]@tcp:[::1]:1234", "tcp:10.0.0.1:1234@tcp:10.0.0.2:1",
                           "ip:10.0.0.1:1234@ip:10.0.0.2", "ip:fe80::1@ip:fe80::2",
                           "tcp:10.0.0.1@tcp:host.name:1234", "unix:/run/a@b,c"}) {
    SCOPED_TRACE(text);
    const absl::StatusOr<PathAddress> path = ParsePathAddress(text);
    ASSERT_TRUE(path.ok()) << path.status();
    EXPECT_EQ(path->ToString(), text);
    EXPECT_EQ(*ParsePathAddress(path->ToString()), *path);
  }
}

TEST(ParsePathAddress, TakesThePathOfASocketAsItsControlFilesHaveIt) {
  for (const char* text :
       {"unix:@unix:/run/x.sock", "unix:,unix:/run/x.sock", "unix:@unix:!run!x.sock"}) {
    SCOPED_TRACE(text);
    const absl::StatusOr<PathAddress> path = ParsePathAddress(text);
    ASSERT_TRUE(path.ok()) << path.status();
    EXPECT_EQ(*path, (PathAddress{absl::nullopt, Unix("/run/x.sock")}));
  }
  EXPECT_EQ(ParsePathAddress("unix:@unix:/run/a!b")->destination, Unix("/run/a!b"));
}

TEST(ParsePathAddress, RefusesWithTheKernelsErrno) {
  const std::vector<std::tuple<std::string, int, std::string>> cases = {
      {"10.0.0.1", EPROTONOSUPPORT, "expected it to begin with"},
      {"ip:10.0.0.1@10.0.0.2", EPROTONOSUPPORT, "address \"10.0.0.2\""},
      {"10.0.0.1@ip:10.0.0.2", EINVAL, "source address \"10.0.0.1\": expected it to begin with"},
      {"@ip:10.0.0.2", EINVAL, "source address \"\""},
      {"ip:10.0.0.1@", EPROTONOSUPPORT, "address \"\""},
      {"ip:x@ip:10.0.0.2", EINVAL, "source address \"ip:x\""},
      {"tcp:10.0.0.1@ip:10.0.0.2", EINVAL, "must have the same scheme"},
      {"tcp:10.0.0.1@unix:/run/x", EINVAL, "must have the same scheme"},
      {"unix:/run/y@unix:/run/x", EINVAL, "a unix path has no source address"},
      {"unix:@unix:", EINVAL, "expected the absolute path of a socket"},
      {"unix:@tcp:10.0.0.1", EINVAL, "expected the absolute path of a socket"},
      {"unix:!run!x", EINVAL, "expected the absolute path of a socket"},
      {"tcp:10.0.0.1@tcp:[::1]", EINVAL, "must both be IPv4 or both be IPv6"},
      {"tcp:10.0.0.1:0", EINVAL, "a destination needs a port"},
      {"ip:1.2.3.4@ip:1.2.3.4@ip:1.2.3.4", EINVAL, "address \"ip:1.2.3.4@ip:1.2.3.4\""},
  };
  for (const auto& [text, error, message] : cases) {
    SCOPED_TRACE(text);
    const absl::StatusOr<PathAddress> path = ParsePathAddress(text);
    ASSERT_FALSE(path.ok()) << *path;
    EXPECT_EQ(StatusToErrno(path.status()), error);
    EXPECT_THAT(std::string(path.status().message()), HasSubstr(message));
  }
}

TEST(ParseServerAddress, AcceptsEveryForm) {
  const std::vector<std::pair<std::string, Address>> cases = {
      {"0.0.0.0:1234", Tcp("0.0.0.0", 1234)},
      {"[::]:1234", Tcp("::", 1234)},
      {"[::]", Tcp("::", 9717)},
      {"1234", Tcp("::", 1234)},
      {":1234", Tcp("::", 1234)},
      {"0", Tcp("::", 0)},
      {"127.0.0.1:0", Tcp("127.0.0.1", 0)},
      {"127.0.0.1", Tcp("127.0.0.1", 9717)},
      {"localhost:5", Tcp("localhost", 5)},
  };
  for (const auto& [text, expected] : cases) {
    SCOPED_TRACE(text);
    const absl::StatusOr<Address> address = ParseServerAddress(AddressScheme::kTcp, text, 9717);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(*address, expected);
  }
  EXPECT_EQ(*ParseServerAddress(AddressScheme::kIp, "[::]:1234"), Ip("::", 1234));
  EXPECT_EQ(*ParseServerAddress(AddressScheme::kUnix, "/run/x"), Unix("/run/x"));
}

TEST(ParseServerAddress, SaysWhatIsWrong) {
  for (const char* text : {"", ":", "::", "[::", "70000", ":70000", "10.0.0.1:x", "*:1234"}) {
    SCOPED_TRACE(text);
    const absl::Status status = ParseServerAddress(AddressScheme::kTcp, text).status();
    EXPECT_EQ(StatusToErrno(status), EINVAL);
  }
  EXPECT_FALSE(ParseServerAddress(AddressScheme::kUnix, "x").ok());
  EXPECT_FALSE(ParseServerAddress(AddressScheme::kIp, "localhost:1").ok());
  EXPECT_FALSE(ParseServerAddress(AddressScheme::kGid, "[fe80::1]:1").ok());
}

TEST(PathDirectoryName, IsTheKernelsAndHasNoSlash) {
  EXPECT_EQ(PathDirectoryName(Ip("10.0.0.1", 1234), Ip("10.0.0.2", 1234)),
            "ip:10.0.0.1@ip:10.0.0.2");
  EXPECT_EQ(PathDirectoryName(Ip("fe80::1", 0), Ip("fe80::2", 77)), "ip:fe80::1@ip:fe80::2");
  EXPECT_EQ(PathDirectoryName(Tcp("::1", 0), Tcp("::1", 1234)), "tcp:[::1]@tcp:[::1]:1234");
  EXPECT_EQ(PathDirectoryName(Unix(""), Unix("/run/x.sock")), "unix:@unix:!run!x.sock");
}

TEST(SocketAddress, RoundTripsNumericAddresses) {
  for (const Address& address :
       {Tcp("127.0.0.1", 1), Tcp("::1", 65535), Ip("2001:db8::7", 1234), Ip("0.0.0.0", 0),
        Tcp("fe80::1%lo", 5), Unix("/run/x.sock"), Unix("")}) {
    SCOPED_TRACE(address.ToString());
    const absl::StatusOr<SocketAddress> there = ToSocketAddress(address);
    ASSERT_TRUE(there.ok()) << there.status();
    const absl::StatusOr<Address> back = FromSocketAddress(address.scheme, *there);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, address);
  }
}

TEST(SocketAddress, HasTheBytesThatTheKernelExpects) {
  const SocketAddress v4 = *ToSocketAddress(Tcp("1.2.3.4", 0x0102));
  sockaddr_in in;
  memcpy(&in, v4.get(), sizeof(in));
  EXPECT_EQ(v4.length, sizeof(in));
  EXPECT_EQ(ntohl(in.sin_addr.s_addr), 0x01020304u);
  EXPECT_EQ(ntohs(in.sin_port), 0x0102);
  const SocketAddress un = *ToSocketAddress(Unix("/ab"));
  EXPECT_EQ(un.length, offsetof(sockaddr_un, sun_path) + 4);
}

TEST(SocketAddress, ShowsMappedPeersAsIpv4) {
  sockaddr_in6 in6 = {};
  in6.sin6_family = AF_INET6;
  in6.sin6_port = htons(9);
  ASSERT_EQ(inet_pton(AF_INET6, "::ffff:10.1.2.3", &in6.sin6_addr), 1);
  SocketAddress socket_address;
  memcpy(&socket_address.storage, &in6, sizeof(in6));
  socket_address.length = sizeof(in6);
  EXPECT_EQ(*FromSocketAddress(AddressScheme::kTcp, socket_address), Tcp("10.1.2.3", 9));
}

TEST(SocketAddress, RefusesWhatHasNone) {
  EXPECT_EQ(StatusToErrno(ToSocketAddress(Gid("fe80::1", 1)).status()), EAFNOSUPPORT);
  EXPECT_EQ(StatusToErrno(ToSocketAddress(Tcp("host.name", 1)).status()), EINVAL);
  EXPECT_EQ(StatusToErrno(ToSocketAddress(Tcp("fe80::1%none", 1)).status()), ENODEV);
  EXPECT_EQ(StatusToErrno(ToSocketAddress(Unix("/" + std::string(200, 'x'))).status()), EINVAL);
  EXPECT_EQ(StatusToErrno(FromSocketAddress(AddressScheme::kTcp, SocketAddress()).status()),
            EAFNOSUPPORT);
  EXPECT_EQ(
      StatusToErrno(FromSocketAddress(AddressScheme::kTcp, *ToSocketAddress(Unix("/x"))).status()),
      EAFNOSUPPORT);
  EXPECT_EQ(StatusToErrno(
                FromSocketAddress(AddressScheme::kUnix, *ToSocketAddress(Tcp("::1", 1))).status()),
            EAFNOSUPPORT);
}

TEST(Resolve, AnswersNumericAddressesAtOnce) {
  const absl::StatusOr<std::vector<SocketAddress>> found = Resolve(Tcp("127.0.0.1", 7));
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ(found->size(), 1u);
  EXPECT_EQ(*FromSocketAddress(AddressScheme::kTcp, found->front()), Tcp("127.0.0.1", 7));
  EXPECT_EQ(Resolve(Unix("/run/x"))->size(), 1u);
}

TEST(Resolve, FindsLocalhost) {
  const absl::StatusOr<std::vector<SocketAddress>> found = Resolve(Tcp("localhost", 7));
  ASSERT_TRUE(found.ok()) << found.status();
  for (const SocketAddress& socket_address : *found) {
    const Address address = *FromSocketAddress(AddressScheme::kTcp, socket_address);
    EXPECT_TRUE(address == Tcp("127.0.0.1", 7) || address == Tcp("::1", 7)) << address;
  }
}

TEST(Resolve, NamesTheHostThatDoesNotExist) {
  // No server is asked for a name with an empty label.
  const absl::Status status = Resolve(Tcp("does..not.exist", 7)).status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("does..not.exist"));
}

TEST(Address, HashFollowsEquality) {
  EXPECT_TRUE(absl::VerifyTypeImplementsAbslHashCorrectly(
      {Tcp("a", 1), Tcp("a", 2), Ip("a", 1), Unix("/a"), Unix("/b"), Gid("a", 1)}));
}

}  // namespace
}  // namespace rnbd::rtrs
