#ifndef RNBD_SERVER_DEVICE_SESSION_H_
#define RNBD_SERVER_DEVICE_SESSION_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "common/blocking_calls.h"
#include "common/logging.h"
#include "common/ring.h"
#include "common/rnbd_messages.h"
#include "config/rate_limits.h"
#include "rtrs/server_handler.h"
#include "rtrs/server_request.h"
#include "server/backend.h"
#include "server/chunk_buffers.h"
#include "server/device_counters.h"
#include "server/device_observer.h"
#include "server/device_slots.h"
#include "server/request_watch.h"
#include "server/server_metrics.h"
#include "server/throttle.h"

namespace rnbd::server {

// A device that a session has open: what serves it, and whatever must be held as long.
struct OpenedDevice {
  // The share of the underlying disk; given back when the device is closed, behind the backend.
  std::shared_ptr<void> lease;
  // The session was lost before it closed the device, if set: on the device thread, before the
  // device is closed for it.
  std::function<void()> on_abandoned;
  std::unique_ptr<Backend> backend;
  bool read_only = false;
  ExportName name;
};

// What a session does by itself, and when.
struct DeviceSessionSettings {
  // Requests that have been at a disk for so long are logged; infinite: never.
  absl::Duration stuck_after = absl::InfiniteDuration();
  // How often it looks whether a disk has grown; infinite: only when told.
  absl::Duration resize_interval = absl::InfiniteDuration();
};

// The rates that a session, and each of its devices, may have.
struct SessionLimits {
  config::RateLimits session;
  config::RateLimits device;
};

// Opens and refuses devices for one session, by the rules that apply to it. What it has opened may
// outlive it.
class DeviceOpener {
 public:
  virtual ~DeviceOpener() = default;

  // On a thread of its own, others beside it; may block. The failure's errno goes to the client.
  virtual absl::StatusOr<OpenedDevice> Open(absl::string_view device_name, AccessMode mode) = 0;
  // Control thread: whether a further path of the session may come from `client`.
  virtual absl::Status MayJoin(const rtrs::Address& client) = 0;
  // Any thread: by the rules in force; nothing where they do not admit the session any more.
  virtual absl::optional<SessionLimits> limits() const { return SessionLimits(); }
  // Device thread: whether a disk that was opened may be used now.
  virtual absl::Status MayUse(const ExportName&) const { return absl::OkStatus(); }
};

// RNBD over one RTRS session (protocol page, sections 4 and 8): SESS_INFO, OPEN, IO and CLOSE.
// Every request is answered.
//
// I/O stays on the worker that it came to. Devices come and go on the device thread; it and I/O
// meet in DeviceSlots only. What opens a device may block, and does so on a thread of its own: a
// disk that hangs is to hold up no other.
//
// A disk that grows while it is open is noticed: from then on requests may go up to its new end,
// and a client that takes news is told so with the device's id, again with each look, until it has
// asked for the size by a further OPEN of the same name. A device never shrinks while it is open.
//
// A request beyond the limits of its device or session waits in its worker, and counts as at work:
// a fence and the device's CLOSE wait for it. It goes nowhere when its connection is lost, or the
// device is taken away.
class DeviceSession final : public rtrs::ServerSessionHandler {
 public:
  struct Threads {
    Ring* control = nullptr;  // where the session is made and destroyed
    Ring* devices = nullptr;
    BlockingCalls* opening = nullptr;
    BlockingCalls* looking = nullptr;  // at the size of disks
    std::vector<Ring*> workers;
  };

  // The threads outlive the session. `observer` and `metrics` outlive the device thread; nullptr:
  // none.
  DeviceSession(const rtrs::ServerSessionInfo& info, std::unique_ptr<DeviceOpener> opener,
                const Threads& threads, const DeviceSessionSettings& settings,
                DeviceObserver* observer = nullptr, ServerMetrics* metrics = nullptr);
  // Closes the devices, on the device thread, later.
  ~DeviceSession() override;

  absl::Status MayJoin(const rtrs::Address& client) override { return opener_->MayJoin(client); }
  void OnRequest(rtrs::ServerRequest* request) override;
  void OnConnectionLost(size_t worker) override;
  void OnReconfigured() override;

 private:
  // One I/O at work; there is one for each chunk.
  class Io final : public BackendRequest, public Throttle::Request {
   public:
    void OnAdmitted() override { session->OnAdmitted(this); }
    void OnCancelled(int error) override { session->OnCancelled(this, error); }
    void OnDone(int error) override;

    DeviceSession* session = nullptr;
    rtrs::ServerRequest* request = nullptr;
    DeviceSlot* slot = nullptr;
    uint32_t device_id = 0;
    int64_t begun_ns = 0;  // at the disk, or before that of its wait; where there are metrics
  };

