#ifndef RNBD_SERVER_POLICY_OPENER_H_
#define RNBD_SERVER_POLICY_OPENER_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/rnbd_messages.h"
#include "config/server_config.h"
#include "server/device_session.h"
#include "server/export_key.h"
#include "server/export_table.h"
#include "server/memory_backend.h"

namespace rnbd::server {

// Opens devices for one session as its entry of the configuration says: which names, in which
// modes, from where; and shares the underlying disks with other sessions by RNBD's rules (protocol
// page, section 4.2).
class PolicyOpener final : public DeviceOpener {
 public:
  // All outlive the opener.
  PolicyOpener(const config::ServerConfig* config, const config::ServerSessionConfig* entry,
               std::string session_name, ExportTable* exports, MemoryDisks* memory_disks);

  absl::StatusOr<OpenedDevice> Open(absl::string_view device_name, AccessMode mode) override;
  absl::Status MayJoin(const rtrs::Address& client) override;

 private:
  absl::Status Lease(ExportKey key, const std::string& device_name, AccessMode mode,
                     OpenedDevice* opened, bool* first_writer);
  absl::StatusOr<OpenedDevice> OpenPath(const std::string& device_name, AccessMode mode);
  absl::StatusOr<OpenedDevice> OpenDeclared(const std::string& device_name, AccessMode mode);

  const config::ServerConfig* const config_;
  const config::ServerSessionConfig* const entry_;
  const std::string session_name_;
  ExportTable* const exports_;
  MemoryDisks* const memory_disks_;
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_POLICY_OPENER_H_
