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
namespace {

constexpr char kOomScoreFile[] = "/proc/self/oom_score_adj";

// False with errno.
bool SetOomScore(absl::string_view score) {
  const UniqueFd file(open(kOomScoreFile, O_WRONLY | O_CLOEXEC));
  return file.valid() &&
         write(file.get(), score.data(), score.size()) == static_cast<ssize_t>(score.size());
}

}  // namespace

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
  if (SetOomScore("-1000")) return absl::OkStatus();
  return ErrnoToStatus(errno,
                       "keep from being killed when memory is short (needs CAP_SYS_RESOURCE, or in "
                       "a unit file OOMScoreAdjust=-1000)");
}

OomKillOffer::OomKillOffer() {
  const UniqueFd file(open(kOomScoreFile, O_RDONLY | O_CLOEXEC));
  char text[16];
  const ssize_t length = file.valid() ? read(file.get(), text, sizeof(text)) : 0;
  if (length <= 0) return;
  before_.assign(text, static_cast<size_t>(length));
  static_cast<void>(SetOomScore("1000"));
}

OomKillOffer::~OomKillOffer() {
  if (!before_.empty()) static_cast<void>(SetOomScore(before_));
}

}  // namespace rnbd::client
