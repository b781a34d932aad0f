#ifndef RNBD_SERVER_DEVICE_OBSERVER_H_
#define RNBD_SERVER_DEVICE_OBSERVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/in_flight.h"
#include "common/rnbd_messages.h"
#include "server/export_name.h"
#include "server/rate_limit.h"

namespace rnbd::server {

// A device that a session has open, for people.
struct OpenDeviceFacts {
  std::string session;
  std::string mapping_path;  // what the session asked for
  AccessMode mode = AccessMode::kReadOnly;
  bool read_only = false;  // the session cannot write
  ExportName disk;
  // Any thread, at any time: the device's requests that are at the disk; none once it is closed.
  std::function<std::vector<InFlightRequest>()> in_flight = nullptr;
};

// Learns which devices sessions have open; on the device thread.
class DeviceObserver {
 public:
  // `done` runs on the device thread, with ENODEV where the device was closed before.
  using Done = std::function<void(const absl::Status&)>;
  using Command = std::function<void(Done done)>;

  // What can be done with a device. Any thread, at any time.
  struct Commands {
    // Done once the last request of the device is done and it is closed; EALREADY where somebody
    // was quicker. The session's requests for it get ENOTCONN from then on, until it opens the
    // device again, under another id.
    Command force_close;
    // Looks whether the disk has grown; done when requests may go up to its new end and the client
    // is being told. EINVAL for one that has shrunk, and keeps its size.
    Command resize;
    // The rates that it may have; whoever likes may look at them and change them.
    std::shared_ptr<RateLimit> limit;
  };

  // Control thread: the limits of a session that begins, likewise.
  virtual void OnSessionLimit(const std::string&, const std::shared_ptr<RateLimit>&) {}

  // Returns what OnDeviceClosed() is told.
  virtual uint64_t OnDeviceOpened(const OpenDeviceFacts& device, Commands commands) = 0;
  virtual void OnDeviceClosed(uint64_t number) = 0;

 protected:
  ~DeviceObserver() = default;
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_DEVICE_OBSERVER_H_
