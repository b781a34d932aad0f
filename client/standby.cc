#include "client/standby.h"

#include <signal.h>

namespace rnbd::client {

void Standby::Want(int64_t now_ns) {
  if (pid_ == 0 && start_at_ns_ == kNever) start_at_ns_ = now_ns;
}

void Standby::OnStarted(pid_t pid, KeeperLink link) {
  pid_ = pid;
  link_ = std::move(link);
  start_at_ns_ = kNever;
}

void Standby::OnNotStarted(int64_t now_ns) { start_at_ns_ = now_ns + wait_.NextNs(); }

int64_t Standby::OnGone(int64_t now_ns) {
  pid_ = 0;
  link_.Close();
  const int64_t wait = wait_.NextNs();
  start_at_ns_ = now_ns + wait;
  return wait;
}

std::pair<pid_t, KeeperLink> Standby::Take() {
  wait_.Reset();
  return {std::exchange(pid_, 0), std::exchange(link_, KeeperLink())};
}

void Standby::Dismiss() {
  start_at_ns_ = kNever;
  // In this order: it would report a keeper that has died.
  if (pid_ != 0) kill(std::exchange(pid_, 0), SIGKILL);
  link_.Close();
}

}  // namespace rnbd::client
