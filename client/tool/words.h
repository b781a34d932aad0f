#ifndef RNBD_CLIENT_TOOL_WORDS_H_
#define RNBD_CLIENT_TOOL_WORDS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/tool/table.h"

namespace rnbd::client::tool {

enum class Target : uint8_t { kNone, kDevice, kSession, kPath };

enum class Verb : uint8_t {
  kList,
  kShow,
  kMap,
  kResize,
  kUnmap,
  kRemap,
  kLimit,
  kDrain,
  kUndrain,
  kFence,
  kUnfence,
  kClose,
  kDisconnect,
  kReconnect,
  kAdd,
  kDelete,
  kReadd,
  kRecover,
  kReload,
  kLosetup,
  kInflight,
  kFail,
  kTop,
  kHelp,
};

// A command line of `rnbd` (docs/rnbd.md): [MODE] [TARGET] COMMAND [ARGUMENT | OPTION]...
struct Request {
  bool server = false;
  bool either = false;            // reload: of the side that runs here; `server` says nothing
  Target target = Target::kNone;  // kNone: to be found by the name that the command is about
  Verb verb = Verb::kHelp;
  bool help = false;  // of this command; kHelp: of what the words before it name
  bool all_help = false;

  std::vector<std::string> names;  // what the command is about
  std::string from;                // map: the server; of a server: the session
  std::string mount;               // on MOUNT
  std::string socket;              // --socket PATH: of the server
  std::string file_name;           // as NAME
  std::string access;              // ro, rw, migration; or empty
  std::string fields;              // for Choose()
  std::string limits;              // limit: what is written
  std::string time;                // fence: for how long
  bool loop = false;               // map
  bool force = false;
  bool verbose = false;
  Style style;
  uint64_t count = 0;                          // top: how often; 0: until somebody ends it
  absl::Duration interval = absl::Seconds(2);  // top
};

// kInvalidArgument, with the word that may be meant, for what is no command.
absl::StatusOr<Request> ParseWords(const std::vector<std::string>& words);

// What may be said at this level, or how a command is used.
std::string HelpText(const Request& request);

// What may stand behind these words: words themselves, and in capitals what names may stand for, as
// help has it: DEVICE, SESSION, SERVER, PATH, MOUNT, ... Empty behind what is no command.
std::vector<std::string> WordsBehind(const std::vector<std::string>& words);

}  // namespace rnbd::client::tool

#endif  // RNBD_CLIENT_TOOL_WORDS_H_
