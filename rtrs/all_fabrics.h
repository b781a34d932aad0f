#ifndef RNBD_RTRS_ALL_FABRICS_H_
#define RNBD_RTRS_ALL_FABRICS_H_

#include <memory>

#include "rtrs/fabric.h"
#include "rtrs/stream_fabric.h"
#include "rtrs/verbs_fabric.h"

namespace rnbd::rtrs {

// Every fabric there is, each for the addresses of its schemes. Whether a host has RDMA shows when
// an address needs it.
class AllFabrics final : public Fabric {
 public:
  AllFabrics(const StreamOptions& stream, const VerbsOptions& verbs)
      : stream_(stream), verbs_(verbs) {}

  absl::StatusOr<std::unique_ptr<Listener>> Listen(Ring* ring, const Address& address,
                                                   ListenHandler* handler) override {
    return For(address.scheme)->Listen(ring, address, handler);
  }
  absl::StatusOr<std::unique_ptr<Domain>> CreateDomain(const PathAddress& path) override {
    return For(path.destination.scheme)->CreateDomain(path);
  }
  absl::StatusOr<std::unique_ptr<Connection>> CreateConnection(
      Ring* ring, const PathAddress& path, Domain* domain, const ConnectionLimits& limits,
      ConnectionHandler* handler) override {
    return For(path.destination.scheme)->CreateConnection(ring, path, domain, limits, handler);
  }

 private:
  Fabric* For(AddressScheme scheme) {
    const bool rdma = scheme == AddressScheme::kIp || scheme == AddressScheme::kGid;
    return rdma ? static_cast<Fabric*>(&verbs_) : &stream_;
  }

  StreamFabric stream_;
  VerbsFabric verbs_;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_ALL_FABRICS_H_
