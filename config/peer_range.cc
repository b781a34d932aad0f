#include "config/peer_range.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "common/status.h"

namespace rnbd::config {
namespace {

using Bytes = std::array<uint8_t, 16>;

constexpr int kMappedBits = 96;
constexpr uint8_t kMappedPrefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

struct Ip {
  Bytes bytes = {};
  bool written_as_v4 = false;
};

bool IsMapped(const Bytes& bytes) {
  return memcmp(bytes.data(), kMappedPrefix, sizeof(kMappedPrefix)) == 0;
}

absl::optional<Ip> ParseIp(absl::string_view text) {
  if (text.find('\0') != absl::string_view::npos) return absl::nullopt;
  const std::string terminated(text);
  Ip ip;
  in_addr v4;
  if (inet_pton(AF_INET, terminated.c_str(), &v4) == 1) {
    std::copy(std::begin(kMappedPrefix), std::end(kMappedPrefix), ip.bytes.begin());
    memcpy(&ip.bytes[12], &v4, sizeof(v4));
    ip.written_as_v4 = true;
    return ip;
  }
  if (inet_pton(AF_INET6, terminated.c_str(), ip.bytes.data()) == 1) return ip;
  return absl::nullopt;
}

absl::optional<int> ParsePrefix(absl::string_view text, int max) {
  int bits = 0;
  const bool digits = !text.empty() && text.size() <= 3 &&
                      std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
  if (!digits || !absl::SimpleAtoi(text, &bits) || bits > max) return absl::nullopt;
  return bits;
}

Bytes Masked(const Bytes& bytes, int prefix_bits) {
  Bytes result = {};
  for (int i = 0; i < 16; ++i) {
    const int bits = std::clamp(prefix_bits - 8 * i, 0, 8);
    result[i] = bytes[i] & static_cast<uint8_t>(0xff00 >> bits);
  }
  return result;
}

std::string Format(const Bytes& bytes, int prefix_bits) {
  char text[INET6_ADDRSTRLEN];
  const bool v4 = prefix_bits >= kMappedBits && IsMapped(bytes);
  const char* address = v4 ? inet_ntop(AF_INET, &bytes[12], text, sizeof(text))
                           : inet_ntop(AF_INET6, bytes.data(), text, sizeof(text));
  return absl::StrCat(address, "/", v4 ? prefix_bits - kMappedBits : prefix_bits);
}

}  // namespace

absl::StatusOr<PeerRange> PeerRange::Parse(absl::string_view text) {
  PeerRange range;
  if (text == "unix") {
    range.is_unix_ = true;
    return range;
  }
  const size_t slash = text.find('/');
  const absl::optional<Ip> ip = ParseIp(text.substr(0, slash));
  if (!ip) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text,
                                                   "\" is no range of peers: expected a network as "
                                                   "in 10.0.0.0/8 or fd00::/8, an IP address, or "
                                                   "unix"));
  }
  range.prefix_bits_ = 128;
  if (slash != absl::string_view::npos) {
    const int max = ip->written_as_v4 ? 32 : 128;
    const absl::optional<int> bits = ParsePrefix(text.substr(slash + 1), max);
    if (!bits) {
      return absl::InvalidArgumentError(absl::StrCat(
          "\"", text, "\": expected a prefix length from 0 to ", max, " behind the '/'"));
    }
    range.prefix_bits_ = ip->written_as_v4 ? kMappedBits + *bits : *bits;
  }
  range.network_ = Masked(ip->bytes, range.prefix_bits_);
  if (range.network_ != ip->bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", text, "\" has bits set behind its prefix: the network is ", range.ToString()));
  }
  return range;
}

bool PeerRange::Contains(const rtrs::Address& address) const {
  if (address.scheme == rtrs::AddressScheme::kUnix) return is_unix_;
  if (is_unix_) return false;
  const absl::string_view host = address.host;
  const absl::optional<Ip> ip = ParseIp(host.substr(0, host.find('%')));
  return ip && Masked(ip->bytes, prefix_bits_) == network_;
}

std::string PeerRange::ToString() const {
  return is_unix_ ? "unix" : Format(network_, prefix_bits_);
}

}  // namespace rnbd::config
