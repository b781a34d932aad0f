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

void Inheritance::Print(char (&variable)[kVariableBytes], int fuse, int state, int reply) {
  snprintf(variable, sizeof(variable), "%s=%d,%d,%d", kVariable, fuse, state, reply);
}

absl::StatusOr<Inheritance> Inheritance::FromEnvironment() {
  Inheritance inheritance;
  UniqueFd state;
  if (const char* value = getenv(kVariable)) {
    int fuse_fd = -1;
    int state_fd = -1;
    int reply_fd = -1;
    if (sscanf(value, "%d,%d,%d", &fuse_fd, &state_fd, &reply_fd) != 3) {
      return ErrnoToStatus(EINVAL, absl::StrCat(kVariable, "=", value));
    }
    inheritance.fuse = Take(fuse_fd);
    state = Take(state_fd);
    inheritance.reply = Take(reply_fd);
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
