#ifndef RNBD_RTRS_VERBS_LISTENER_H_
#define RNBD_RTRS_VERBS_LISTENER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "common/ring.h"
#include "rtrs/address.h"
#include "rtrs/fabric.h"
#include "rtrs/verbs_connection.h"

namespace rnbd::rtrs {

// On every RDMA device that reaches `address`, which is kIp; where all addresses are listened on,
// also by the native InfiniBand addresses of devices that have them (protocol page, section 2.1).
// As Fabric::Listen().
absl::StatusOr<std::unique_ptr<Listener>> ListenOnVerbs(Ring* ring, const Address& address,
                                                        const VerbsOptions& options,
                                                        ListenHandler* handler);

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_VERBS_LISTENER_H_
