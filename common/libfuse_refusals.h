#ifndef RNBD_COMMON_LIBFUSE_REFUSALS_H_
#define RNBD_COMMON_LIBFUSE_REFUSALS_H_

struct fuse_lowlevel_ops;

namespace rnbd {

// For a file system whose entries come and go from within: creating, renaming and removing them
// gets EPERM.
void RefuseChangesOfEntries(fuse_lowlevel_ops* operations);

}  // namespace rnbd

#endif  // RNBD_COMMON_LIBFUSE_REFUSALS_H_
