#include "client/mappings.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/filesystem.h"
#include "common/logging.h"
#include "common/status.h"
#include "config/client_changes.h"

namespace rnbd::client {
namespace {

// Of a session without devices, whose end nobody should have to wait for.
constexpr absl::Duration kEndBound = absl::Seconds(4);

absl::Status ShuttingDown() { return ErrnoToStatus(ESHUTDOWN, "the program ends"); }

absl::Status NoSession(const std::string& name) {
  return ErrnoToStatus(ENODEV, absl::StrCat("find session ", name));
}

}  // namespace

absl::Status Mappings::Create(const MappedSession::Environment& environment) {
  environment_ = environment;
  for (const config::ClientSessionConfig& session : now_.sessions) {
    absl::StatusOr<std::unique_ptr<MappedSession>> mapped =
        MappedSession::Create(session, environment_, observer_);
    if (!mapped.ok()) return Annotate(mapped.status(), absl::StrCat("session ", session.name));
    sessions_.push_back(*std::move(mapped));
  }
  return absl::OkStatus();
}

void Mappings::Start() {
  for (const auto& session : sessions_) session->Start();
  host_->OnChanged();
}

RemoteDevice* Mappings::Restore(const std::string& session, const std::string& device_name,
                                const DeviceFacts& facts) {
  MappedSession* const found = FindSession(session);
  return found == nullptr ? nullptr : found->Restore(device_name, facts);
}

std::vector<MappedSession*> Mappings::sessions() const {
  std::vector<MappedSession*> sessions;
  for (const auto& session : sessions_) {
    if (!ending_.contains(session->name())) sessions.push_back(session.get());
  }
  return sessions;
}

MappedSession* Mappings::FindSession(const std::string& name) const {
  for (const auto& session : sessions_) {
    if (session->name() == name) return session.get();
  }
  return nullptr;
}

MappedSession* Mappings::SessionOf(const std::string& device_name) const {
  for (const auto& session : sessions_) {
    if (session->Find(device_name).has_value()) return session.get();
  }
  return nullptr;
}

config::ClientSessionConfig* Mappings::ConfigOf(const std::string& session) {
  for (config::ClientSessionConfig& each : now_.sessions) {
    if (each.name == session) return &each;
  }
  return nullptr;
}

bool Mappings::IsNameTaken(const std::string& name) const {
  return std::any_of(now_.sessions.begin(), now_.sessions.end(), [&](const auto& session) {
    return std::any_of(session.devices.begin(), session.devices.end(),
                       [&](const auto& device) { return device.name == name; });
  });
}

absl::Status Mappings::CheckNew(const MapCommand& command) const {
  if (all_closing_) return ShuttingDown();
  const MappedSession* session = FindSession(command.session);
  if (session == nullptr) {
    RETURN_IF_ERROR(CheckNewSession(command));
  } else if (ending_.contains(command.session)) {
    return ErrnoToStatus(EBUSY, absl::StrCat("use session ", command.session, ", which ends"));
  } else if (command.poll_queues > 0) {
    return ErrnoToStatus(
        EINVAL, absl::StrCat("session ", command.session, " is there without poll queues"));
  }
  for (const config::ClientSessionConfig& each : now_.sessions) {
    for (const config::ClientDeviceConfig& device : each.devices) {
      if (each.name != command.session || device.path != command.device_path) continue;
      return ErrnoToStatus(EEXIST, absl::StrCat("map ", device.path, " of session ", each.name));
    }
  }
  RETURN_IF_ERROR(Filesystem::CheckName(command.name));
  if (!IsNameTaken(command.name)) return absl::OkStatus();
  return ErrnoToStatus(EEXIST, absl::StrCat("another device is \"", command.name,
                                            "\" in the mount already; name= gives this one its "
                                            "own"));
}

absl::StatusOr<MappedSession*> Mappings::MakeSession(const MapCommand& command) {
  config::ClientSessionConfig config;
  config.name = command.session;
  config.paths = command.paths;
  config.settings = file_.defaults;
  ASSIGN_OR_RETURN(std::unique_ptr<MappedSession> session,
                   MappedSession::Create(config, environment_, observer_));
  now_.sessions.push_back(std::move(config));
  sessions_.push_back(std::move(session));
  sessions_.back()->Start();
  return sessions_.back().get();
}

void Mappings::Map(const MapCommand& command, Done done) {
  if (const absl::Status fits = CheckNew(command); !fits.ok()) return done(fits);
  MappedSession* session = FindSession(command.session);
  if (session == nullptr) {
    absl::StatusOr<MappedSession*> made = MakeSession(command);
    if (!made.ok()) return done(made.status());
    session = *made;
  }
  config::ClientDeviceConfig device = config::DefaultDevice(session->settings());
  device.path = command.device_path;
  device.name = command.name;
  device.access = command.access;
  device.loop = command.loop;
  ConfigOf(command.session)->devices.push_back(device);
  coming_.insert(device.name);
  session->AddDevice(device,
                     [this, name = command.session, device, done = std::move(done)](
                         const absl::Status& status) { OnAdded(name, device, status, done); });
}

void Mappings::OnAdded(const std::string& session, const config::ClientDeviceConfig& device,
                       const absl::Status& status, const Done& done) {
  MappedSession* const mapped = FindSession(session);
  if (mapped == nullptr || all_closing_) return done(status.ok() ? ShuttingDown() : status);
  if (!status.ok()) {
    spdlog::warn("session {}: {} is not mapped: {}", session, device.path, status);
    Forget(session, device);
    return EndIfIdle(session, status, done);
  }
  host_->ShowFile(session, device, mapped->Find(device.name)->remote,
                  [this, session, device, done](const absl::Status& shown) {
                    if (!shown.ok() || device.loop == config::LoopAttach::kNo) {
                      return OnShown(session, device, shown, done);
                    }
                    host_->AttachLoop(device.name,
                                      [this, session, device, done](const absl::Status& attached) {
                                        OnShown(session, device, attached, done);
                                      });
                  });
}

void Mappings::OnShown(const std::string& session, const config::ClientDeviceConfig& device,
                       const absl::Status& status, const Done& done) {
  coming_.erase(device.name);
  if (!status.ok()) {
    spdlog::warn("session {}: {} is not mapped: {}", session, device.path, status);
    // As if it had never been asked for.
    return Unmap(device.name, /*force=*/true,
                 [status, done](const absl::Status&) { done(status); });
  }
  host_->OnChanged();
  KeepChanges(done);
}

void Mappings::Forget(const std::string& session, const config::ClientDeviceConfig& device) {
  coming_.erase(device.name);
  unmapping_.erase(device.name);
  config::ClientSessionConfig* const config = ConfigOf(session);
  if (config == nullptr) return;
  std::vector<config::ClientDeviceConfig>& devices = config->devices;
  devices.erase(std::remove_if(devices.begin(), devices.end(),
                               [&](const auto& each) { return each.name == device.name; }),
                devices.end());
}

void Mappings::Unmap(const std::string& name, bool force, Done done) {
  MappedSession* const session = SessionOf(name);
  if (unmapping_.contains(name)) return done(ErrnoToStatus(EALREADY, "unmap a device twice"));
  if (session == nullptr || all_closing_) {
    return done(ErrnoToStatus(ENODEV, absl::StrCat("find device ", name)));
  }
  if (!force && coming_.contains(name)) {
    return done(ErrnoToStatus(EBUSY, absl::StrCat("unmap device ", name, ", which is coming")));
  }
  unmapping_.insert(name);
  if (force) session->FailRequests(name);
  host_->DetachLoop(name, force,
                    [this, name, force, done = std::move(done)](const absl::Status& detached) {
                      if (detached.ok() || force) return Hide(name, done);
                      unmapping_.erase(name);
                      done(detached);
                    });
}

void Mappings::Hide(const std::string& name, const Done& done) {
  if (SessionOf(name) == nullptr || all_closing_) return done(ShuttingDown());
  host_->HideFile(name, [this, name, done](const absl::Status&) { OnHidden(name, done); });
}

// What had no file has none now as well.
void Mappings::OnHidden(const std::string& name, const Done& done) {
  MappedSession* const session = SessionOf(name);
  if (session == nullptr || all_closing_) return done(ShuttingDown());
  const config::ClientDeviceConfig device = *session->Find(name)->config;
  session->RemoveDevice(
      name, [this, session = session->name(), device, done](const absl::Status& status) {
        if (all_closing_) return done(status.ok() ? ShuttingDown() : status);
        if (!status.ok()) spdlog::error("device {}: {}", device.name, status);
        Forget(session, device);
        EndIfIdle(session, status, done);
      });
}

// Of a session that was made at run time.
void Mappings::EndIfIdle(const std::string& session, const absl::Status& result, const Done& done) {
  const auto finish = [this, result, done] {
    host_->OnChanged();
    KeepChanges([result, done](const absl::Status&) { done(result); });
  };
  const bool in_file = std::any_of(file_.sessions.begin(), file_.sessions.end(),
                                   [&](const auto& each) { return each.name == session; });
  const config::ClientSessionConfig* const config = ConfigOf(session);
  if (in_file || config == nullptr || !config->devices.empty()) return finish();
  EndSession(session, finish);
}

void Mappings::EndSession(const std::string& session, std::function<void()> ended) {
  ending_.insert(session);
  ++closing_;
  host_->OnChanged();
  FindSession(session)->Close(
      kEndBound, [this, session, ended = std::move(ended)](const absl::Status& status) {
        OnSessionClosed(session, status);
        ended();
      });
}

void Mappings::OnSessionClosed(const std::string& session, const absl::Status& status) {
  // Copies, for the session may own the callback that this is called from.
  const std::string name = session;
  close_status_.Update(Annotate(status, absl::StrCat("session ", name)));
  ending_.erase(name);
  now_.sessions.erase(
      std::remove_if(now_.sessions.begin(), now_.sessions.end(),
                     [&](const auto& each) { return each.name == name && !all_closing_; }),
      now_.sessions.end());
  sessions_.erase(std::remove_if(sessions_.begin(), sessions_.end(),
                                 [&](const auto& each) { return each->name() == name; }),
                  sessions_.end());
  --closing_;
  if (!all_closing_ || closing_ > 0) return;
  const Done all_closed = std::exchange(all_closed_, nullptr);
  if (all_closed != nullptr) all_closed(close_status_);
}

void Mappings::CloseAll(absl::Duration bound, Done done) {
  all_closing_ = true;
  if (sessions_.empty()) return done(absl::OkStatus());
  close_status_ = absl::OkStatus();
  all_closed_ = std::move(done);
  std::vector<MappedSession*> open;
  for (const auto& session : sessions_) {
    if (!ending_.contains(session->name())) open.push_back(session.get());
  }
  closing_ += open.size();
  for (MappedSession* session : open) {
    session->Close(bound, [this, name = session->name()](const absl::Status& status) {
      OnSessionClosed(name, status);
    });
  }
}

void Mappings::Remap(const std::string& name, Done done) {
  MappedSession* const session = SessionOf(name);
  if (session == nullptr || unmapping_.contains(name)) {
    return done(ErrnoToStatus(ENODEV, absl::StrCat("open device ", name)));
  }
  session->Remap(name, std::move(done));
}

void Mappings::EndHold(const std::string& name, Done done) {
  MappedSession* const session = SessionOf(name);
  if (session == nullptr || unmapping_.contains(name)) {
    return done(ErrnoToStatus(ENODEV, absl::StrCat("end the hold of device ", name)));
  }
  session->EndHold(name, std::move(done));
}

absl::Status Mappings::Resize(const std::string& name, uint64_t sectors) {
  MappedSession* const session = SessionOf(name);
  if (session == nullptr || unmapping_.contains(name) ||
      session->Find(name)->state != MappedSession::DeviceState::kOpen) {
    return ErrnoToStatus(ENOENT, absl::StrCat("resize device ", name, ", which is not mapped"));
  }
  session->Find(name)->remote->Resize(sectors * kSectorSize);
  host_->OnResized(name);
  return absl::OkStatus();
}

void Mappings::AddPath(const std::string& name, const rtrs::PathAddress& path, Done done) {
  MappedSession* const session = FindSession(name);
  if (session == nullptr || all_closing_) return done(NoSession(name));
  for (const rtrs::ClientPath* each : session->session()->Paths()) {
    const bool same_source = !path.source.has_value() || *path.source == each->local_end().source;
    if (each->address().destination == path.destination && same_source) {
      return done(ErrnoToStatus(EEXIST, absl::StrCat("add path ", path.ToString())));
    }
  }
  session->session()->AddPath(
      path, [this, name, path, done = std::move(done)](const absl::Status& status) {
        config::ClientSessionConfig* const config = ConfigOf(name);
        if (!status.ok() || config == nullptr || all_closing_) return done(status);
        config->paths.push_back(path);
        KeepChanges(done);
      });
}

void Mappings::RemovePath(const std::string& name, const rtrs::PathAddress& path, Done done) {
  MappedSession* const session = FindSession(name);
  if (session == nullptr || all_closing_) return done(NoSession(name));
  const absl::Status removed = session->session()->RemovePath(path);
  if (!removed.ok()) return done(removed);
  if (config::ClientSessionConfig* const config = ConfigOf(name)) {
    config->paths.erase(std::remove(config->paths.begin(), config->paths.end(), path),
                        config->paths.end());
  }
  KeepChanges(done);
}

void Mappings::SetPolicy(const std::string& name, rtrs::PathPolicy policy, Done done) {
  MappedSession* const session = FindSession(name);
  if (session == nullptr || all_closing_) return done(NoSession(name));
  session->session()->set_policy(policy);
  if (config::ClientSessionConfig* const config = ConfigOf(name)) config->settings.policy = policy;
  KeepChanges(done);
}

void Mappings::SetReconnectAttempts(const std::string& name, int count, Done done) {
  MappedSession* const session = FindSession(name);
  if (session == nullptr || all_closing_) return done(NoSession(name));
  session->session()->set_max_reconnect_attempts(count);
  if (config::ClientSessionConfig* const config = ConfigOf(name)) {
    config->settings.max_reconnect_attempts = count;
  }
  KeepChanges(done);
}

// Without what is not certain yet.
void Mappings::KeepChanges(const Done& done) {
  config::ClientConfig certain = now_;
  for (config::ClientSessionConfig& session : certain.sessions) {
    session.devices.erase(
        std::remove_if(session.devices.begin(), session.devices.end(),
                       [&](const auto& device) { return coming_.contains(device.name); }),
        session.devices.end());
  }
  host_->Keep(config::WriteChanges(config::Difference(file_, certain)), done);
}

}  // namespace rnbd::client
