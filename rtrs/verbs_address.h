#ifndef RNBD_RTRS_VERBS_ADDRESS_H_
#define RNBD_RTRS_VERBS_ADDRESS_H_

#include <rdma/rdma_cma.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "rtrs/address.h"

// Addresses as librdmacm takes them, and what to do where RDMA is not to be had. All functions are
// thread-safe.
namespace rnbd::rtrs {

// RDMA_PS_TCP for kIp, RDMA_PS_IB for kGid (protocol page, section 2.1).
rdma_port_space PortSpace(AddressScheme scheme);

// For kIp and kGid; kGid becomes a sockaddr_ib with the service id of RTRS for its port.
absl::StatusOr<SocketAddress> ToRdmaAddress(const Address& address);

// The way back, for identifiers that are bound or connected.
absl::StatusOr<Address> FromRdmaAddress(const sockaddr* address);

// The address of this host from which `path` goes out: its source, or the one that the routing
// table gives. Sends nothing. EHOSTUNREACH where there is no route.
absl::StatusOr<SocketAddress> SourceOf(const PathAddress& path);

// A failure to open the RDMA connection manager, with what to load.
absl::Status NoConnectionManager(int error);

// There is no RDMA device behind an address of this host; with the command that makes one.
absl::Status NoDevice(int error, const Address& address);

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_VERBS_ADDRESS_H_
