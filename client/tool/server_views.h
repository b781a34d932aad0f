#ifndef RNBD_CLIENT_TOOL_SERVER_VIEWS_H_
#define RNBD_CLIENT_TOOL_SERVER_VIEWS_H_

#include <string>
#include <vector>

#include "client/tool/server_files.h"
#include "client/tool/table.h"
#include "client/tool/words.h"

// A server's devices, sessions and paths as tables, with the published tool's fields.
namespace rnbd::client::tool {

Table ExportTable(const std::vector<const ExportFacts*>& devices);
Table ServerSessionTable(const std::vector<const SessionFacts*>& sessions);
Table ServerPathTable(const std::vector<const PathFacts*>& paths);

// The fields that are shown where none are asked for. kNone: none.
std::vector<std::string> StandardServerFields(Target target);

// The names and meanings of all fields, for help.
std::string ServerFieldsText(Target target);

}  // namespace rnbd::client::tool

#endif  // RNBD_CLIENT_TOOL_SERVER_VIEWS_H_
