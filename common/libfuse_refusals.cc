#include "common/libfuse_refusals.h"

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include <cerrno>

namespace rnbd {
namespace {

template <typename... Arguments>
void NotPermitted(fuse_req_t request, Arguments...) {
  fuse_reply_err(request, EPERM);
}

}  // namespace

void RefuseChangesOfEntries(fuse_lowlevel_ops* operations) {
  operations->create = NotPermitted;
  operations->mknod = NotPermitted;
  operations->mkdir = NotPermitted;
  operations->symlink = NotPermitted;
  operations->link = NotPermitted;
  operations->unlink = NotPermitted;
  operations->rmdir = NotPermitted;
  operations->rename = NotPermitted;
}

}  // namespace rnbd
