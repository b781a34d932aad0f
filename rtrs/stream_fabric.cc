#include "rtrs/stream_fabric.h"

#include "rtrs/stream_listener.h"

namespace rnbd::rtrs {

absl::StatusOr<std::unique_ptr<Listener>> StreamFabric::Listen(Ring* ring, const Address& address,
                                                               ListenHandler* handler) {
  return ListenOnStream(ring, address, options_, handler);
}

absl::StatusOr<std::unique_ptr<Domain>> StreamFabric::CreateDomain(const PathAddress&) {
  return std::make_unique<StreamDomain>();
}

absl::StatusOr<std::unique_ptr<Connection>> StreamFabric::CreateConnection(
    Ring* ring, const PathAddress& path, Domain* domain, const ConnectionLimits& limits,
    ConnectionHandler* handler) {
  return std::make_unique<StreamConnection>(ring, options_, path,
                                            static_cast<StreamDomain*>(domain), limits, handler);
}

}  // namespace rnbd::rtrs
