#ifndef RNBD_COMMON_WATCHDOG_H_
#define RNBD_COMMON_WATCHDOG_H_

#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "common/ring.h"
#include "common/service_manager.h"

namespace rnbd {

// Tells the service manager that the program is alive, as long as each of its event loops turns.
// One that does not is a program that answers nobody; the service manager then starts it anew. On
// one thread, which is none of the loops.
class Watchdog {
 public:
  // Both outlive the object, and the rings the tasks that are posted to them.
  Watchdog(ServiceManager* manager, std::vector<Ring*> rings);

  // How often Look() is to be called; infinite where nobody wants to know.
  absl::Duration interval() const;
  void Look();

 private:
  ServiceManager* const manager_;
  const std::vector<Ring*> rings_;
  std::shared_ptr<std::atomic<size_t>> answers_;  // since they were asked last
};

}  // namespace rnbd

#endif  // RNBD_COMMON_WATCHDOG_H_
