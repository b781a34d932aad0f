#ifndef RNBD_TESTING_MAPPED_CLIENT_H_
#define RNBD_TESTING_MAPPED_CLIENT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/block_device.h"
#include "client/mapped_session.h"
#include "client/remote_device.h"
#include "client/unaligned_io.h"
#include "common/unique_mapping.h"
#include "config/client_config.h"
#include "rtrs/fabric.h"
#include "testing/session_harness.h"

namespace rnbd::testing {

// A request to a device. Checks that it is done once.
class TestBlockRequest final : public client::BlockRequest {
 public:
  void OnDone(int error) override;
  // The errno it was done with; fails the test, and returns -1, if that takes too long.
  int Wait(absl::Duration limit = rtrs::kPatience);
  bool done() const { return done_.HasBeenNotified(); }

  // Runs before Wait() returns.
  std::function<void(int error)> then;

 private:
  int error_ = -1;
  absl::Notification done_;
};

// A session of the configuration's kind: quick to connect again, with the devices named, whose
// requests fail at once while they are away.
config::ClientSessionConfig TestSessionConfig(const rtrs::PathAddress& path,
                                              const std::vector<std::string>& devices);

// The client's side without FUSE: threads, memory, and one session with its devices.
class MappedClient final : private client::MappedSession::Observer {
 public:
  MappedClient(rtrs::Fabric* fabric, const config::ClientSessionConfig& config, size_t workers = 2,
               size_t memory_bytes = 8 << 20);
  // Closes it.
  ~MappedClient();

  // Before Start(): as MappedSession::Restore().
  client::RemoteDevice* Restore(const std::string& name, const client::DeviceFacts& facts);

  void Start();
  // Begins to close; WaitClosed() gives what Close() called back with, or EBUSY if that does not
  // come within `limit`.
  void BeginClose(absl::Duration bound = absl::Seconds(10));
  absl::Status WaitClosed(absl::Duration limit = rtrs::kPatience);
  absl::Status Close(absl::Duration bound = absl::Seconds(10));

  // The device once it is open; nullptr, and fails the test, if that takes too long.
  client::RemoteDevice* WaitOpen(const std::string& name, absl::Duration limit = rtrs::kPatience);
  // Why it could not be opened, when the observer was told that.
  absl::Status WaitFailed(const std::string& name, absl::Duration limit = rtrs::kPatience);
  bool WaitReopened(const std::string& name, int times, absl::Duration limit = rtrs::kPatience);
  // How often the observer was told.
  int opened(const std::string& name);
  int failed(const std::string& name);
  int reopened(const std::string& name);
  int grown(const std::string& name);

  // On the control thread.
  void OnControl(const std::function<void(client::MappedSession*)>& task) {
    threads_.control()->RunAndWait([&] { task(session_.get()); });
  }

  // Memory that requests may use.
  uint8_t* memory() { return memory_.data(); }
  rtrs::TestThreads& threads() { return threads_; }

  // On the thread of `worker`.
  void Submit(size_t worker, client::RemoteDevice* device, client::BlockRequest* request);

  // One request from beginning to end; the errno.
  int Read(client::RemoteDevice* device, uint64_t offset, absl::Span<uint8_t> data,
           size_t worker = 0);
  int Write(client::RemoteDevice* device, uint64_t offset, absl::Span<uint8_t> data,
            bool fua = false, size_t worker = 0);
  int Flush(client::RemoteDevice* device, size_t worker = 0);
  int Discard(client::RemoteDevice* device, uint64_t offset, uint64_t length, size_t worker = 0);
  int WriteZeroes(client::RemoteDevice* device, uint64_t offset, uint64_t length,
                  bool no_unmap = false, size_t worker = 0);

 private:
  struct Record {
    client::RemoteDevice* device = nullptr;
    int opened = 0;
    int failed = 0;
    int reopened = 0;
    int grown = 0;
    absl::Status why;
  };

  void OnDeviceOpen(client::RemoteDevice* device) override;
  void OnDeviceFailed(const std::string& session, const config::ClientDeviceConfig& device,
                      const absl::Status& why) override;
  void OnDeviceReopened(client::RemoteDevice* device) override;
  void OnDeviceGrown(client::RemoteDevice* device) override;

  bool WaitFor(const std::string& name, const std::function<bool(const Record&)>& condition,
               absl::Duration limit);
  int Run(client::RemoteDevice* device, TestBlockRequest* request, size_t worker);

  const config::ClientSessionConfig config_;
  rtrs::TestThreads threads_;
  UniqueMapping memory_;
  UniqueMapping bounce_;
  std::vector<std::unique_ptr<client::UnalignedIo>> unaligned_;
  std::unique_ptr<client::MappedSession> session_;
  std::unique_ptr<absl::Notification> closed_;
  absl::Status close_status_;
  absl::Mutex mutex_;
  std::map<std::string, Record> records_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_MAPPED_CLIENT_H_
