#include "client/memory_pressure.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/string_view.h"
#include "common/status.h"
#include "common/unique_fd.h"

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

absl::Status RefuseOomKill() {
  const UniqueFd file(open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  constexpr absl::string_view kNever = "-1000";
  if (file.valid() && write(file.get(), kNever.data(), kNever.size()) == ssize_t{kNever.size()}) {
    return absl::OkStatus();
  }
  return ErrnoToStatus(errno,
                       "keep from being killed when memory is short (needs CAP_SYS_RESOURCE, or in "
                       "a unit file OOMScoreAdjust=-1000)");
}

}  // namespace rnbd::client
