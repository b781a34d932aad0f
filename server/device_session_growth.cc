// The part of DeviceSession that notices disks that grow while they are open.

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status.h"
#include "server/device_session.h"

namespace rnbd::server {

void DeviceSession::LookForGrowth() {
  resize_timer_.Arm(settings_.resize_interval);
  device_thread_->Post([self = self_] {
    absl::MutexLock lock(&self->mutex);
    DeviceSession* const session = self->session;
    if (session == nullptr || session->looking_) return;
    Looks looks = session->DisksThatMayGrow();
    if (looks.empty()) return;
    session->looking_ = true;
    session->LookAt(std::move(looks), [](DeviceSession* then, const Looks& seen) {
      if (then == nullptr) return;
      then->looking_ = false;
      then->TakeSizes(seen);
    });
  });
}

DeviceSession::Looks DeviceSession::DisksThatMayGrow() const {
  Looks looks;
  for (const auto& [id, device] : devices_->by_id) {
    Backend::SizeLook size_look = device.opened.backend->size_look();
    if (!device.closing && size_look != nullptr) looks.push_back({id, std::move(size_look)});
  }
  return looks;
}

// On a thread of its own, for a file system may hang; `seen` runs on the device thread, unless the
// session has gone meanwhile, in which case it is told with nullptr.
void DeviceSession::LookAt(Looks looks, std::function<void(DeviceSession*, const Looks&)> seen) {
  size_looks_->Run([self = self_, thread = device_thread_, looks = std::move(looks),
                    seen = std::move(seen)]() mutable {
    for (Look& look : looks) look.bytes = look.size_look();
    thread->Post([self, looks = std::move(looks), seen = std::move(seen)] {
      absl::MutexLock lock(&self->mutex);
      seen(self->session, looks);
    });
  });
}

void DeviceSession::TakeSizes(const Looks& looks) {
  for (const Look& look : looks) {
    const auto found = devices_->by_id.find(look.id);
    if (found == devices_->by_id.end() || found->second.closing || !look.bytes.ok()) continue;
    TakeSize(&found->second, look.id, *look.bytes);
  }
}

void DeviceSession::TakeSize(Device* device, uint32_t id, uint64_t bytes) {
  const uint64_t size = device->geometry.nsectors * kSectorSize;
  if (bytes < size) {
    if (std::exchange(device->shrunk_to, bytes) == bytes) return;
    spdlog::warn(
        "session {}: the disk of device {} has shrunk to {} bytes; the device keeps its {} while "
        "it is open, and requests behind the disk's end fail",
        name_, device->name, bytes, size);
    return;
  }
  device->shrunk_to = 0;
  if (bytes > size) {
    spdlog::info(
        "session {}: device {} has grown from {} to {} bytes{}", name_, device->name, size, bytes,
        send_news_ == nullptr ? "; its client sees that when it opens the device again" : "");
    device->geometry.nsectors = bytes / kSectorSize;
    device->opened.backend->Grow(bytes);
    slots_.Grow(id, device->geometry.nsectors);
  }
  if (device->told_nsectors < device->geometry.nsectors) TellGrown(id);
}

void DeviceSession::TellGrown(uint32_t id) {
  if (send_news_ == nullptr) return;
  control_->Post([self = self_, id] {
    absl::MutexLock lock(&self->mutex);
    if (self->session != nullptr) self->session->send_news_(id);
  });
}

void DeviceSession::LookAtOne(uint32_t id, DeviceObserver::Done done) {
  const auto found = devices_->by_id.find(id);
  if (found == devices_->by_id.end() || found->second.closing) {
    return done(ErrnoToStatus(ENODEV, "look at a device that is closed"));
  }
  Backend::SizeLook size_look = found->second.opened.backend->size_look();
  if (size_look == nullptr) return done(absl::OkStatus());  // it never changes
  LookAt({{id, std::move(size_look)}}, [done](DeviceSession* session, const Looks& seen) {
    const Look& look = seen.front();
    if (session == nullptr) return done(ErrnoToStatus(ENODEV, "the session is gone"));
    session->TakeSizes(seen);
    const auto device = session->devices_->by_id.find(look.id);
    if (device == session->devices_->by_id.end()) {
      return done(ErrnoToStatus(ENODEV, "look at a device that is closed"));
    }
    if (!look.bytes.ok()) return done(look.bytes.status());
    const uint64_t size = device->second.geometry.nsectors * kSectorSize;
    if (*look.bytes >= size) return done(absl::OkStatus());
    done(ErrnoToStatus(EINVAL, absl::StrCat("the disk has shrunk to ", *look.bytes,
                                            " bytes; the device keeps its ", size)));
  });
}

}  // namespace rnbd::server
