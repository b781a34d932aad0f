#ifndef RNBD_CONFIG_PEER_RANGE_H_
#define RNBD_CONFIG_PEER_RANGE_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "rtrs/address.h"

namespace rnbd::config {

// A set of peers, as a session entry's `from` lists them: an IPv4 or IPv6 network, or every peer on
// a Unix socket. A value.
class PeerRange {
 public:
  // "10.0.0.0/8", "192.0.2.7", "fd00::/8", or "unix". No bits may be set behind the prefix, for
  // then one of the two numbers was mistyped. An IPv4-mapped network ("::ffff:10.0.0.0/104") is the
  // IPv4 one.
  static absl::StatusOr<PeerRange> Parse(absl::string_view text);

  // Whether the peer at `address` belongs to the set. A GID counts as the IPv6 address it is
  // written as. False for an address whose host is a name.
  bool Contains(const rtrs::Address& address) const;

  // In canonical form.
  std::string ToString() const;

  friend bool operator==(const PeerRange& a, const PeerRange& b) = default;

 private:
  bool is_unix_ = false;
  // IPv4 as its IPv4-mapped IPv6 address, so that one comparison does for both.
  std::array<uint8_t, 16> network_ = {};
  int prefix_bits_ = 0;
};

}  // namespace rnbd::config

#endif  // RNBD_CONFIG_PEER_RANGE_H_
