#ifndef RNBD_RTRS_VERBS_FABRIC_H_
#define RNBD_RTRS_VERBS_FABRIC_H_

#include <memory>

#include "rtrs/fabric.h"
#include "rtrs/verbs_connection.h"

namespace rnbd::rtrs {

// RTRS over RDMA verbs (`ip:` and `gid:`): InfiniBand, RoCE, and rdma_rxe on any network device.
// The wire is the kernel's, whose rnbd modules may be the other end.
class VerbsFabric final : public Fabric {
 public:
  explicit VerbsFabric(const VerbsOptions& options) : options_(options) {}

  absl::StatusOr<std::unique_ptr<Listener>> Listen(Ring* ring, const Address& address,
                                                   ListenHandler* handler) override;
  absl::StatusOr<std::unique_ptr<Domain>> CreateDomain(const PathAddress& path) override;
  absl::StatusOr<std::unique_ptr<Connection>> CreateConnection(Ring* ring, const PathAddress& path,
                                                               Domain* domain,
                                                               const ConnectionLimits& limits,
                                                               ConnectionHandler* handler) override;

 private:
  const VerbsOptions options_;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_VERBS_FABRIC_H_
