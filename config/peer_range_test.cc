#include "config/peer_range.h"

#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::config {
namespace {

using ::rnbd::rtrs::Address;
using ::rnbd::rtrs::ParseAddress;
using ::testing::HasSubstr;

bool Contains(absl::string_view range, absl::string_view address) {
  return PeerRange::Parse(range)->Contains(*ParseAddress(address));
}

TEST(PeerRange, ContainsItsNetworkAndNoMore) {
  EXPECT_TRUE(Contains("10.0.0.0/8", "tcp:10.255.0.1:5"));
  EXPECT_TRUE(Contains("10.0.0.0/8", "ip:10.0.0.0"));
  EXPECT_FALSE(Contains("10.0.0.0/8", "tcp:11.0.0.0:5"));
  EXPECT_FALSE(Contains("10.0.0.0/8", "tcp:9.255.255.255"));
  EXPECT_TRUE(Contains("192.0.2.128/25", "tcp:192.0.2.128"));
  EXPECT_FALSE(Contains("192.0.2.128/25", "tcp:192.0.2.127"));
  EXPECT_TRUE(Contains("192.0.2.7", "tcp:192.0.2.7"));
  EXPECT_FALSE(Contains("192.0.2.7", "tcp:192.0.2.6"));
  EXPECT_TRUE(Contains("fd00::/8", "tcp:[fdff::1]"));
  EXPECT_FALSE(Contains("fd00::/8", "tcp:[fe00::1]"));
  EXPECT_TRUE(Contains("2001:db8::/33", "tcp:[2001:db8:7fff::]"));
  EXPECT_FALSE(Contains("2001:db8::/33", "tcp:[2001:db8:8000::]"));
  EXPECT_TRUE(Contains("fe80::/10", "tcp:[fe80::1%lo]"));
  EXPECT_TRUE(Contains("::1", "tcp:[::1]"));
  EXPECT_TRUE(Contains("fe80::/10", "gid:fe80:0:0:0:202:c9ff:fe39:7c11"));
}

TEST(PeerRange, AllOfOneFamily) {
  EXPECT_TRUE(Contains("0.0.0.0/0", "tcp:255.255.255.255"));
  EXPECT_FALSE(Contains("0.0.0.0/0", "tcp:[2001:db8::1]"));
  EXPECT_TRUE(Contains("::/0", "tcp:[2001:db8::1]"));
}

TEST(PeerRange, SeesMappedAddressesAsIpv4) {
  EXPECT_TRUE(Contains("10.0.0.0/8", "tcp:[::ffff:10.1.2.3]:5"));
  EXPECT_TRUE(Contains("::ffff:10.0.0.0/104", "tcp:10.1.2.3"));
  Address unparsed = *ParseAddress("tcp:10.0.0.1");
  unparsed.host = "::ffff:10.1.2.3";
  EXPECT_TRUE(PeerRange::Parse("10.0.0.0/8")->Contains(unparsed));
}

TEST(PeerRange, UnixPeersAreASetOfTheirOwn) {
  Address peer;
  peer.scheme = rtrs::AddressScheme::kUnix;
  EXPECT_TRUE(PeerRange::Parse("unix")->Contains(peer));
  EXPECT_TRUE(Contains("unix", "unix:/run/x"));
  EXPECT_FALSE(Contains("unix", "tcp:127.0.0.1"));
  EXPECT_FALSE(Contains("0.0.0.0/0", "unix:/run/x"));
  EXPECT_FALSE(Contains("::/0", "unix:/run/x"));
}

TEST(PeerRange, NeverContainsNames) {
  EXPECT_FALSE(Contains("0.0.0.0/0", "tcp:localhost"));
  EXPECT_FALSE(Contains("::/0", "tcp:localhost"));
}

TEST(PeerRange, PrintsItsCanonicalForm) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"10.0.0.0/8", "10.0.0.0/8"},
      {"192.0.2.7", "192.0.2.7/32"},
      {"2001:DB8:0::/32", "2001:db8::/32"},
      {"::1", "::1/128"},
      {"::ffff:10.0.0.0/104", "10.0.0.0/8"},
      {"0.0.0.0/0", "0.0.0.0/0"},
      {"::/0", "::/0"},
      {"unix", "unix"},
  };
  for (const auto& [text, canonical] : cases) {
    SCOPED_TRACE(text);
    const absl::StatusOr<PeerRange> range = PeerRange::Parse(text);
    ASSERT_TRUE(range.ok()) << range.status();
    EXPECT_EQ(range->ToString(), canonical);
    EXPECT_EQ(*PeerRange::Parse(canonical), *range);
  }
}

TEST(PeerRange, SaysWhatIsWrong) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "expected a network as in 10.0.0.0/8"},
      {"10.0.0", "expected a network as in 10.0.0.0/8"},
      {"host.name", "expected a network as in 10.0.0.0/8"},
      {"tcp:10.0.0.1", "expected a network as in 10.0.0.0/8"},
      {"[::1]", "expected a network as in 10.0.0.0/8"},
      {"/8", "expected a network as in 10.0.0.0/8"},
      {std::string("10.0.0.1\0", 9), "expected a network as in 10.0.0.0/8"},
      {"10.0.0.0/", "expected a prefix length from 0 to 32"},
      {"10.0.0.0/33", "expected a prefix length from 0 to 32"},
      {"10.0.0.0/-1", "expected a prefix length from 0 to 32"},
      {"10.0.0.0/8/8", "expected a prefix length from 0 to 32"},
      {"::/129", "expected a prefix length from 0 to 128"},
      {"10.0.0.1/8", "has bits set behind its prefix: the network is 10.0.0.0/8"},
      {"fd00::1/8", "has bits set behind its prefix: the network is fd00::/8"},
  };
  for (const auto& [text, message] : cases) {
    SCOPED_TRACE(text);
    const absl::StatusOr<PeerRange> range = PeerRange::Parse(text);
    ASSERT_FALSE(range.ok()) << range->ToString();
    EXPECT_THAT(std::string(range.status().message()), HasSubstr(message));
  }
}

}  // namespace
}  // namespace rnbd::config
