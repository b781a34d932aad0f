#ifndef RNBD_SERVER_DISK_ID_H_
#define RNBD_SERVER_DISK_ID_H_

#include <cstdint>

#include "absl/strings/string_view.h"

// What tells a client that a device it opens again is the disk that it used before.
namespace rnbd::server {

// Of the regular file or block device open at `fd`; 48 bits, 0 if there is nothing to go by.
//
// A file is known by its inode and the time of its birth: a copy of it, or one that was restored
// from a backup under the same name, is another disk. A block device is known by the name that it
// gives of itself (wwid, serial number, device mapper uuid), with the partition's number; where it
// has none, by its name in the system. Reads `sysfs`. Any thread.
uint64_t ReadDiskId(int fd, absl::string_view sysfs = "/sys");

// Of a disk that is known by a text; not 0.
uint64_t DiskIdOf(absl::string_view text);

// Changes with each start of the host, and not with one of the server: what was written and not
// made durable is still in the host's memory, or not. 0 if the kernel does not tell. Any thread.
uint32_t HostStart();

}  // namespace rnbd::server

#endif  // RNBD_SERVER_DISK_ID_H_
