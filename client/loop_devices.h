#ifndef RNBD_CLIENT_LOOP_DEVICES_H_
#define RNBD_CLIENT_LOOP_DEVICES_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/loop_helper.h"
#include "common/ring.h"
#include "common/unique_fd.h"

namespace rnbd::client {

// The loop devices of a mount that come and go with its devices (`loop: auto`): each is linked as
// LINK_DIRECTORY/NAME. The work is done by a process of its own, started when first needed, so that
// the mount answers meanwhile. Those that an earlier process has attached are found again.
//
// On the control thread. Operations on one device take place one after the other; each tells its
// end once, within about the options' bounds: ETIMEDOUT where it is not done by then, and it may
// still be. With ESHUTDOWN where Close() comes before.
class LoopDevices {
 public:
  using Done = std::function<void(const absl::Status&)>;

  struct Options {
    std::string mount_point;
    std::string link_directory = "/dev/rnbd";
    absl::Duration attach_bound = absl::Seconds(10);
    absl::Duration detach_bound = absl::Seconds(4);
    // A socket whose other end has ServeLoopRequests().
    std::function<absl::StatusOr<UniqueFd>()> start_helper;
    // How often a file of the mount is open.
    std::function<size_t(const std::string& name)> open_count;
  };

  LoopDevices(Ring* ring, Options options);
  // After Close() has called back, or when nothing was ever attached.
  ~LoopDevices() = default;
  LoopDevices(const LoopDevices&) = delete;
  LoopDevices& operator=(const LoopDevices&) = delete;

  // The file is in the mount and has `size` bytes.
  void Attach(const std::string& name, const LoopOptions& loop, uint64_t size, Done done);
  // OK where there is none. EBUSY, and it stays, where it is used, or somebody else has the file
  // open, unless `force` has it go with its last user. Without `force` nobody has the file open
  // when this is done.
  void Detach(const std::string& name, bool force, Done done);
  // All of them; the first failure. AttachAgain() brings back those that have gone.
  void DetachAll(bool force, Done done);
  void AttachAgain();
  void OnResized(const std::string& name, uint64_t size);

  // Leaves the loop devices as they are; nothing else is called any more. `done` comes when the
  // ring does not need this object.
  void Close(std::function<void()> done);

  // /dev/loopN, or empty where it has none.
  std::string PathOf(const std::string& name) const;
  bool any() const;

 private:
  // The socket, which outlives this object until the kernel has done with it.
  class Link;

  struct Operation {
    LoopRequest request;
    Done done;  // empty once it has been told
    std::unique_ptr<Ring::Timer> deadline;
    bool sent = false;
    bool replied = false;  // and waits for the file's last user
  };

  struct Device {
    LoopOptions loop;
    uint64_t size = 0;
    std::string path;                                   // empty: not attached
    bool parked = false;                                // detached by DetachAll()
    std::deque<std::unique_ptr<Operation>> operations;  // the first one is under way
    std::unique_ptr<Ring::Timer> release_timer;
    absl::Duration waited;
  };
  using Devices = std::map<std::string, Device>;

  std::string FileOf(const std::string& name) const;
  void Enqueue(const std::string& name, LoopRequest request, absl::Duration bound, Done done);
  void StartNext(const std::string& name);
  void Send(const std::string& name, Operation* operation);
  void OnDeadline(const std::string& name, uint64_t id);
  void OnReply(absl::string_view text);
  void OnHelperGone();
  void OnCarriedOut(const std::string& name, const LoopReply& reply);
  void OnAttached(const std::string& name, Device* device, const std::string& path);
  void AwaitRelease(const std::string& name);
  void Finish(const std::string& name, const absl::Status& status);

  Ring* const ring_;
  const Options options_;
  Devices devices_;
  Link* link_ = nullptr;  // frees itself
  uint64_t next_id_ = 1;
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_LOOP_DEVICES_H_
