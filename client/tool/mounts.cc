#include "client/tool/mounts.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "client/mount.h"
#include "common/mount_table.h"
#include "common/status.h"
#include "common/unique_fd.h"

namespace rnbd::client::tool {
namespace {

enum class Answer { kThere, kNotThere, kSilent };

bool IsChosen(const std::string& point) {
  const char* chosen = getenv("RNBD_MOUNTS");
  if (chosen == nullptr || *chosen == '\0') return true;
  const std::vector<std::string> points = absl::StrSplit(chosen, ':', absl::SkipEmpty());
  return std::find(points.begin(), points.end(), point) != points.end();
}

// By a process of its own: one that waits for FUSE may not even be killed, and would hold us up
// when we end.
absl::StatusOr<Answer> LookFor(const std::string& file) {
  const pid_t child = fork();
  if (child < 0) return ErrnoToStatus(errno, "start a process");
  if (child == 0) _exit(access(file.c_str(), F_OK) == 0 ? 0 : 1);
  // glibc 2.36 declares its own function for C only.
  const UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, child, 0)));
  if (!process.valid()) return ErrnoToStatus(errno, "watch a process");
  pollfd ended = {process.get(), POLLIN, 0};
  if (poll(&ended, 1, static_cast<int>(absl::ToInt64Milliseconds(kAnswerBound))) <= 0) {
    kill(child, SIGKILL);
    return Answer::kSilent;
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? Answer::kThere : Answer::kNotThere;
}

}  // namespace

absl::StatusOr<Mounts> FindMounts(absl::string_view only) {
  only = absl::StripSuffix(only, "/");
  ASSIGN_OR_RETURN(const std::vector<MountEntry> table, ReadMountTable());
  Mounts mounts;
  for (const MountEntry& mount : table) {
    if (mount.type != Mount::kType || !IsChosen(mount.point)) continue;
    if (!only.empty() && mount.point != only) continue;
    ASSIGN_OR_RETURN(const Answer answer, LookFor(MapDeviceFile(mount.point)));
    if (answer == Answer::kThere) mounts.points.push_back(mount.point);
    if (answer == Answer::kSilent) mounts.silent.push_back(mount.point);
  }
  return mounts;
}

absl::Status NoMount(const Mounts& mounts) {
  if (mounts.silent.empty()) {
    return absl::NotFoundError("no mount of rnbd-fuse that this user may look at");
  }
  return absl::NotFoundError(absl::StrCat("no mount of rnbd-fuse that answers; ",
                                          absl::StrJoin(mounts.silent, ", "),
                                          mounts.silent.size() == 1 ? " does not" : " do not"));
}

void WarnOfSilent(const Mounts& mounts) {
  for (const std::string& point : mounts.silent) {
    std::fprintf(stderr,
                 "rnbd: %s is left out, it has not answered within %s: its process stands still, "
                 "or there is none\n",
                 point.c_str(), absl::FormatDuration(kAnswerBound).c_str());
  }
}

std::string MapDeviceFile(const std::string& mount) {
  return absl::StrCat(mount, "/sys/class/rnbd-client/ctl/map_device");
}

}  // namespace rnbd::client::tool
