#ifndef RNBD_SERVER_SESSION_CONTROL_H_
#define RNBD_SERVER_SESSION_CONTROL_H_

#include <functional>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/attribute_tree.h"
#include "common/ring.h"
#include "rtrs/server.h"
#include "server/block_service.h"
#include "server/live_config.h"

namespace rnbd::server {

// What a person can do to sessions as a whole, in the control tree below class/rnbd-server/ctl
// (docs/control-tree.md): drain the server or a disk, fence a session. On the control thread.
class SessionControl {
 public:
  struct Environment {
    Ring* control = nullptr;
    Ring* devices = nullptr;
    const LiveConfig* config = nullptr;
    BlockService* service = nullptr;
    std::function<rtrs::Server*()> server;  // nullptr when it has ended
    // Which sessions have a disk open: of what has happened on the device thread before.
    std::function<std::set<std::string>(const std::string& disk)> sessions_with;
  };

  // Everything outlives the object, and that the last write to its attributes.
  explicit SessionControl(Environment environment) : environment_(std::move(environment)) {}

  absl::Status AddTo(AttributeTree* tree);

  // Lets the requests of a session that have come finish, and ends it; its client comes back by
  // itself. ETIMEDOUT where that took longer than drain_timeout: then its paths are closed, and a
  // disk does not answer.
  void DrainSession(const std::string& name, AttributeTree::StoreDone done);

 private:
  void Drain(const std::string& text, AttributeTree::StoreDone done);
  void DrainDisk(const std::string& text, AttributeTree::StoreDone done);
  void UndrainDisk(const std::string& text, const AttributeTree::StoreDone& done);
  void BehindDevices(std::function<void()> task) const;
  static absl::Status AddCommand(AttributeTree* tree, const char* path,
                                 std::function<std::string()> show,
                                 std::function<void(const std::string&, AttributeTree::StoreDone)>);
  void Fence(const std::string& text, AttributeTree::StoreDone done);
  void Unfence(const std::string& text, const AttributeTree::StoreDone& done);
  std::function<void()> Bounded(AttributeTree::StoreDone done, absl::Duration bound) const;
  absl::Duration drain_timeout() const { return environment_.config->Get()->drain_timeout; }

  const Environment environment_;
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_SESSION_CONTROL_H_
