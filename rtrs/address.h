#ifndef RNBD_RTRS_ADDRESS_H_
#define RNBD_RTRS_ADDRESS_H_

#include <sys/socket.h>

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

// Addresses as people and the kernel's map_device and add_path write them (protocol page,
// sections 7.4 and 7.6), extended by `tcp:` and `unix:`. All functions are thread-safe; all errors
// carry an errno: EPROTONOSUPPORT where the scheme is missing or unknown, EINVAL for everything
// else that cannot be parsed.
namespace rnbd::rtrs {

inline constexpr uint16_t kDefaultPort = 1234;

enum class AddressScheme : uint8_t {
  kIp,    // RDMA, addressed by IP (RDMA_PS_TCP)
  kGid,   // RDMA, addressed by GID (RDMA_PS_IB)
  kTcp,   // stream fabric over TCP
  kUnix,  // stream fabric over a Unix socket
};

// "ip", "gid", "tcp", "unix".
absl::string_view SchemeName(AddressScheme scheme);

// One end of a path, or a place to listen. A value: two are equal when they name the same place in
// the same spelling; numeric hosts have one spelling only, because parsing brings them into
// canonical form.
struct Address {
  AddressScheme scheme = AddressScheme::kTcp;
  // kIp: numeric. kTcp: numeric or a host name. An IPv6 address is compressed and may end in
  // "%zone"; an IPv4-mapped one is kept as IPv4. kGid: the full form with eight groups. kUnix:
  // empty.
  std::string host;
  // kUnix: 0. 0 elsewhere means "any": a source that the system chooses.
  uint16_t port = 0;
  // kUnix: absolute, short enough for sockaddr_un. Otherwise empty; empty for kUnix means an
  // unnamed socket, as the client's end of a Unix connection is.
  std::string path;

  // What ParseAddress() reads back: "tcp:[::1]:1234", "unix:/run/x.sock", "ip:10.0.0.1". The port
  // is left out when it is 0 and, for ip and gid, when it is kDefaultPort: so these read as the
  // kernel's do.
  std::string ToString() const;

  // True unless `host` is a name that needs Resolve().
  bool is_numeric() const;

  friend bool operator==(const Address& a, const Address& b) = default;
  template <typename H>
  friend H AbslHashValue(H h, const Address& address) {
    return H::combine(std::move(h), address.scheme, address.host, address.port, address.path);
  }
};

std::ostream& operator<<(std::ostream& out, const Address& address);

// "tcp:127.0.0.1:1234", "tcp:[::1]", "tcp:host.name:1234", "unix:/run/x.sock",
// "ip:10.0.0.1[:port]", "ip:fe80::1" (bare, as the kernel writes it), "ip:[fe80::1]:1234",
// "gid:fe80:0000:…" or "gid:[fe80:0000:…]:port". Without a port the address gets `default_port`.
absl::StatusOr<Address> ParseAddress(absl::string_view text, uint16_t default_port = kDefaultPort);

// Where a server listens, written without a scheme: "0.0.0.0:1234", "[::]:1234", "host.name:1234",
// "10.0.0.1", "1234" or ":1234" (all addresses, IPv6 and IPv4), for kUnix the path of the socket.
// Port 0 lets the system choose one.
absl::StatusOr<Address> ParseServerAddress(AddressScheme scheme, absl::string_view text,
                                           uint16_t default_port = kDefaultPort);

// A path as the client names it: where to and, if that matters, where from.
struct PathAddress {
  absl::optional<Address> source;
  Address destination;

  // "SRC@DST", or "DST" without a source; what ParsePathAddress() reads back.
  std::string ToString() const;

  friend bool operator==(const PathAddress& a, const PathAddress& b) = default;
  template <typename H>
  friend H AbslHashValue(H h, const PathAddress& address) {
    return H::combine(std::move(h), address.source, address.destination);
  }
};

std::ostream& operator<<(std::ostream& out, const PathAddress& address);

// "[src@]dst"; ',' separates as well as '@'. The destination gets `default_port`, a source without
// a port keeps 0. Both have the same scheme, and the same address family where both are numeric; a
// Unix path has no source, but "unix:@unix:/run/x.sock" and "unix:@unix:!run!x.sock" are taken,
// since scripts make paths of what they have read: src_addr and dst_addr, the name of the
// directory. Every error in the source is EINVAL, as the kernel's.
absl::StatusOr<PathAddress> ParsePathAddress(absl::string_view text,
                                             uint16_t default_port = kDefaultPort);

// The name of a path's directory below `paths/` (protocol page, section 7.4): "SRC@DST", where '/'
// of a socket's path is written as '!', as sysfs does.
std::string PathDirectoryName(const Address& source, const Address& destination);

// An address as system calls take it.
struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t length = 0;

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  sa_family_t family() const { return storage.ss_family; }
};

// For numeric ip and tcp addresses and for unix: without asking anyone. A GID has no such form here
// (EAFNOSUPPORT), a host name needs Resolve() (EINVAL), an unknown zone is ENODEV.
absl::StatusOr<SocketAddress> ToSocketAddress(const Address& address);

// The other way, for accepted connections and bound sockets: IPv4-mapped addresses become IPv4.
// AF_INET, AF_INET6 and AF_UNIX, else EAFNOSUPPORT.
absl::StatusOr<Address> FromSocketAddress(AddressScheme scheme,
                                          const SocketAddress& socket_address);

// All socket addresses for `address`, best first; never empty. Numeric ones answer at once; a host
// name asks the system's resolver, which may block for many seconds: not for a data path.
// EHOSTUNREACH where the name is unknown, EAGAIN where the resolver may know it later.
absl::StatusOr<std::vector<SocketAddress>> Resolve(const Address& address);

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_ADDRESS_H_
