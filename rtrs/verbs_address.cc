#include "rtrs/verbs_address.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <infiniband/ib.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "common/unique_fd.h"

namespace rnbd::rtrs {
namespace {

// Any partition that the port is a full member of.
constexpr uint16_t kDefaultPartition = 0xFFFF;

constexpr char kSoftDevices[] =
    "without an RDMA card: modprobe rdma_rxe, then rdma link add rxe0 type rxe netdev ";

socklen_t AddressLength(const sockaddr* address) {
  switch (address->sa_family) {
    case AF_INET:
      return sizeof(sockaddr_in);
    case AF_INET6:
      return sizeof(sockaddr_in6);
    case AF_IB:
      return sizeof(sockaddr_ib);
    default:
      return 0;
  }
}

// The network device that has the address; empty if none has.
std::string DeviceWithAddress(const Address& address) {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return "";
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> list(first, &freeifaddrs);
  for (const ifaddrs* entry = first; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr) continue;
    absl::StatusOr<Address> candidate = FromRdmaAddress(entry->ifa_addr);
    if (candidate.ok() && candidate->host == address.host) return entry->ifa_name;
  }
  return "";
}

}  // namespace

rdma_port_space PortSpace(AddressScheme scheme) {
  return scheme == AddressScheme::kGid ? RDMA_PS_IB : RDMA_PS_TCP;
}

absl::StatusOr<SocketAddress> ToRdmaAddress(const Address& address) {
  if (address.scheme != AddressScheme::kGid) return ToSocketAddress(address);
  SocketAddress result;
  auto* ib = reinterpret_cast<sockaddr_ib*>(&result.storage);
  ib->sib_family = AF_IB;
  ib->sib_pkey = htons(kDefaultPartition);
  // A GID is written as an IPv6 address is.
  if (inet_pton(AF_INET6, address.host.c_str(), ib->sib_addr.sib_raw) != 1) {
    return ErrnoToStatus(EINVAL, absl::StrCat("use ", address.ToString(), " as a GID"));
  }
  if (address.port != 0) {
    ib->sib_sid = htobe64(RDMA_IB_PS_IB | address.port);
    ib->sib_sid_mask = htobe64(~uint64_t{0});
  }
  result.length = sizeof(sockaddr_ib);
  return result;
}

absl::StatusOr<Address> FromRdmaAddress(const sockaddr* address) {
  SocketAddress copy;
  copy.length = AddressLength(address);
  if (copy.length == 0) {
    return ErrnoToStatus(EAFNOSUPPORT,
                         absl::StrCat("use an address of family ", address->sa_family));
  }
  std::memcpy(&copy.storage, address, copy.length);
  if (copy.family() != AF_IB) return FromSocketAddress(AddressScheme::kIp, copy);
  const auto* ib = reinterpret_cast<const sockaddr_ib*>(&copy.storage);
  Address result;
  result.scheme = AddressScheme::kGid;
  result.port = static_cast<uint16_t>(be64toh(ib->sib_sid) & RDMA_IB_IP_PORT_MASK);
  const uint8_t* raw = ib->sib_addr.sib_raw;
  for (int i = 0; i < 16; i += 2) {
    absl::StrAppend(&result.host, i > 0 ? ":" : "",
                    absl::Hex(raw[i] << 8 | raw[i + 1], absl::kZeroPad4));
  }
  return result;
}

absl::StatusOr<SocketAddress> SourceOf(const PathAddress& path) {
  if (path.source.has_value()) return ToRdmaAddress(*path.source);
  if (path.destination.scheme == AddressScheme::kGid) {
    return ErrnoToStatus(EINVAL,
                         absl::StrCat("path ", path.ToString(),
                                      ": a gid path needs its source too: gid:SRC@gid:DST"));
  }
  ASSIGN_OR_RETURN(SocketAddress destination, ToSocketAddress(path.destination));
  // Connecting a datagram socket only looks up the route.
  const UniqueFd probe(socket(destination.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
  SocketAddress source;
  source.length = sizeof(source.storage);
  if (!probe.valid() || connect(probe.get(), destination.get(), destination.length) != 0 ||
      getsockname(probe.get(), source.get(), &source.length) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("find a route to ", path.destination.ToString()));
  }
  // The port was the datagram socket's.
  if (source.family() == AF_INET) {
    reinterpret_cast<sockaddr_in*>(&source.storage)->sin_port = 0;
  } else {
    reinterpret_cast<sockaddr_in6*>(&source.storage)->sin6_port = 0;
  }
  return source;
}

absl::Status NoConnectionManager(int error) {
  return ErrnoToStatus(error, absl::StrCat("open the RDMA connection manager (modprobe rdma_ucm; ",
                                           kSoftDevices, "DEVICE)"));
}

absl::Status NoDevice(int error, const Address& address) {
  const std::string device = DeviceWithAddress(address);
  if (device.empty() && error != ENODEV) {
    return ErrnoToStatus(error, absl::StrCat("bind to ", address.ToString()));
  }
  return ErrnoToStatus(error, absl::StrCat("find the RDMA device of ", address.ToString(), " (",
                                           kSoftDevices, device.empty() ? "DEVICE" : device, ")"));
}

}  // namespace rnbd::rtrs