  // The devices, for the device thread only.
  struct Device {
    std::string name;
    std::unique_ptr<Throttle::Device> throttled;
    std::shared_ptr<DeviceCounters> counters;  // nullptr without metrics
    OpenedDevice opened;
    DeviceGeometry geometry;  // with the size as it is now
    DiskIdentity identity;
    uint64_t told_nsectors = 0;  // of the last OPEN_RSP
    uint64_t shrunk_to = 0;      // bytes that the disk had left, if it has shrunk
    bool closing = false;        // waits for the last request at work
    uint64_t number = 0;         // the observer's
    DeviceObserver::Done force_closed;
  };
  struct Devices {
    std::map<uint32_t, Device> by_id;
    absl::flat_hash_map<std::string, uint32_t> by_name;  // of those that are not being closed
    // Who waits for a device that is being opened, first the one whose mode it is.
    absl::flat_hash_map<std::string, std::vector<rtrs::ServerRequest*>> opening;
  };

  // The session for those who may outlive it. It cannot go while somebody holds the mutex.
  struct Self {
    absl::Mutex mutex;
    DeviceSession* session ABSL_GUARDED_BY(mutex) = nullptr;
  };

  // A disk's size when it was looked at.
  struct Look {
    uint32_t id = 0;
    Backend::SizeLook size_look;
    absl::StatusOr<uint64_t> bytes = uint64_t{0};
  };
  using Looks = std::vector<Look>;

  void LookForStuckRequests();
  void LookForGrowth();
  Looks DisksThatMayGrow() const;
  void LookAt(Looks looks, std::function<void(DeviceSession*, const Looks&)> seen);
  void TakeSizes(const Looks& looks);
  void TakeSize(Device* device, uint32_t id, uint64_t bytes);
  void LookAtOne(uint32_t id, DeviceObserver::Done done);
  void TellGrown(uint32_t id);
  void OnIo(rtrs::ServerRequest* request);
  void CountEnd(const Io& io, int error);
  int StartIo(rtrs::ServerRequest* request);
  void SubmitIo(Io* io);
  void BeginWait(Io* io);
  void EndWait(const Io& io);
  void OnAdmitted(Io* io);
  void OnCancelled(Io* io, int error);
  void OnSessionInfo(rtrs::ServerRequest* request);
  void OnOpen(rtrs::ServerRequest* request);
  void OnOpened(const OpenRequest& open, absl::StatusOr<OpenedDevice> opened);
  absl::StatusOr<OpenResponse> Take(const OpenRequest& open, absl::StatusOr<OpenedDevice> opened);
  void AnswerOpen(rtrs::ServerRequest* request, const OpenRequest& open,
                  const absl::StatusOr<OpenResponse>& response);
  void OnClose(rtrs::ServerRequest* request);
  void CloseDrained(uint32_t id, rtrs::ServerRequest* request);
  uint64_t TellOpened(uint32_t id, const OpenRequest& open, const OpenedDevice& opened,
                      const std::shared_ptr<RateLimit>& limit);
  void BeginForceClose(uint32_t id, DeviceObserver::Done done);
  static void EndForceClose(const std::shared_ptr<Self>& self, uint32_t id);
  static void CloseWithSession(Devices* devices, DeviceObserver* observer);
  static void CompleteOnItsThread(rtrs::ServerRequest* request, int error);

  const std::string name_;
  const rtrs::SessionGeometry session_geometry_;
  const bool tells_identity_;  // to a client that looks for it
  const std::unique_ptr<DeviceOpener> opener_;
  Throttle throttle_;
  Ring* const device_thread_;
  BlockingCalls* const opening_;
  BlockingCalls* const size_looks_;
  const size_t workers_;
  // Of RNBD's protocol, as SESS_INFO agreed.
  std::atomic<uint8_t> version_{0};
  std::vector<Io> ios_;
  Ring* const control_;
  const DeviceSessionSettings settings_;
  RequestWatch watch_;
  Ring::Timer watch_timer_;
  const std::function<void(uint32_t news)> send_news_;  // control thread
  Ring::Timer resize_timer_;
  bool looking_ = false;  // device thread: LookForGrowth() is under way
  DeviceSlots slots_;
  LogEvery log_refusals_;
  DeviceObserver* const observer_;
  ServerMetrics* const metrics_;
  const std::shared_ptr<Self> self_ = std::make_shared<Self>();
  std::unique_ptr<Devices> devices_;
  ChunkBuffers chunk_buffers_;
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_DEVICE_SESSION_H_
