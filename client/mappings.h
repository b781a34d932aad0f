#ifndef RNBD_CLIENT_MAPPINGS_H_
#define RNBD_CLIENT_MAPPINGS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/map_command.h"
#include "client/mapped_session.h"
#include "common/in_flight.h"
#include "config/client_config.h"
#include "rtrs/path_policy.h"

namespace rnbd::client {

// The sessions and devices of a mount, and what a person does to them while it is served: maps,
// unmaps, adds and takes away paths. Errno as the kernel's modules give them (protocol page,
// section 7).
//
// A session that client.yaml has stays when its last device is unmapped; one that was made at run
// time ends with it, as the kernel's do.
//
// On the control thread, unless said otherwise. What takes time tells its end later, on the same
// thread, and exactly once; with ESHUTDOWN where CloseAll() comes first.
class Mappings {
 public:
  using Done = MappedSession::Done;
  using InFlightDone = std::function<void(std::vector<InFlightRequest>)>;

  // How devices become files, and what is changed becomes lasting. On the control thread, and so is
  // each `done`.
  class Host {
   public:
    // `device` was not open before.
    virtual void ShowFile(const std::string& session, const config::ClientDeviceConfig& config,
                          RemoteDevice* device, Done done) = 0;
    // Of a device whose file is there, with `loop: auto`.
    virtual void AttachLoop(const std::string& name, Done done) = 0;
    // EBUSY where somebody has the file open, or uses its loop device, unless `force`.
    virtual void DetachLoop(const std::string& name, bool force, Done done) = 0;
    // `done` comes when nothing uses the device any more; with ENOENT where there is no such file.
    virtual void HideFile(const std::string& name, Done done) = 0;
    virtual void OnResized(const std::string& name) = 0;
    // The loop device that AttachLoop() has attached; empty where there is none.
    virtual std::string LoopOf(const std::string& name) const = 0;
    // See FuseServer::LookInFlight().
    virtual void LookInFlight(const std::string& name, InFlightDone done) = 0;
    // Keeps what config::WriteChanges() has made.
    virtual void Keep(const std::string& changes, Done done) = 0;
    // Sessions, devices or paths are others now.
    virtual void OnChanged() = 0;

   protected:
    ~Host() = default;
  };

  // `file` is client.yaml, `now` is what is in force. All references outlive the object.
  Mappings(const config::ClientConfig& file, config::ClientConfig now, Host* host,
           MappedSession::Observer* observer)
      : file_(file), now_(std::move(now)), host_(host), observer_(observer) {}
  // After CloseAll() has called back.
  ~Mappings() = default;

  // Any thread, before Start(): makes the sessions of what is in force.
  absl::Status Create(const MappedSession::Environment& environment);
  void Start();

  // map_device; `done` comes when the file is there, and its loop device.
  void Map(const MapCommand& command, Done done);
  // EBUSY for a device whose file is open other than by a loop device of ours that nobody uses,
  // unless `force` takes it away from whoever uses it.
  // EALREADY while it is being unmapped, ENODEV where it is not mapped.
  void Unmap(const std::string& name, bool force, Done done);
  // Opens a device that is not open at once: see MappedSession::Remap().
  void Remap(const std::string& name, Done done);
  // Ends the wait of the device's requests: see MappedSession::EndHold().
  void EndHold(const std::string& name, Done done);
  // The device's requests that are not answered; `done` comes on the control thread.
  void LookInFlight(const std::string& name, InFlightDone done) {
    host_->LookInFlight(name, std::move(done));
  }
  // Shows the device with another size. ENOENT where it is not open.
  absl::Status Resize(const std::string& name, uint64_t sectors);

  // The path must connect, or is not added. ENODEV where there is no such session.
  void AddPath(const std::string& session, const rtrs::PathAddress& path, Done done);
  void RemovePath(const std::string& session, const rtrs::PathAddress& path, Done done);
  void SetPolicy(const std::string& session, rtrs::PathPolicy policy, Done done);
  void SetReconnectAttempts(const std::string& session, int count, Done done);

  // Those that are not about to go. Pointers are good until the turn ends.
  std::vector<MappedSession*> sessions() const;
  MappedSession* FindSession(const std::string& name) const;
  // The session that has the device, or nullptr.
  MappedSession* SessionOf(const std::string& device_name) const;
  std::string LoopOf(const std::string& name) const { return host_->LoopOf(name); }
  bool IsBeingUnmapped(const std::string& name) const { return unmapping_.contains(name); }

  // Before Start(), any thread: see MappedSession::Restore().
  RemoteDevice* Restore(const std::string& session, const std::string& device_name,
                        const DeviceFacts& facts);

  // Once: closes every session; `done` comes when they are gone, with what may not have been
  // written. See MappedSession::Close() for the bound.
  void CloseAll(absl::Duration bound, Done done);

 private:
  config::ClientSessionConfig* ConfigOf(const std::string& session);
  bool IsNameTaken(const std::string& name) const;
  absl::Status CheckNew(const MapCommand& command) const;
  absl::StatusOr<MappedSession*> MakeSession(const MapCommand& command);
  void OnAdded(const std::string& session, const config::ClientDeviceConfig& device,
               const absl::Status& status, const Done& done);
  void Forget(const std::string& session, const config::ClientDeviceConfig& device);
  void OnShown(const std::string& session, const config::ClientDeviceConfig& device,
               const absl::Status& status, const Done& done);
  void Hide(const std::string& name, const Done& done);
  void OnHidden(const std::string& name, const Done& done);
  void EndIfIdle(const std::string& session, const absl::Status& result, const Done& done);
  void EndSession(const std::string& session, std::function<void()> ended);
  void KeepChanges(const Done& done);
  void OnSessionClosed(const std::string& session, const absl::Status& status);

  const config::ClientConfig& file_;
  config::ClientConfig now_;
  Host* const host_;
  MappedSession::Observer* const observer_;
  MappedSession::Environment environment_;
  std::vector<std::unique_ptr<MappedSession>> sessions_;
  std::set<std::string> ending_;     // sessions
  std::set<std::string> coming_;     // devices that are being mapped
  std::set<std::string> unmapping_;  // devices
  size_t closing_ = 0;               // sessions
  bool all_closing_ = false;
  Done all_closed_;
  absl::Status close_status_;
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_MAPPINGS_H_
