#ifndef RNBD_RTRS_STREAM_FABRIC_H_
#define RNBD_RTRS_STREAM_FABRIC_H_

#include <memory>

#include "rtrs/fabric.h"
#include "rtrs/stream_connection.h"

namespace rnbd::rtrs {

// RTRS over TCP (`tcp:`, IPv4 and IPv6) and Unix sockets (`unix:`), between our own two ends, for
// hosts without RDMA. One socket is one connection. docs/stream-fabric.md describes the wire.
class StreamFabric final : public Fabric {
 public:
  explicit StreamFabric(const StreamOptions& options) : options_(options) {}

  absl::StatusOr<std::unique_ptr<Listener>> Listen(Ring* ring, const Address& address,
                                                   ListenHandler* handler) override;
  absl::StatusOr<std::unique_ptr<Domain>> CreateDomain(const PathAddress& path) override;
  absl::StatusOr<std::unique_ptr<Connection>> CreateConnection(Ring* ring, const PathAddress& path,
                                                               Domain* domain,
                                                               const ConnectionLimits& limits,
                                                               ConnectionHandler* handler) override;

 private:
  const StreamOptions options_;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_STREAM_FABRIC_H_
