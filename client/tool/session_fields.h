#ifndef RNBD_CLIENT_TOOL_SESSION_FIELDS_H_
#define RNBD_CLIENT_TOOL_SESSION_FIELDS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "client/tool/control_files.h"
#include "client/tool/fields.h"
#include "client/tool/words.h"

// What the tables of a client and of a server have in common.
namespace rnbd::client::tool {

// Over the session's paths, of one of their numbers.
uint64_t Sum(const SessionFacts& session, uint64_t PathFacts::*number);

// The columns that say which path it is, and `more` behind them.
std::vector<Field<PathFacts>> PathFieldsWith(const std::vector<Field<PathFacts>>& more);

// What help says of the fields of `target`; nothing for kNone.
template <typename DeviceFacts>
std::string FieldsHelp(Target target, const std::vector<Field<DeviceFacts>>& devices,
                       const std::vector<Field<SessionFacts>>& sessions,
                       const std::vector<Field<PathFacts>>& paths,
                       const std::vector<std::string>& standard) {
  switch (target) {
    case Target::kDevice:
      return FieldsHelp(DescribeFields(devices), standard);
    case Target::kSession:
      return FieldsHelp(DescribeFields(sessions), standard);
    case Target::kPath:
      return FieldsHelp(DescribeFields(paths), standard);
    case Target::kNone:
      break;
  }
  return std::string();
}

}  // namespace rnbd::client::tool

#endif  // RNBD_CLIENT_TOOL_SESSION_FIELDS_H_
