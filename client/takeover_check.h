#ifndef RNBD_CLIENT_TAKEOVER_CHECK_H_
#define RNBD_CLIENT_TAKEOVER_CHECK_H_

#include "absl/status/status.h"
#include "client/mount_state.h"
#include "config/client_config.h"
#include "config/config_difference.h"

// What a program means for a mount that it is to go on with.
namespace rnbd::client {

// What comes into force with `file`, and what was changed at run time, instead of what `mount` is
// served by. It is for other users if `allow_other` says so, whatever its file has come to say.
config::ConfigDifference DifferenceTo(const MountState::Contents& mount, bool allow_other,
                                      const config::ClientConfig& file);

// EBUSY, with the names of the devices, where one would go away that somebody has open: whoever has
// would get errors, a file system too.
absl::Status CheckKeepsWhatIsOpen(const MountState::Contents& mount,
                                  const config::ClientConfig& file);

// EAGAIN, with the device's name, where requests may wait for one that is not open, and the kernel
// could not send them again to the next process: before Linux 6.9 that would end the mount. Looks
// at the control files of the mount, and so may wait for the process that serves it.
absl::Status CheckKernelGoesOn(const MountState::Contents& mount);

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_TAKEOVER_CHECK_H_
