#include "server/policy_opener.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "server/export_key.h"
#include "server/export_name.h"
#include "server/io_uring_backend.h"
#include "server/null_backend.h"
#include "server/refusal_reason.h"
#include "server/session_policy.h"
#include "server/write_lock.h"

namespace rnbd::server {

// Among those who have the disk open. The lock of an open file lasts for as long as any of its
// descriptors.
struct PolicyOpener::Place {
  explicit Place(SharedDisks* disks) : disks(disks) {}
  ~Place() {
    absl::MutexLock lock(&disks->writers);
    locked.reset(-1);
    lease.Release();
  }

  SharedDisks* const disks;
  ExportTable::Lease lease;
  UniqueFd locked;
};

PolicyOpener::PolicyOpener(const LiveConfig* config, std::string session_name, rtrs::Address client,
                           SharedDisks* disks)
    : config_(config),
      session_name_(std::move(session_name)),
      client_(std::move(client)),
      disks_(disks) {}

absl::Status PolicyOpener::MayJoin(const rtrs::Address& client) {
  const auto config = config_->Get();
  ASSIGN_OR_RETURN(const config::ServerSessionConfig* entry,
                   DecideSession(*config, session_name_, client_));
  if (config->FindSession(session_name_, client) == entry) return absl::OkStatus();
  return ErrnoToStatus(EACCES, absl::StrCat(entry->origin.text, " does not let paths of session \"",
                                            session_name_, "\" come from ", client.ToString()));
}

absl::optional<SessionLimits> PolicyOpener::limits() const {
  const auto config = config_->Get();
  const config::ServerSessionConfig* const entry = config->FindSession(session_name_, client_);
  if (entry == nullptr) return absl::nullopt;
  return SessionLimits{.session = entry->limits, .device = entry->device_limits};
}

absl::Status PolicyOpener::MayUse(const ExportName& disk) const {
  if (!disks_->drained.Contains(disk.name, absl::Now())) return absl::OkStatus();
  return RefusedFor(RefusalReason::kDrained,
                    ErrnoToStatus(EBUSY, absl::StrCat("disk ", disk.name, " is drained")));
}

absl::StatusOr<OpenedDevice> PolicyOpener::Open(absl::string_view device_name, AccessMode mode) {
  const auto config = config_->Get();
  ASSIGN_OR_RETURN(const config::ServerSessionConfig* entry,
                   DecideSession(*config, session_name_, client_));
  ASSIGN_OR_RETURN(std::string name, NormalizeDeviceName(device_name));
  RETURN_IF_ERROR(MayOpen(*entry, name, mode));
  if (entry->backend == config::BackendKind::kIoUring) return OpenPath(*entry, name, mode);
  return OpenDeclared(*config, *entry, name, mode);
}

absl::StatusOr<std::shared_ptr<PolicyOpener::Place>> PolicyOpener::TakePlace(
    ExportKey key, const std::string& device_name, AccessMode mode) {
  ASSIGN_OR_RETURN(ExportTable::Lease lease,
                   disks_->exports.Acquire({std::move(key), mode, session_name_, device_name}));
  auto place = std::make_shared<Place>(disks_);
  place->lease = std::move(lease);
  return place;
}

absl::Status PolicyOpener::LockPlace(const DeviceFile& file, Place* place) {
  RETURN_IF_ERROR(Annotate(LockForWriting(file.fd.get(), place->lease.first_writer()), file.path));
  place->locked = UniqueFd(fcntl(file.fd.get(), F_DUPFD_CLOEXEC, 0));
  if (!place->locked.valid())
    return ErrnoToStatus(errno, absl::StrCat("keep ", file.path, " open"));
  return absl::OkStatus();
}

OpenedDevice PolicyOpener::MakeOpened(std::shared_ptr<Place> place, AccessMode mode) {
  OpenedDevice opened;
  opened.on_abandoned = [place = place.get()] { place->lease.Abandon(); };
  opened.lease = std::move(place);
  opened.read_only = mode == AccessMode::kReadOnly;
  return opened;
}

absl::StatusOr<OpenedDevice> PolicyOpener::OpenPath(const config::ServerSessionConfig& entry,
                                                    const std::string& device_name,
                                                    AccessMode mode) {
  ASSIGN_OR_RETURN(
      DeviceFile file,
      OpenDeviceFile(SearchPathOf(entry.dev_search_path, session_name_), device_name, mode));
  ASSIGN_OR_RETURN(ExportKey key, IdentifyExport(file.fd.get()));
  std::shared_ptr<Place> place;
  {
    absl::MutexLock lock(&disks_->writers);
    ASSIGN_OR_RETURN(place, TakePlace(std::move(key), device_name, mode));
    if (mode != AccessMode::kReadOnly) RETURN_IF_ERROR(LockPlace(file, place.get()));
  }
  OpenedDevice opened = MakeOpened(std::move(place), mode);
  opened.name = NameOfFile(file.fd.get(), file.path);
  absl::StatusOr<std::unique_ptr<IoUringBackend>> backend =
      IoUringBackend::Open(std::move(file.fd), entry.direct_io);
  if (!backend.ok()) return Annotate(backend.status(), file.path);
  opened.backend = *std::move(backend);
  return opened;
}

absl::StatusOr<OpenedDevice> PolicyOpener::OpenDeclared(const config::ServerConfig& config,
                                                        const config::ServerSessionConfig& entry,
                                                        const std::string& device_name,
                                                        AccessMode mode) {
  const bool memory = entry.backend == config::BackendKind::kMemory;
  const std::vector<config::DeclaredDevice>& declared =
      memory ? config.memory_devices : config.null_devices;
  auto device =
      std::find_if(declared.begin(), declared.end(),
                   [&](const config::DeclaredDevice& d) { return d.name == device_name; });
  if (device == declared.end()) {
    return ErrnoToStatus(ENOENT, absl::StrCat("no device \"", device_name, "\" among ",
                                              memory ? "memory_devices" : "null_devices"));
  }
  ASSIGN_OR_RETURN(
      std::shared_ptr<Place> place,
      TakePlace(NamedExport(memory ? "memory" : "null", device_name), device_name, mode));
  OpenedDevice opened = MakeOpened(std::move(place), mode);
  opened.name = NameOfDeclared(memory ? "memory" : "null", device_name);
  if (!memory) {
    opened.backend = std::make_unique<NullBackend>(device->size, opened.read_only);
    return opened;
  }
  ASSIGN_OR_RETURN(std::shared_ptr<MemoryDisk> disk,
                   disks_->memory.FindOrCreate(device_name, device->size));
  opened.backend = std::make_unique<MemoryBackend>(std::move(disk), opened.read_only);
  return opened;
}

}  // namespace rnbd::server
