#ifndef RNBD_TESTING_DEVICE_SERVER_H_
#define RNBD_TESTING_DEVICE_SERVER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/blocking_calls.h"
#include "common/ring.h"
#include "rtrs/address.h"
#include "rtrs/fabric.h"
#include "rtrs/server.h"
#include "rtrs/server_handler.h"
#include "rtrs/server_observer.h"
#include "server/backend.h"
#include "server/device_observer.h"
#include "server/device_session.h"
#include "server/memory_backend.h"
#include "testing/faulty_backend.h"
#include "testing/session_harness.h"

namespace rnbd::testing {

// A disk in memory of any geometry, which fails as told and tells what was asked of it. Outlives
// the server that it is given to. Any thread.
class TestDisk {
 public:
  // A request as it came to a backend.
  struct Seen {
    server::BlockOperation operation;
    uint64_t offset;
    uint32_t length;
    bool fua = false;
    bool preflush = false;
    bool no_unmap = false;
    uint16_t priority = 0;
    bool operator==(const Seen&) const = default;
  };

  // With a write-back cache, FUA, DISCARD and WRITE_ZEROES.
  static server::Geometry DefaultGeometry(uint64_t size = 1 << 20);

  // With memory for `most` bytes, if that is more than it has at first.
  explicit TestDisk(const server::Geometry& geometry = DefaultGeometry(), uint64_t most = 0);

  // Only while no request is being worked on.
  uint8_t* data() { return memory_->data(); }
  FaultInjector& faults() { return *faults_; }

  // How large whoever looks sees it, at most as large as its memory.
  void Resize(uint64_t bytes) { size_.store(bytes); }

  // What the next open says; the memory stays as large as it is.
  void set_geometry(const server::Geometry& geometry);

  // Lends its memory to readers who may borrow it, from now on.
  void Lend() { lends_.store(true); }

  void Record(bool on) { record_.store(on); }
  std::vector<Seen> TakeSeen();

  // Open at the moment.
  int opens() const { return opens_.load(); }
  int writers() const { return writers_.load(); }

  // By RNBD's sharing rules (protocol page, section 4.2).
  absl::StatusOr<server::OpenedDevice> Open(AccessMode mode);

 private:
  class Disk;
  class Recorder;

  const std::shared_ptr<server::MemoryDisk> memory_;
  absl::Mutex memory_mutex_;
  std::shared_ptr<FaultInjector> faults_ = std::make_shared<FaultInjector>();
  std::atomic<uint64_t> size_;
  std::atomic<bool> lends_{false};
  std::atomic<bool> record_{false};
  std::atomic<int> opens_{0};
  std::atomic<int> writers_{0};
  absl::Mutex mutex_;
  server::Geometry geometry_ ABSL_GUARDED_BY(mutex_);
  std::vector<Seen> seen_ ABSL_GUARDED_BY(mutex_);
};

// A server whose sessions are DeviceSessions. Every session may open every disk.
class DeviceServer final : private rtrs::ServerHandler {
 public:
  struct Options {
    rtrs::ServerOptions rtrs = DefaultRtrsOptions();
    size_t workers = 2;
    size_t addresses = 1;
    // Whether clients are told which disk they have opened, on which start of the host.
    bool tells_identity = true;
    absl::Duration stuck_after = absl::InfiniteDuration();
    absl::Duration resize_interval = absl::InfiniteDuration();
    // Outlive the server. `control` runs it in place of a thread of its own.
    RingThread* control = nullptr;
    rtrs::ServerObserver* observer = nullptr;
    server::DeviceObserver* device_observer = nullptr;
  };
  // 16 chunks for 64 KiB.
  static rtrs::ServerOptions DefaultRtrsOptions();

  DeviceServer(rtrs::Fabric* fabric, const Options& options);
  // Stops it.
  ~DeviceServer();

  void AddDisk(const std::string& name, TestDisk* disk);
  // Asked before a disk is looked for, on a thread of its own, which it may block. Set while the
  // server does not run.
  std::function<absl::Status(absl::string_view name, AccessMode mode)> on_open;
  // Asked when a session comes, on the control thread.
  std::function<absl::Status(const rtrs::ServerSessionInfo&)> on_session;

  void Start();
  // Waits for the end; whatever hangs in a disk is let go first.
  void Stop();

  rtrs::PathAddress path(size_t number = 0) const {
    return {.source = {}, .destination = addresses_[number]};
  }
  rtrs::ServerCounters counters();
  size_t session_count();
  // To be called between a request and a look at a disk's memory, or a change of it and a request:
  // the kernel orders the two, which ThreadSanitizer cannot see.
  void Settle() { threads_.Settle(); }
  RingThread* device_thread() { return device_thread_.get(); }
  // Attempts to open a device that came to the disks.
  int opens() const { return opens_.load(); }

 private:
  class Opener;

  absl::Status MayBegin(const std::string&, const rtrs::Address&) override {
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<rtrs::ServerSessionHandler>> OnSession(
      const rtrs::ServerSessionInfo& session) override;
  absl::StatusOr<server::OpenedDevice> Open(absl::string_view name, AccessMode mode);

  RingThread* control() {
    return options_.control != nullptr ? options_.control : threads_.control();
  }

  rtrs::Fabric* const fabric_;
  const Options options_;
  std::vector<rtrs::Address> addresses_;
  rtrs::TestThreads threads_;
  std::unique_ptr<RingThread> device_thread_;
  BlockingCalls opening_{4};
  BlockingCalls looking_{2};
  std::atomic<int> opens_{0};
  absl::Mutex mutex_;
  std::map<std::string, TestDisk*> disks_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<rtrs::Server> server_;
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_DEVICE_SERVER_H_
