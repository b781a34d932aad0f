#include "server/policy_opener.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "server/device_path.h"
#include "server/export_key.h"
#include "server/io_uring_backend.h"
#include "server/null_backend.h"
#include "server/session_policy.h"
#include "server/write_lock.h"

namespace rnbd::server {

PolicyOpener::PolicyOpener(const config::ServerConfig* config,
                           const config::ServerSessionConfig* entry, std::string session_name,
                           ExportTable* exports, MemoryDisks* memory_disks)
    : config_(config),
      entry_(entry),
      session_name_(std::move(session_name)),
      exports_(exports),
      memory_disks_(memory_disks) {}

absl::Status PolicyOpener::MayJoin(const rtrs::Address& client) {
  if (config_->FindSession(session_name_, client) == entry_) return absl::OkStatus();
  return ErrnoToStatus(
      EACCES, absl::StrCat(entry_->origin.text, " does not let paths of session \"", session_name_,
                           "\" come from ", client.ToString()));
}

absl::StatusOr<OpenedDevice> PolicyOpener::Open(absl::string_view device_name, AccessMode mode) {
  ASSIGN_OR_RETURN(std::string name, NormalizeDeviceName(device_name));
  RETURN_IF_ERROR(MayOpen(*entry_, name, mode));
  if (entry_->backend == config::BackendKind::kIoUring) return OpenPath(name, mode);
  return OpenDeclared(name, mode);
}

absl::Status PolicyOpener::Lease(ExportKey key, const std::string& device_name, AccessMode mode,
                                 OpenedDevice* opened, bool* first_writer) {
  ASSIGN_OR_RETURN(ExportTable::Lease lease,
                   exports_->Acquire({std::move(key), mode, session_name_, device_name}));
  *first_writer = lease.first_writer();
  auto shared = std::make_shared<ExportTable::Lease>(std::move(lease));
  opened->on_abandoned = [lease = shared.get()] { lease->Abandon(); };
  opened->lease = std::move(shared);
  opened->read_only = mode == AccessMode::kReadOnly;
  return absl::OkStatus();
}

absl::StatusOr<OpenedDevice> PolicyOpener::OpenPath(const std::string& device_name,
                                                    AccessMode mode) {
  ASSIGN_OR_RETURN(
      DeviceFile file,
      OpenDeviceFile(SearchPathOf(entry_->dev_search_path, session_name_), device_name, mode));
  ASSIGN_OR_RETURN(ExportKey key, IdentifyExport(file.fd.get()));
  OpenedDevice opened;
  bool first_writer;
  RETURN_IF_ERROR(Lease(std::move(key), device_name, mode, &opened, &first_writer));
  if (mode != AccessMode::kReadOnly) {
    RETURN_IF_ERROR(Annotate(LockForWriting(file.fd.get(), first_writer), file.path));
  }
  absl::StatusOr<std::unique_ptr<IoUringBackend>> backend =
      IoUringBackend::Open(std::move(file.fd), entry_->direct_io);
  if (!backend.ok()) return Annotate(backend.status(), file.path);
  opened.backend = *std::move(backend);
  return opened;
}

absl::StatusOr<OpenedDevice> PolicyOpener::OpenDeclared(const std::string& device_name,
                                                        AccessMode mode) {
  const bool memory = entry_->backend == config::BackendKind::kMemory;
  const std::vector<config::DeclaredDevice>& declared =
      memory ? config_->memory_devices : config_->null_devices;
  auto device =
      std::find_if(declared.begin(), declared.end(),
                   [&](const config::DeclaredDevice& d) { return d.name == device_name; });
  if (device == declared.end()) {
    return ErrnoToStatus(ENOENT, absl::StrCat("no device \"", device_name, "\" among ",
                                              memory ? "memory_devices" : "null_devices"));
  }
  OpenedDevice opened;
  bool first_writer;
  RETURN_IF_ERROR(Lease(NamedExport(memory ? "memory" : "null", device_name), device_name, mode,
                        &opened, &first_writer));
  if (!memory) {
    opened.backend = std::make_unique<NullBackend>(device->size, opened.read_only);
    return opened;
  }
  ASSIGN_OR_RETURN(std::shared_ptr<MemoryDisk> disk,
                   memory_disks_->FindOrCreate(device_name, device->size));
  opened.backend = std::make_unique<MemoryBackend>(std::move(disk), opened.read_only);
  return opened;
}

}  // namespace rnbd::server
