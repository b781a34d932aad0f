#ifndef RNBD_CLIENT_TOOL_IN_FLIGHT_H_
#define RNBD_CLIENT_TOOL_IN_FLIGHT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/tool/control_files.h"
#include "client/tool/server_files.h"
#include "client/tool/words.h"
#include "common/admin_client.h"

// `rnbd inflight`: the requests that are not answered yet, of a mount's devices or of a server's.
namespace rnbd::client::tool {

// As `request` wants to see them. What has gone meanwhile is left out.
absl::StatusOr<std::string> ShowInFlight(const Request& request,
                                         const std::vector<const DeviceFacts*>& devices);
absl::StatusOr<std::string> ShowInFlight(const Request& request, AdminClient* client,
                                         const std::vector<const ExportFacts*>& devices);

// The names and meanings of all fields, for help.
std::string InFlightFieldsText();

}  // namespace rnbd::client::tool

#endif  // RNBD_CLIENT_TOOL_IN_FLIGHT_H_
