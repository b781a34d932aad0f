#ifndef RNBD_COMMON_SERVICE_MANAGER_H_
#define RNBD_COMMON_SERVICE_MANAGER_H_

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/unique_fd.h"

namespace rnbd {

// What systemd, or another service manager that speaks sd_notify(3), keeps for a service: its state
// for people, and descriptors that outlive its processes. One thread. Does nothing where there is
// no service manager; what it does not take is not missed.
class ServiceManager {
 public:
  // From NOTIFY_SOCKET of the environment, which it removes.
  static ServiceManager FromEnvironment();

  ServiceManager() = default;

  bool present() const { return socket_.valid(); }
  void Notify(absl::string_view state);
  void NotifyAlive() { Notify("WATCHDOG=1"); }
  // Keeps a copy of `fd` under `name` until Forget(), or until it is useless.
  void Store(absl::string_view name, int fd);
  void Forget(absl::string_view name);

  // How long it waits for WATCHDOG=1 before it takes this process to be dead (WATCHDOG_USEC);
  // infinite where it does not watch it.
  absl::Duration watchdog() const { return watchdog_; }

  // As NOTIFY_SOCKET had it; empty without a service manager.
  const std::string& address() const { return address_; }

 private:
  std::string address_;
  absl::Duration watchdog_ = absl::InfiniteDuration();
  UniqueFd socket_;
};

// The descriptor that was stored as `name` and that the service manager has handed to this process;
// none where there is none. The environment tells it (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES).
UniqueFd TakeStored(absl::string_view name);

}  // namespace rnbd

#endif  // RNBD_COMMON_SERVICE_MANAGER_H_
