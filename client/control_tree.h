#ifndef RNBD_CLIENT_CONTROL_TREE_H_
#define RNBD_CLIENT_CONTROL_TREE_H_

#include <functional>
#include <map>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "client/mapped_session.h"
#include "client/mappings.h"
#include "common/attribute_tree.h"
#include "rtrs/address.h"
#include "rtrs/client_path.h"

namespace rnbd::client {

// The control tree of a mount: the kernel modules' sysfs for what Mappings has (protocol page,
// sections 7.2 and 7.4), below
//   class/rnbd-client/ctl/  class/rtrs-client/SESSION/  block/DEVICE/
// docs/control-tree.md has each file. On the control thread, which owns the attribute tree.
class ControlTree {
 public:
  // Both outlive the object, which outlives the last Show() and Store().
  ControlTree(Mappings* mappings, AttributeTree* tree);

  // Brings the tree's directories in line with the sessions, paths and devices that there are.
  void Refresh();

 private:
  using Done = AttributeTree::StoreDone;
  using Text = std::function<std::string()>;

  // By the name of the directory.
  using Devices = std::map<std::string, std::string>;  // -> the link in ctl/devices
  using Paths = std::map<std::string, rtrs::PathAddress>;
  using Sessions = std::map<std::string, Paths>;

  void AddKeeper();
  void RefreshDevices();
  void RefreshSessions();
  void AddDevice(const std::string& name);
  void AddInFlight(const std::string& name);
  void AddSession(const std::string& name);
  void AddPath(const std::string& session, const std::string& directory,
               const rtrs::PathAddress& address);
  void AddPathStatistics(const std::string& session, const std::string& directory,
                         const rtrs::PathAddress& address);

  // What a file shows of a device or a path; ENODEV when that has gone meanwhile.
  using OfDevice =
      std::function<std::string(MappedSession* session, const MappedSession::DeviceView& device)>;
  using OfPath = std::function<std::string(const rtrs::ClientPath& path)>;
  void AddDeviceText(const std::string& device, const std::string& file, OfDevice show);
  void AddPathText(const std::string& session, const std::string& directory,
                   const rtrs::PathAddress& address, const std::string& file, OfPath show);
  // "1" resets.
  void AddStatistic(const std::string& session, const std::string& directory,
                    const rtrs::PathAddress& address, const std::string& file, OfPath show,
                    std::function<void(rtrs::ClientPath* path)> reset);
  void AddCommand(const std::string& path, const std::string& usage,
                  std::function<void(const std::string& text, Done done)> store);
  void Add(const std::string& path, AttributeTree::Attribute attribute);

  absl::StatusOr<rtrs::ClientPath*> FindPath(const std::string& session,
                                             const rtrs::PathAddress& address) const;

  Mappings* const mappings_;
  AttributeTree* const tree_;
  Devices devices_;
  Sessions sessions_;
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_CONTROL_TREE_H_
