#ifndef RNBD_SERVER_POLICY_OPENER_H_
#define RNBD_SERVER_POLICY_OPENER_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/rnbd_messages.h"
#include "config/server_config.h"
#include "server/device_path.h"
#include "server/device_session.h"
#include "server/export_key.h"
#include "server/export_table.h"
#include "server/live_config.h"
#include "server/memory_backend.h"
#include "server/refused_names.h"

namespace rnbd::server {

// What the sessions of a server share.
struct SharedDisks {
  explicit SharedDisks(ExportTable::Options options) : exports(std::move(options)) {}

  ExportTable exports;
  MemoryDisks memory;
  RefusedNames drained;  // disks, by ExportName::name
  // Held while a writer comes or goes: whether it is the first in the table and whether another
  // process has the disk are one question.
  absl::Mutex writers;
};

// Opens devices for one session as its entry of the configuration says: which names, in which
// modes, from where; and shares the underlying disks with other sessions by RNBD's rules (protocol
// page, section 4.2).
class PolicyOpener final : public DeviceOpener {
 public:
  // `config` and `disks` outlive the opener. `client` is where the session came from at first: its
  // entry is that of the configuration in force, anew for each device and path.
  PolicyOpener(const LiveConfig* config, std::string session_name, rtrs::Address client,
               SharedDisks* disks);

  absl::StatusOr<OpenedDevice> Open(absl::string_view device_name, AccessMode mode) override;
  absl::Status MayJoin(const rtrs::Address& client) override;
  absl::optional<SessionLimits> limits() const override;
  absl::Status MayUse(const ExportName& disk) const override;

 private:
  struct Place;

  absl::StatusOr<std::shared_ptr<Place>> TakePlace(ExportKey key, const std::string& device_name,
                                                   AccessMode mode);
  absl::Status LockPlace(const DeviceFile& file, Place* place);
  static OpenedDevice MakeOpened(std::shared_ptr<Place> place, AccessMode mode);
  absl::StatusOr<OpenedDevice> OpenPath(const config::ServerSessionConfig& entry,
                                        const std::string& device_name, AccessMode mode);
  absl::StatusOr<OpenedDevice> OpenDeclared(const config::ServerConfig& config,
                                            const config::ServerSessionConfig& entry,
                                            const std::string& device_name, AccessMode mode);

  const LiveConfig* const config_;
  const std::string session_name_;
  const rtrs::Address client_;
  SharedDisks* const disks_;
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_POLICY_OPENER_H_
