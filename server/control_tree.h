#ifndef RNBD_SERVER_CONTROL_TREE_H_
#define RNBD_SERVER_CONTROL_TREE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "common/attribute_tree.h"
#include "common/ring.h"
#include "rtrs/server_observer.h"
#include "rtrs/server_path.h"
#include "server/device_observer.h"

namespace rnbd::server {

// The control tree of a server: the kernel modules' sysfs for its sessions, their paths and devices
// (protocol page, sections 7.3 and 7.5), below
//   class/rnbd-server/ctl/devices/DISK/sessions/SESSION/   class/rtrs-server/SESSION/paths/SRC@DST/
// docs/control-tree.md has each file. On the control thread, which owns the attribute tree; what
// the device thread tells comes there a moment later.
class ControlTree final : public rtrs::ServerObserver, public DeviceObserver {
 public:
  // Both outlive the object, which outlives the last Show() and Store().
  explicit ControlTree(AttributeTree* tree);

  // Before the first device: the ring of the control thread, which outlives the device thread.
  void set_control(Ring* control) { control_ = control; }

  // Before the first session: what a write to a session's `drain` does.
  using Drain = std::function<void(const std::string& session, AttributeTree::StoreDone done)>;
  void set_drain(Drain drain) { drain_ = std::move(drain); }

  // Control thread: which sessions have a disk open.
  std::set<std::string> SessionsWith(const std::string& disk) const;

  // Devices that are open. Any thread.
  uint64_t devices_open() const { return devices_open_.load(); }

  void OnSession(const std::string& session) override;
  void OnSessionGone(const std::string& session) override;
  void OnPath(const std::string& session, rtrs::ServerPath* path) override;
  void OnPathGone(const std::string& session, rtrs::ServerPath* path) override;

  void OnSessionLimit(const std::string& session, const std::shared_ptr<RateLimit>& limit) override;
  uint64_t OnDeviceOpened(const OpenDeviceFacts& device, Commands commands) override;
  void OnDeviceClosed(uint64_t number) override;

 private:
  struct Place {
    std::string disk;       // directory of the disk
    std::string directory;  // of the session in it
    std::string session;
  };

  void AddDevice(uint64_t number, const OpenDeviceFacts& device, const Commands& commands);
  void AddDeviceCommand(const std::string& path, const Command& command);
  void RemoveDevice(uint64_t number);
  void AddLimit(const std::string& path, const std::shared_ptr<RateLimit>& limit);
  void AddText(const std::string& path, std::function<std::string()> show);
  // "1" does it.
  void AddCommand(const std::string& path, std::function<std::string()> show,
                  std::function<void(AttributeTree::StoreDone done)> act);

  AttributeTree* const tree_;
  Ring* control_ = nullptr;
  Drain drain_;
  std::atomic<uint64_t> last_number_{0};
  std::atomic<uint64_t> devices_open_{0};
  std::map<uint64_t, Place> devices_;      // by number
  std::map<std::string, int> disk_users_;  // by directory
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_CONTROL_TREE_H_
