#ifndef RNBD_CLIENT_TOOL_VIEWS_H_
#define RNBD_CLIENT_TOOL_VIEWS_H_

#include <string>
#include <vector>

#include "client/tool/control_files.h"
#include "client/tool/table.h"
#include "client/tool/words.h"

// Devices, sessions and paths as tables, with the published tool's fields.
namespace rnbd::client::tool {

Table DeviceTable(const std::vector<const DeviceFacts*>& devices);
Table SessionTable(const std::vector<const SessionFacts*>& sessions);
Table PathTable(const std::vector<const PathFacts*>& paths);

// The fields that are shown where none are asked for. kNone: none.
std::vector<std::string> StandardFields(Target target);

// The names and meanings of all fields, for help.
std::string FieldsText(Target target);

}  // namespace rnbd::client::tool

#endif  // RNBD_CLIENT_TOOL_VIEWS_H_
