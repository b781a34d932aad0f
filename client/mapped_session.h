#ifndef RNBD_CLIENT_MAPPED_SESSION_H_
#define RNBD_CLIENT_MAPPED_SESSION_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "client/admin_channel.h"
#include "client/remote_device.h"
#include "client/unaligned_io.h"
#include "common/direction.h"
#include "common/ring.h"
#include "config/client_config.h"
#include "rtrs/client_session.h"

namespace rnbd::client {

// One session of the configuration with its devices: opens them whenever the session comes up, and
// closes them in the end (protocol page, sections 4 and 6.5). While a device that was open is not,
// its requests wait for as long as its `io_hold` says. On the control thread.
class MappedSession final : private rtrs::ClientSessionHandler {
 public:
  struct Environment {
    rtrs::Fabric* fabric = nullptr;
    Ring* control = nullptr;
    std::vector<Ring*> workers;
    std::vector<UnalignedIo*> unaligned;  // one of each worker
    // Areas that data of requests lies in: the workers' buffers and their bounce memory.
    std::vector<absl::Span<uint8_t>> memory;
  };

  // Told once for each device: it is open for the first time, or why it could not be opened: the
  // server refused it, none of the paths could be connected, or the server did not answer within
  // connect_timeout. After a failure the attempts go on, and OnDeviceOpen() comes should one
  // succeed.
  class Observer {
   public:
    virtual void OnDeviceOpen(RemoteDevice* device) = 0;
    virtual void OnDeviceFailed(const std::string& session,
                                const config::ClientDeviceConfig& device,
                                const absl::Status& why) = 0;
    // A device that was open before is open again, perhaps larger.
    virtual void OnDeviceReopened(RemoteDevice* device) = 0;
    // A device that is open has grown at the server.
    virtual void OnDeviceGrown(RemoteDevice*) {}
    // A FLUSH has failed because writes before it may be lost: whoever waits for it knows.
    virtual void OnLossTold(RemoteDevice*) {}
    // A path of the session came up, went down, was added, or has gone.
    virtual void OnPathsChanged() {}

   protected:
    ~Observer() = default;
  };

  // How it went: once, later on the control thread. With ESHUTDOWN where Close() comes first.
  using Done = std::function<void(const absl::Status&)>;

  // As the kernel's file `state` has it (protocol page, section 7.2).
  enum class DeviceState : uint8_t { kInit, kOpen, kClosed, kUnmapped };

  struct DeviceView {
    const config::ClientDeviceConfig* config = nullptr;
    RemoteDevice* remote = nullptr;
    DeviceState state = DeviceState::kInit;
  };

  // Any thread. Everything in `environment`, and `observer`, outlive the object.
  static absl::StatusOr<std::unique_ptr<MappedSession>> Create(
      const config::ClientSessionConfig& config, const Environment& environment,
      Observer* observer);
  // After Close() has called back, or before Start().
  ~MappedSession();

  // Before Start(): an earlier process had the device open. It counts as open and lost: its
  // requests wait, the observer gets OnDeviceReopened() and nothing else. The device, or nullptr if
  // the configuration has none of this name.
  RemoteDevice* Restore(const std::string& device_name, const DeviceFacts& facts);

  void Start();

  // Once: makes everything written durable, closes the devices on the server, then the session.
  // `done` gets the first failure of a FLUSH, also where writes needed one and there was no session
  // or no time for it; it may destroy this object. Takes at most about `bound`; what the server has
  // not answered by then is left to its own tidying up.
  void Close(absl::Duration bound, std::function<void(const absl::Status&)> done);

  // While it runs, on the control thread:

  // Maps a further device, and tells how the first attempt to open it ended; the observer is told
  // of later ones only. A device that cannot be opened is gone again. ECONNABORTED where the
  // session was connected before and is not now. The device, or nullptr where it has failed
  // already.
  RemoteDevice* AddDevice(const config::ClientDeviceConfig& device, Done done);
  // Tries at once to open a device that is not open. EALREADY where it is, ENODEV where it is
  // unmapped, EBUSY where it is being opened, ECONNABORTED where no path is connected, else as the
  // server answers.
  void Remap(const std::string& device_name, Done done);
  // Unmaps a device that gets no requests any more, behind the last of which this is called: makes
  // it durable, closes it at the server, and destroys it before `done` runs. A failure tells that
  // the last writes may not be durable; the device is gone all the same. ENODEV where it is.
  void RemoveDevice(const std::string& device_name, Done done);
  // Ends a hold before its `io_hold`: requests of the device that wait for it to be open fail with
  // EIO, as they would then; later ones are held, for all of `io_hold` again. `done` comes when
  // those that were held have failed. EALREADY where the device is open, ENODEV where it is
  // unmapped.
  void EndHold(const std::string& device_name, Done done);
  // Requests of this device do not wait for the session any more: they fail.
  void FailRequests(const std::string& device_name);

