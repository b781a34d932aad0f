#ifndef RNBD_CLIENT_INHERITANCE_H_
#define RNBD_CLIENT_INHERITANCE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "client/mount_state.h"
#include "common/unique_fd.h"

namespace rnbd::client {

// What a keeper got from an earlier one: from the version of the program that it replaced in the
// same process, or from the service manager that has kept it.
struct Inheritance {
  // Names under which the service manager keeps descriptors.
  static constexpr char kFuseName[] = "rnbd-fuse";
  static constexpr char kStateName[] = "rnbd-state";
  // The environment variable with the numbers of descriptors, and room for it with its value.
  static constexpr char kVariable[] = "RNBD_FUSE_TAKEOVER";
  static constexpr size_t kVariableBytes = 80;

  // Writes "NAME=VALUE" for the environment of the next program; -1 stands for none. Allocates
  // nothing.
  static void Print(char (&variable)[kVariableBytes], int fuse, int state, int reply,
                    bool only_if_different = false);

  // Takes the descriptors, and the variables out of the environment. Without any, `fuse` and
  // `state` are empty. Once.
  static absl::StatusOr<Inheritance> FromEnvironment();

  UniqueFd fuse;  // of /dev/fuse, mounted
  std::unique_ptr<MountState> state;
  // Of whoever asked for the new version, and waits to hear how it went; see UpgradePort.
  UniqueFd reply;
  // Of a check: whether to say, by kNothingDifferent, that going on would change nothing.
  bool only_if_different = false;
  static constexpr int kNothingDifferent = 4;  // an exit status
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_INHERITANCE_H_
