#ifndef RNBD_CLIENT_DAEMONIZE_H_
#define RNBD_CLIENT_DAEMONIZE_H_

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "common/unique_fd.h"

namespace rnbd::client {

// The program's way into the background. The shell gets its prompt back when the program is at
// work, or has failed, and not before:
//
//   ASSIGN_OR_RETURN(Background background, Background::Enter());
//   if (background.parent_exit_status().has_value()) return *background.parent_exit_status();
//   ... start; messages still go to the terminal ...
//   background.Ready(0);
//
// In a program that stays in the foreground a Background made by default does nothing.
class Background {
 public:
  Background() = default;
  Background(Background&&) = default;
  Background& operator=(Background&&) = default;

  // Forks, so the process must have no other thread yet. The child returns at once, in a session of
  // its own. The parent returns when the child has said that it is ready, or has ended; until then
  // it passes on to it the signals that a person or a service manager ends a program with. When its
  // terminal goes, SIGHUP ends the parent alone.
  static absl::StatusOr<Background> Enter();

  // Only in the parent: what it has to exit with. It is what the child gave Ready(), or its own
  // exit status, or 128 plus the signal that ended it.
  absl::optional<int> parent_exit_status() const { return parent_exit_status_; }

  // In the child, once: ends the parent with `exit_status` (0 to 255) and lets go of the terminal.
  void Ready(int exit_status);

  // In the child, or a process that it has forked: lets go of the terminal and of the working
  // directory. Standard error stays where it is a file or the journal.
  void LetGoOfTerminal() const;

  // In a process that the child has forked: leaves it to the child to say that it is ready.
  void LeaveReadyToOthers() { to_parent_.reset(-1); }

 private:
  bool in_background_ = false;
  UniqueFd to_parent_;
  absl::optional<int> parent_exit_status_;
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_DAEMONIZE_H_
