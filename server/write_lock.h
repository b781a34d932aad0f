#ifndef RNBD_SERVER_WRITE_LOCK_H_
#define RNBD_SERVER_WRITE_LOCK_H_

#include "absl/status/status.h"

namespace rnbd::server {

// Keeps a disk from being written by two server processes, and above all by a new one while
// requests of one that was killed are still in the kernel: a write that was acknowledged by the new
// process could be followed by an old one of the same place.
//
// The lock belongs to the open file (fcntl(2), F_OFD_SETLK). The kernel holds an open file until
// the last request on it has ended, also when its process has not been there for a while; so
// whoever gets the lock knows that they have. Any thread; does not wait.
//
// `fd` is open for reading and writing. `first` says that no other open file of this process has
// the disk open for writing: then no other process may. EBUSY if one has it still; OK where the
// file system knows no locks, with a warning once for each process.
absl::Status LockForWriting(int fd, bool first);

}  // namespace rnbd::server

#endif  // RNBD_SERVER_WRITE_LOCK_H_
