#include "rtrs/verbs_fabric.h"

#include "common/status.h"
#include "rtrs/verbs_address.h"
#include "rtrs/verbs_domain.h"
#include "rtrs/verbs_listener.h"

namespace rnbd::rtrs {

absl::StatusOr<std::unique_ptr<Listener>> VerbsFabric::Listen(Ring* ring, const Address& address,
                                                              ListenHandler* handler) {
  return ListenOnVerbs(ring, address, options_, handler);
}

absl::StatusOr<std::unique_ptr<Domain>> VerbsFabric::CreateDomain(const PathAddress& path) {
  ASSIGN_OR_RETURN(SocketAddress source, SourceOf(path));
  return VerbsDomain::Create(source, path.destination.scheme);
}

absl::StatusOr<std::unique_ptr<Connection>> VerbsFabric::CreateConnection(
    Ring* ring, const PathAddress& path, Domain* domain, const ConnectionLimits& limits,
    ConnectionHandler* handler) {
  return VerbsConnection::ForConnect(ring, options_, path, static_cast<VerbsDomain*>(domain),
                                     limits, handler);
}

}  // namespace rnbd::rtrs
