#ifndef RNBD_SERVER_BLOCK_GEOMETRY_H_
#define RNBD_SERVER_BLOCK_GEOMETRY_H_

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/backend.h"

namespace rnbd::server {

// What the kernel tells of the block device open at `fd`: size and block sizes by ioctl, the limits
// and the cache from the queue's directory below `sysfs`; a partition has its disk's queue, but a
// discard alignment of its own. An attribute that the kernel does not have counts as 0.
//
// max_write_zeroes is 0 where the device has no command for it. fua is set whenever there is a
// write-back cache: the kernel emulates it where the device cannot.
absl::StatusOr<Geometry> ReadBlockGeometry(int fd, absl::string_view sysfs = "/sys");

// A regular file as a disk: logical blocks of 512 bytes, physical ones of the file system's block
// size, a write-back cache and FUA. What is behind the last whole logical block is left out. The
// limits for DISCARD and WRITE_ZEROES stay 0.
absl::StatusOr<Geometry> ReadFileGeometry(int fd);

// Looks at the size of what is open at `fd`, a file or a block device with this logical block,
// later and without `fd`; null where that cannot be done.
Backend::SizeLook MakeSizeLook(int fd, uint32_t logical_block_size,
                               absl::string_view sysfs = "/sys");

}  // namespace rnbd::server

#endif  // RNBD_SERVER_BLOCK_GEOMETRY_H_
