#ifndef RNBD_CLIENT_UPGRADE_PORT_H_
#define RNBD_CLIENT_UPGRADE_PORT_H_

#include <limits.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/unique_fd.h"

namespace rnbd::client {

// Where the keeper of a mount is asked to go on with another program, or with its configuration
// file as it is now: a socket whose name is made from the number of the mount's file system, so
// that it is found by the mount point, also from another mount namespace. Only the user of the
// keeper, and root, are heard.
//
// One thread. After Listen() nothing is allocated and nothing waits.
class UpgradePort {
 public:
  // `device` is "major:minor" of the mounted file system.
  absl::Status Listen(absl::string_view device);
  // To wait for a request with poll(2); negative before Listen().
  int fd() const { return socket_.get(); }

  // Takes a request: false where there is none that counts. While another one is not answered, new
  // ones are refused.
  bool Receive();
  // Absolute, of the program asked for; nullptr: of a reload, which names none.
  const char* program() const { return program_[0] == '/' ? program_ : nullptr; }

  // Whoever asked, while not answered: text that is written here is shown to the person.
  const UniqueFd& reply() const { return reply_; }
  // A request that came to an earlier program of this process.
  void set_reply(UniqueFd reply) { reply_ = std::move(reply); }
  // Ends the request, if there is one: with success, or with why not.
  void Succeed() { Answer(0); }
  void Fail(const char* why);

 private:
  void Answer(char status);

  UniqueFd socket_;
  UniqueFd reply_;
  char program_[PATH_MAX] = {};
};

// The other side: asks the keeper of the mount at `mount_point`, as the mount table has it, to go
// on with `program`, and waits until that serves the mount. Returns what it has printed meanwhile:
// what is different. The message of a failure says what to do; ENOENT where nothing is mounted.
absl::StatusOr<std::string> RequestUpgrade(const std::string& mount_point,
                                           const std::string& program);
// The same for a reload of its file: nothing changes where nothing is different.
absl::StatusOr<std::string> RequestReload(const std::string& mount_point);

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_UPGRADE_PORT_H_
