#include "client/mount_journal.h"

#include "client/device_table.h"
#include "common/logging.h"

namespace rnbd::client {
namespace {

static_assert(DeviceTable::kMaxDevices <= MountState::kMaxDevices);

void WarnIfFailed(const absl::Status& status) {
  if (!status.ok()) spdlog::warn("{}", status);
}

}  // namespace

MountJournal::MountJournal(const config::ClientConfig& config, MountState* state) : state_(state) {
  for (const config::ClientSessionConfig& session : config.sessions) {
    for (const config::ClientDeviceConfig& device : session.devices) {
      SetSource(session.name, device);
    }
  }
}

void MountJournal::SetSource(const std::string& session, const config::ClientDeviceConfig& device) {
  absl::MutexLock lock(&mutex_);
  sources_[device.name] = {session, device.path, device.access};
  devices_.erase(device.name);
}

void MountJournal::OnInit(absl::Span<const uint8_t> request) {
  WarnIfFailed(state_->SetInit(
      absl::string_view(reinterpret_cast<const char*>(request.data()), request.size())));
}

void MountJournal::OnFile(const Filesystem::FileFacts& file) {
  const std::string& name = file.device->name();
  absl::MutexLock lock(&mutex_);
  MountState::Device& device = devices_[name];
  device.inode = file.inode;
  device.name = name;
  if (auto source = sources_.find(name); source != sources_.end()) {
    device.session = source->second.session;
    device.path = source->second.path;
  }
  device.access_mode = file.device->access_mode();
  device.size = file.device->disk_size();
  device.logical_block_size = file.device->logical_block_size();
  device.physical_block_size = file.device->physical_block_size();
  device.mode = file.mode;
  device.owner = file.owner;
  device.group = file.group;
  device.accessed = file.accessed;
  device.modified = file.modified;
  device.changed = file.changed;
  device.handles.assign(file.handles.begin(), file.handles.end());
  WarnIfFailed(state_->PutDevice(DeviceTable::SlotOf(file.inode), device));
}

void MountJournal::SetIdentity(const std::string& name, const DiskIdentity& identity) {
  absl::MutexLock lock(&mutex_);
  MountState::Device& device = devices_[name];
  device.identity = identity;
  if (device.inode == 0) return;
  WarnIfFailed(state_->PutDevice(DeviceTable::SlotOf(device.inode), device));
}

void MountJournal::OnFileGone(uint64_t inode) {
  absl::MutexLock lock(&mutex_);
  for (auto& [name, device] : devices_) {
    if (device.inode == inode) device.inode = 0;
  }
  WarnIfFailed(state_->RemoveDevice(DeviceTable::SlotOf(inode)));
}

bool MountJournal::IsConfigured(const MountState::Device& device) const {
  absl::MutexLock lock(&mutex_);
  const auto source = sources_.find(device.name);
  return source != sources_.end() && source->second.session == device.session &&
         source->second.path == device.path && source->second.access == device.access_mode;
}

}  // namespace rnbd::client
