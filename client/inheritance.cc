#include "client/inheritance.h"

#include <fcntl.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/service_manager.h"
#include "common/status.h"

namespace rnbd::client {
namespace {

UniqueFd Take(int fd) {
  if (fd < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) return UniqueFd();
  return UniqueFd(fd);
}

}  // namespace

void Inheritance::Print(char (&variable)[kVariableBytes], int fuse, int state, int reply,
                        bool only_if_different) {
  snprintf(variable, sizeof(variable), "%s=%d,%d,%d,%d", kVariable, fuse, state, reply,
           only_if_different ? 1 : 0);
}

absl::StatusOr<Inheritance> Inheritance::FromEnvironment() {
  Inheritance inheritance;
  UniqueFd state;
  if (const char* value = getenv(kVariable)) {
    int fuse_fd = -1;
    int state_fd = -1;
    int reply_fd = -1;
    int only_if_different = 0;  // not there from programs before there was a reload
    if (sscanf(value, "%d,%d,%d,%d", &fuse_fd, &state_fd, &reply_fd, &only_if_different) < 3) {
      return ErrnoToStatus(EINVAL, absl::StrCat(kVariable, "=", value));
    }
    inheritance.fuse = Take(fuse_fd);
    state = Take(state_fd);
    inheritance.reply = Take(reply_fd);
    inheritance.only_if_different = only_if_different != 0;
  } else {
    inheritance.fuse = TakeStored(kFuseName);
    state = TakeStored(kStateName);
  }
  for (const char* variable : {kVariable, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) {
    unsetenv(variable);
  }
  if (state.valid()) {
    ASSIGN_OR_RETURN(inheritance.state, MountState::Open(std::move(state)));
  }
  return inheritance;
}

}  // namespace rnbd::client
