#include "client/memory_pressure.h"

#include <sys/mman.h>
#include <sys/prctl.h>

#include <cerrno>

#include "common/status.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57  // Linux 5.6
#endif

namespace rnbd::client {

absl::Status LockMemory() {
  if (mlockall(MCL_CURRENT | MCL_FUTURE) == 0) return absl::OkStatus();
  return ErrnoToStatus(errno,
                       "lock the process in memory (needs CAP_IPC_LOCK or a larger "
                       "RLIMIT_MEMLOCK, in a unit file LimitMEMLOCK=infinity)");
}

absl::Status BecomeIoFlusher() {
  if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0) return absl::OkStatus();
  return ErrnoToStatus(errno, "become an I/O flusher (needs CAP_SYS_RESOURCE and Linux 5.6)");
}

}  // namespace rnbd::client
