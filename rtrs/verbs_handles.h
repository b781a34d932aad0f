#ifndef RNBD_RTRS_VERBS_HANDLES_H_
#define RNBD_RTRS_VERBS_HANDLES_H_

#include <fcntl.h>
#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include <cerrno>
#include <memory>

#include "absl/status/status.h"
#include "common/status.h"

// Owners of what libibverbs and librdmacm hand out. Each must go before what it was made from:
// queue pair, completion queue, completion channel, memory, protection domain, identifier, channel.
namespace rnbd::rtrs {

template <auto Destroy>
struct VerbsDeleter {
  template <typename T>
  void operator()(T* object) const {
    Destroy(object);
  }
};

// That one is inline, of which the name would differ from file to file.
struct MwDeleter {
  void operator()(ibv_mw* window) const { ibv_dealloc_mw(window); }
};

using UniqueEventChannel =
    std::unique_ptr<rdma_event_channel, VerbsDeleter<rdma_destroy_event_channel>>;
using UniqueCmId = std::unique_ptr<rdma_cm_id, VerbsDeleter<rdma_destroy_id>>;
using UniquePd = std::unique_ptr<ibv_pd, VerbsDeleter<ibv_dealloc_pd>>;
using UniqueMr = std::unique_ptr<ibv_mr, VerbsDeleter<ibv_dereg_mr>>;
using UniqueMw = std::unique_ptr<ibv_mw, MwDeleter>;
using UniqueCompChannel = std::unique_ptr<ibv_comp_channel, VerbsDeleter<ibv_destroy_comp_channel>>;
using UniqueCq = std::unique_ptr<ibv_cq, VerbsDeleter<ibv_destroy_cq>>;

// For a descriptor of theirs, whose events a ring waits for.
inline absl::Status SetNonBlocking(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
    return ErrnoToStatus(errno, "make a channel of RDMA events non-blocking");
  }
  return absl::OkStatus();
}

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_VERBS_HANDLES_H_