  // Those that are mapped; one by name. Pointers are good until the turn ends.
  std::vector<DeviceView> devices() const;
  absl::optional<DeviceView> Find(const std::string& device_name) const;
  rtrs::ClientSession* session() { return session_.get(); }
  const config::ClientSessionSettings& settings() const { return config_.settings; }

  // Any thread.
  const std::string& name() const { return config_.name; }

 private:
  struct Device {
    config::ClientDeviceConfig config;
    std::unique_ptr<RemoteDevice> remote;
    bool reported = false;  // to the observer, whichever way
    bool was_open = false;
    bool has_news = false;  // it is open, and the server is to be asked for its size
    std::string last_failure;
    std::unique_ptr<Ring::Timer> hold_timer;  // for a finite io_hold, while the device is not open

    Done added;            // until it was open, of one that came at run time
    Done remapped;         // who waits for it to be open
    Done removed;          // it is to go
    bool flushed = false;  // on its way out
    absl::Status removal_status;
  };

  MappedSession(const config::ClientSessionConfig& config, const Environment& environment,
                Observer* observer);

  void OnSessionUp() override;
  void OnSessionDown(const absl::Status& why) override;
  void OnResendable() override;
  void OnConnectFailed(const rtrs::PathAddress& path, const absl::Status& why,
                       absl::Duration retry_in) override;

  void OnPathsChanged() override { observer_->OnPathsChanged(); }
  void OnNews(uint32_t news) override;

  Device* MakeDevice(const config::ClientDeviceConfig& config);
  Device* FindDevice(const std::string& device_name) const;
  static DeviceView ViewOf(const Device& device);
  void Tell(Done* waiter, const absl::Status& status);
  void Send(Direction direction, absl::Span<const uint8_t> message, uint32_t reply_bytes,
            AdminChannel::Done done);
  void SendFlush(const Device& device, AdminChannel::Done done);
  bool RemoveNext();
  void LeaveDevice(Device* device);
  void Forget(size_t index);
  bool HaveAllFailed() const;

  void BeginHolding(Device* device);
  void OnHoldExpired(Device* device);
  void Proceed();
  void Greet();
  void OnGreeted(int error, absl::Span<const uint8_t> reply);
  void OpenNext();
  void RetryLater();
  void OnOpened(int error, absl::Span<const uint8_t> reply);
  void OnDeviceIsOpen(Device* device);
  void OnSizeAnswered(Device* device, int error, absl::Span<const uint8_t> reply);
  void OnOpenFailed(Device* device, const absl::Status& why);
  void GiveBack(uint32_t device_id);
  void OnNoAnswer();
  void ReportFailures(const absl::Status& why);
  void ReportFailure(Device* device, const absl::Status& why);

  void FlushNext(size_t index);
  static bool NeedsFlush(const Device& device);
  void NoteUnflushed(const Device& device, const absl::Status& why);
  void NoteHeld(const Device& device);
  void CloseNext(size_t index);
  void CloseSession();

  const config::ClientSessionConfig config_;
  const Environment environment_;
  Observer* const observer_;
  std::unique_ptr<rtrs::ClientSession> session_;
  std::unique_ptr<AdminChannel> admin_;
  std::vector<std::unique_ptr<Device>> devices_;
  // Gone with this object: for tasks that may come late.
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  bool was_up_ = false;
  std::set<std::string> failed_paths_;  // those that ever failed to connect
  bool greeted_ = false;                // SESS_INFO was answered since the session came up
  size_t next_ = 0;                     // the device to send OPEN for next
  absl::Duration retry_wait_;
  Ring::Timer retry_timer_;
  Ring::Timer answer_timer_;  // SESS_INFO or OPEN takes too long

  bool closing_ = false;
  bool session_closing_ = false;  // nothing may be sent any more
  size_t unflushed_ = 0;          // while closing: the first device without an answer to its FLUSH
  absl::Status flush_status_;
  Ring::Timer close_timer_;
  std::function<void(const absl::Status&)> closed_;
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_MAPPED_SESSION_H_
