#include "client/tool/words.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/types/optional.h"
#include "common/status.h"
#include "config/map_reader.h"

namespace rnbd::client::tool {
namespace {

template <typename Value>
struct Word {
  Value value;
  std::vector<std::string> forms;  // the first one is the whole word
};

const std::vector<Word<bool>>& Modes() {
  static const std::vector<Word<bool>> words = {{false, {"client", "clt"}},
                                                {true, {"server", "srv"}}};
  return words;
}

const std::vector<Word<Target>>& Targets() {
  static const std::vector<Word<Target>> words = {
      {Target::kDevice, {"device", "devices", "dev", "devs"}},
      {Target::kSession, {"session", "sessions", "sess"}},
      {Target::kPath, {"path", "paths"}}};
  return words;
}

const std::vector<Word<Verb>>& Verbs() {
  static const std::vector<Word<Verb>> words = {{Verb::kList, {"list", "ls"}},
                                                {Verb::kShow, {"show"}},
                                                {Verb::kMap, {"map"}},
                                                {Verb::kResize, {"resize"}},
                                                {Verb::kUnmap, {"unmap"}},
                                                {Verb::kRemap, {"remap"}},
                                                {Verb::kLimit, {"limit"}},
                                                {Verb::kDrain, {"drain"}},
                                                {Verb::kUndrain, {"undrain"}},
                                                {Verb::kFence, {"fence"}},
                                                {Verb::kUnfence, {"unfence"}},
                                                {Verb::kClose, {"close"}},
                                                {Verb::kDisconnect, {"disconnect", "disc"}},
                                                {Verb::kReconnect, {"reconnect", "reco"}},
                                                {Verb::kAdd, {"add"}},
                                                {Verb::kDelete, {"delete", "del"}},
                                                {Verb::kReadd, {"readd"}},
                                                {Verb::kRecover, {"recover"}},
                                                {Verb::kReload, {"reload"}},
                                                {Verb::kLosetup, {"losetup"}},
                                                {Verb::kInflight, {"inflight"}},
                                                {Verb::kFail, {"fail"}},
                                                {Verb::kTop, {"top"}},
                                                {Verb::kHelp, {"help", "--help", "-h"}}};
  return words;
}

template <typename Value>
absl::optional<Value> FindWord(const std::vector<Word<Value>>& words, const std::string& text) {
  for (const Word<Value>& word : words) {
    if (std::find(word.forms.begin(), word.forms.end(), text) != word.forms.end()) {
      return word.value;
    }
  }
  return absl::nullopt;
}

template <typename Value>
std::string NameOf(const std::vector<Word<Value>>& words, Value value) {
  for (const Word<Value>& word : words) {
    if (word.value == value) return word.forms[0];
  }
  return std::string();
}

template <typename Value>
void AddNames(const std::vector<Word<Value>>& words, std::vector<std::string>* names) {
  for (const Word<Value>& word : words) names->push_back(word.forms[0]);
}

struct Command {
  bool server;
  Target target;
  Verb verb;
  const char* arguments;
  const char* sentence;
};

constexpr char kListOptions[] =
    "[FIELDS] [csv|json|xml] [B|K|M|G|T|P|E] [notree] [noheaders] [nototals]";
constexpr char kShowDevice[] = "DEVICE [FIELDS] [csv|json|xml] [B|K|M|G|T|P|E]";
constexpr char kShowSession[] = "SESSION [FIELDS] [csv|json|xml] [B|K|M|G|T|P|E]";
constexpr char kShowPath[] = "[SESSION] PATH [FIELDS] [csv|json|xml] [B|K|M|G|T|P|E]";

constexpr char kInflight[] = "[DEVICE] [FIELDS] [csv|json|xml] [noheaders]";

constexpr Command kCommands[] = {
    {false, Target::kDevice, Verb::kList, kListOptions, "the devices that are mapped"},
    {false, Target::kDevice, Verb::kShow, kShowDevice, "one of them"},
    {false, Target::kDevice, Verb::kMap,
     "DEVICE from SERVER [PATH]... [ro|rw|migration] [as NAME] [loop] [on MOUNT] "
     "[verbose]",
     "maps a device of a server"},
    {false, Target::kDevice, Verb::kResize, "DEVICE SIZE [B|K|M|G|T|P|E] [verbose]",
     "shows a device with another size"},
    {false, Target::kDevice, Verb::kUnmap, "DEVICE [force] [verbose]", "unmaps a device"},
    {false, Target::kDevice, Verb::kRemap, "DEVICE [force] [verbose]",
     "opens a device again; force: unmaps and maps it"},
    {false, Target::kDevice, Verb::kLosetup, "DEVICE [verbose]",
     "attaches a loop device to a device, and prints it"},
    {false, Target::kDevice, Verb::kInflight, kInflight, "the requests that are not answered yet"},
    {false, Target::kDevice, Verb::kFail, "DEVICE [verbose]",
     "fails the requests that wait for the device's server"},
    {false, Target::kDevice, Verb::kRecover, "DEVICE|all [verbose]", "opens what is not open"},
    {false, Target::kSession, Verb::kList, kListOptions, "the sessions"},
    {false, Target::kSession, Verb::kShow, kShowSession, "one of them, with its paths"},
    {false, Target::kSession, Verb::kReconnect, "SESSION [verbose]", "connects every path anew"},
    {false, Target::kSession, Verb::kRecover, "SESSION|all [verbose]",
     "connects the paths that are not connected"},
    {false, Target::kSession, Verb::kRemap, "SESSION [force] [verbose]",
     "opens every device again; force: unmaps and maps them"},
    {false, Target::kPath, Verb::kList, kListOptions, "the paths of all sessions"},
    {false, Target::kPath, Verb::kShow, kShowPath, "one of them"},
    {false, Target::kPath, Verb::kDisconnect, "[SESSION] PATH [verbose]",
     "takes a path down, and leaves it so"},
    {false, Target::kPath, Verb::kReconnect, "[SESSION] PATH [verbose]", "connects a path anew"},
    {false, Target::kPath, Verb::kRecover, "[SESSION] PATH|all [verbose]",
     "connects a path that is not connected"},
    {false, Target::kPath, Verb::kAdd, "SESSION PATH [verbose]", "gives a session a further path"},
    {false, Target::kPath, Verb::kDelete, "[SESSION] PATH [verbose]", "takes a path away"},
    {false, Target::kPath, Verb::kReadd, "[SESSION] PATH [verbose]",
     "takes a path away and adds it again"},
    {false, Target::kNone, Verb::kTop, "[-n COUNT] [-d SECONDS] [on MOUNT] [--socket SOCKET]",
     "rates of all mounts and of the server, again and again"},
    {false, Target::kNone, Verb::kReload, "[MOUNT] [verbose]",
     "reads the client's configuration again, and shows what is different"},
    {true, Target::kDevice, Verb::kList, kListOptions, "the devices that are exported"},
    {true, Target::kDevice, Verb::kShow, kShowDevice, "one of them"},
    {true, Target::kDevice, Verb::kInflight, kInflight,
     "the requests that are at the disks, or wait for limits"},
    {true, Target::kDevice, Verb::kClose, "DEVICE [from] [SESSION] [force] [verbose]",
     "takes a device away from a session, which gets errors from then on"},
    {true, Target::kDevice, Verb::kResize, "DEVICE [from] [SESSION] [verbose]",
     "looks now whether a disk has grown, and tells the clients"},
    {true, Target::kDevice, Verb::kLimit,
     "DEVICE [from SESSION] [iops=N] [bandwidth=SIZE] [burst=TIME] [none] [file] [verbose]",
     "says at which rate sessions get requests of a device done; file: as the configuration says"},
    {true, Target::kSession, Verb::kList, kListOptions, "the sessions"},
    {true, Target::kSession, Verb::kShow, kShowSession, "one of them"},
    {true, Target::kSession, Verb::kLimit,
     "SESSION [iops=N] [bandwidth=SIZE] [burst=TIME] [none] [file] [verbose]",
     "says at which rate a session gets its requests done; file: as the configuration says"},
    {true, Target::kSession, Verb::kDisconnect, "SESSION [verbose]",
     "takes every path down; a client may connect again"},
    {true, Target::kDevice, Verb::kDrain, "DEVICE [verbose]",
     "lets nobody have a disk until undrain; who has it open waits for it"},
    {true, Target::kDevice, Verb::kUndrain, "DEVICE [verbose]", "gives it out again"},
    {true, Target::kSession, Verb::kDrain, "SESSION [verbose]",
     "lets what runs finish, and ends it; its client comes back"},
    {true, Target::kSession, Verb::kFence, "SESSION [for TIME] [verbose]",
     "ends it now, and refuses its name until unfence"},
    {true, Target::kSession, Verb::kUnfence, "SESSION [verbose]", "takes its name again"},
    {true, Target::kPath, Verb::kList, kListOptions, "the paths of all sessions"},
    {true, Target::kPath, Verb::kShow, kShowPath, "one of them"},
    {true, Target::kPath, Verb::kDisconnect, "[SESSION] PATH [verbose]",
     "takes a path down; a client may connect it again"},
    {true, Target::kNone, Verb::kDrain, "[verbose]",
     "lets what runs finish, ends every session, and takes none until undrain"},
    {true, Target::kNone, Verb::kUndrain, "[verbose]", "takes sessions again"},
    {true, Target::kNone, Verb::kReload, "[verbose]",
     "reads the server's configuration again, and shows what is different"},
};

absl::Status UnknownWord(const std::string& word, const std::vector<std::string>& known) {
  const auto nearest = config::NearestWord(word, known);
  return absl::InvalidArgumentError(
      absl::StrCat("unknown word \"", word, "\"",
                   nearest.has_value() ? absl::StrCat("; did you mean \"", *nearest, "\"?")
                                       : "; rnbd help says what there is"));
}

// Where a command can be about one kind of thing only, it need not be said.
Target ImpliedTarget(Verb verb) {
  switch (verb) {
    case Verb::kList:
    case Verb::kMap:
    case Verb::kResize:
    case Verb::kUnmap:
    case Verb::kClose:
    case Verb::kLosetup:
    case Verb::kInflight:
    case Verb::kFail:
      return Target::kDevice;
    case Verb::kAdd:
    case Verb::kDelete:
    case Verb::kReadd:
      return Target::kPath;
    case Verb::kFence:
    case Verb::kUnfence:
      return Target::kSession;
    case Verb::kShow:
    case Verb::kRemap:
    case Verb::kLimit:
    case Verb::kDrain:
    case Verb::kUndrain:
    case Verb::kDisconnect:
    case Verb::kReconnect:
    case Verb::kRecover:
    case Verb::kReload:
    case Verb::kTop:
    case Verb::kHelp:
      return Target::kNone;
  }
  return Target::kNone;
}

bool Matches(const Request& request, const Command& command) {
  return (command.server == request.server || request.either) && command.verb == request.verb &&
         (request.target == Target::kNone || request.target == command.target);
}

absl::Status CheckCommand(const Request& request) {
  for (const Command& command : kCommands) {
    if (Matches(request, command)) return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      request.server ? "a server" : "a client", " cannot ", NameOf(Verbs(), request.verb), " a ",
      request.target == Target::kNone ? "thing" : NameOf(Targets(), request.target)));
}

class Parser {
 public:
  explicit Parser(const std::vector<std::string>& words) : words_(words) {}

  absl::StatusOr<Request> Parse() {
    const auto mode = TakeWord(Modes());
    if (mode.has_value()) request_.server = *mode;
    if (const auto target = TakeWord(Targets())) request_.target = *target;
    const auto verb = TakeWord(Verbs());
    if (!verb.has_value()) {
      if (next_ < words_.size()) return UnknownCommand(words_[next_]);
      return request_;  // help
    }
    request_.verb = *verb;
    request_.either = *verb == Verb::kReload && !mode.has_value();
    if (*verb == Verb::kHelp) return request_;
    if (request_.target == Target::kNone) request_.target = ImpliedTarget(*verb);
    RETURN_IF_ERROR(CheckCommand(request_));
    while (next_ < words_.size()) RETURN_IF_ERROR(Take(words_[next_++]));
    if (request_.help) return request_;
    RETURN_IF_ERROR(CheckNames());
    return request_;
  }

 private:
  template <typename Value>
  absl::optional<Value> TakeWord(const std::vector<Word<Value>>& words) {
    if (next_ == words_.size()) return absl::nullopt;
    const absl::optional<Value> found = FindWord(words, words_[next_]);
    if (found.has_value()) ++next_;
    return found;
  }

  absl::Status UnknownCommand(const std::string& word) const {
    std::vector<std::string> known;
    AddNames(Modes(), &known);
    AddNames(Targets(), &known);
    AddNames(Verbs(), &known);
    return UnknownWord(word, known);
  }

  bool Shows() const {
    return request_.verb == Verb::kList || request_.verb == Verb::kShow ||
           request_.verb == Verb::kInflight;
  }
  bool Changes() const { return !Shows(); }

  absl::Status Take(const std::string& word) {
    if (word == "help" || word == "--help" || word == "-h") {
      request_.help = true;
      return absl::OkStatus();
    }
    if (request_.help && word == "all") {
      request_.all_help = true;
      return absl::OkStatus();
    }
    if (Changes() && word == "verbose") return Set(&request_.verbose);
    if (Changes() && word == "force") return Set(&request_.force);
    if (request_.verb == Verb::kTop) return TakeTopWord(word);
    if (request_.verb == Verb::kReload) return TakeReloadWord(word);
    if (request_.server && word == "--socket") return TakeValue(word, &request_.socket);
    if (word == "on") return TakeValue(word, &request_.mount);
    if (request_.verb == Verb::kClose || (request_.server && request_.verb == Verb::kResize)) {
      return TakeUseWord(word);
    }
    if (request_.verb == Verb::kMap) return TakeMapWord(word);
    if (request_.verb == Verb::kFence && word == "for") return TakeValue(word, &request_.time);
    if (request_.verb == Verb::kLimit && !request_.names.empty()) return TakeLimitWord(word);
    if (TakeUnit(word)) return absl::OkStatus();
    if (Shows() && TakeStyle(word)) return absl::OkStatus();
    if (Shows() && IsFieldList(word)) {
      request_.fields = word;
      return absl::OkStatus();
    }
    request_.names.push_back(word);
    return absl::OkStatus();
  }

  static absl::Status Set(bool* flag) {
    *flag = true;
    return absl::OkStatus();
  }

  absl::Status TakeValue(const std::string& word, std::string* value) {
    if (next_ == words_.size()) {
      return absl::InvalidArgumentError(absl::StrCat("nothing stands behind \"", word, "\""));
    }
    *value = words_[next_++];
    return absl::OkStatus();
  }

  absl::Status TakeTopWord(const std::string& word) {
    if (word == "--socket") return TakeValue(word, &request_.socket);
    if (word == "on") return TakeValue(word, &request_.mount);
    std::string text;
    if (word == "-n") {
      RETURN_IF_ERROR(TakeValue(word, &text));
      if (absl::SimpleAtoi(text, &request_.count) && request_.count > 0) return absl::OkStatus();
      return absl::InvalidArgumentError(absl::StrCat("-n takes a count, \"", text, "\" is none"));
    }
    if (word == "-d") {
      RETURN_IF_ERROR(TakeValue(word, &text));
      double seconds = 0;
      if (absl::SimpleAtod(text, &seconds) && seconds >= 0.1 && seconds <= 3600) {
        request_.interval = absl::Seconds(seconds);
        return absl::OkStatus();
      }
      return absl::InvalidArgumentError(
          absl::StrCat("-d takes 0.1 to 3600 seconds, not \"", text, "\""));
    }
    return UnknownWord(word, {"-n", "-d", "on", "--socket"});
  }

  // A mount is a client's, a socket a server's.
  absl::Status TakeReloadWord(const std::string& word) {
    if (word == "--socket" && (request_.server || request_.either)) {
      request_.server = true;
      request_.either = false;
      return TakeValue(word, &request_.socket);
    }
    if (request_.server || !request_.mount.empty()) {
      request_.names.push_back(word);
      return absl::OkStatus();
    }
    request_.either = false;
    if (word == "on") return TakeValue(word, &request_.mount);
    request_.mount = word;
    return absl::OkStatus();
  }

  absl::Status TakeMapWord(const std::string& word) {
    if (word == "from") return TakeValue(word, &request_.from);
    if (word == "as") return TakeValue(word, &request_.file_name);
    if (word == "loop") return Set(&request_.loop);
    if (word == "ro" || word == "rw" || word == "migration") {
      request_.access = word;
      return absl::OkStatus();
    }
    request_.names.push_back(word);
    return absl::OkStatus();
  }

  // DEVICE [from] [SESSION]: a session's use of a disk.
  absl::Status TakeUseWord(const std::string& word) {
    if (word == "from") return TakeValue(word, &request_.from);
    if (request_.names.empty() || !request_.from.empty()) {
      request_.names.push_back(word);
    } else {
      request_.from = word;
    }
    return absl::OkStatus();
  }

  // What it means is for the server to say.
  absl::Status TakeLimitWord(const std::string& word) {
    if (word == "from") return TakeValue(word, &request_.from);
    absl::StrAppend(&request_.limits, request_.limits.empty() ? "" : " ", word);
    return absl::OkStatus();
  }

  // "10G" is a size and its unit, too.
  bool TakeUnit(const std::string& word) {
    constexpr absl::string_view kUnits = "BKMGTPE";
    if (!Shows() && request_.verb != Verb::kResize) return false;
    if (word.size() != 1 || kUnits.find(word[0]) == absl::string_view::npos) return false;
    request_.style.unit = word[0];
    return true;
  }

  bool TakeStyle(const std::string& word) {
    Style& style = request_.style;
    if (word == "csv") {
      style.format = Format::kCsv;
    } else if (word == "json") {
      style.format = Format::kJson;
    } else if (word == "xml") {
      style.format = Format::kXml;
    } else if (word == "term") {
      style.format = Format::kTerminal;
    } else if (word == "noheaders") {
      style.headers = false;
    } else if (word == "nototals") {
      style.totals = false;
    } else if (word == "notree") {
      style.tree = false;
    } else {
      return false;
    }
    return true;
  }

  // A single field is one too, where no name can stand.
  bool IsFieldList(const std::string& word) const {
    const size_t most_names = request_.target == Target::kPath ? 2 : 1;
    const bool named = request_.verb == Verb::kList || request_.names.size() >= most_names;
    const bool has_address = absl::StrContains(word, ':');
    return word[0] == '+' || word[0] == '-' || (named && !has_address) ||
           (absl::StrContains(word, ',') && !has_address);
  }

  absl::Status CheckNames() const {
    const size_t given = request_.names.size();
    const auto missing = [&](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat(NameOf(Verbs(), request_.verb), " needs ",
                                                     what, "; see rnbd ",
                                                     NameOf(Verbs(), request_.verb), " help"));
    };
    switch (request_.verb) {
      case Verb::kList:
      case Verb::kTop:
      case Verb::kHelp:
        return absl::OkStatus();
      case Verb::kDrain:
      case Verb::kUndrain:
        return CheckDrained();
      case Verb::kInflight:
        return given <= 1 ? absl::OkStatus() : missing("one device at the most");
      case Verb::kReload:
        if (given == 0) return absl::OkStatus();
        return missing(request_.server ? "nothing more" : "one mount at the most");
      case Verb::kMap:
        if (given == 0 || request_.from.empty()) return missing("DEVICE from SERVER");
        return absl::OkStatus();
      case Verb::kResize:
        if (request_.server) return given == 1 ? absl::OkStatus() : missing("DEVICE");
        return given == 2 ? absl::OkStatus() : missing("DEVICE SIZE");
      case Verb::kLimit:
        if (given == 1 && !request_.limits.empty()) return absl::OkStatus();
        return missing("a name and iops=, bandwidth=, none or file");
      case Verb::kAdd:
        return given == 2 ? absl::OkStatus() : missing("SESSION PATH");
      default:
        return given == 1 || (given == 2 && request_.target != Target::kDevice) ? absl::OkStatus()
                                                                                : missing("a name");
    }
  }

  // A device must be said to be one: alone, a name is a session's, and without one all is meant.
  absl::Status CheckDrained() const {
    const size_t given = request_.names.size();
    const bool of_one = request_.target != Target::kNone;
    const bool good =
        of_one ? given == 1 : given == 0 || (given == 1 && request_.verb == Verb::kDrain);
    if (good) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        NameOf(Verbs(), request_.verb), of_one ? " needs one name" : " has no such name",
        "; see rnbd server ", NameOf(Verbs(), request_.verb), " help"));
  }

  const std::vector<std::string>& words_;
  size_t next_ = 0;
  Request request_;
};

std::string CommandLine(const Command& command) {
  const std::string target = NameOf(Targets(), command.target);
  return absl::StrCat("rnbd ", NameOf(Modes(), command.server), " ", target,
                      target.empty() ? "" : " ", NameOf(Verbs(), command.verb));
}

// Where there may still be a mode and a target.
std::vector<std::string> WordsBeforeCommand(const Request& request, bool has_mode) {
  std::vector<std::string> behind;
  const bool has_target = request.target != Target::kNone;
  if (!has_mode && !has_target) AddNames(Modes(), &behind);
  if (!has_target) AddNames(Targets(), &behind);
  for (const Word<Verb>& verb : Verbs()) {
    Request with_verb = request;
    with_verb.verb = verb.value;
    const bool is_there =
        std::any_of(std::begin(kCommands), std::end(kCommands),
                    [&](const Command& command) { return Matches(with_verb, command); });
    if (is_there || verb.value == Verb::kHelp) behind.push_back(verb.forms[0]);
  }
  return behind;
}

}  // namespace

absl::StatusOr<Request> ParseWords(const std::vector<std::string>& words) {
  return Parser(words).Parse();
}

std::string HelpText(const Request& request) {
  std::string text;
  if (request.verb == Verb::kHelp) {
    text = "Usage: rnbd [client|server] [device|session|path] COMMAND [OPTION]...\n\n";
  }
  for (const Command& command : kCommands) {
    const bool fits = request.verb == Verb::kHelp
                          ? command.server == request.server && (request.target == Target::kNone ||
                                                                 request.target == command.target)
                          : Matches(request, command);
    if (!fits) continue;
    if (request.verb == Verb::kHelp) {
      absl::StrAppendFormat(&text, "  %-32s %s\n", CommandLine(command), command.sentence);
    } else {
      absl::StrAppend(&text, CommandLine(command), " ", command.arguments, "\n    ",
                      command.sentence, "\n");
    }
  }
  if (request.server || request.either) {
    absl::StrAppend(&text, "\n--socket PATH: where the server's admin_socket is.\n");
  }
  if (request.verb == Verb::kHelp) {
    absl::StrAppend(&text,
                    "\nWhere it is clear what is meant, words may be left out: rnbd map, rnbd "
                    "session list.\n\"help\" behind a command shows its options, \"help all\" its "
                    "fields as well.\n");
  }
  return text;
}

std::vector<std::string> WordsBehind(const std::vector<std::string>& words) {
  Request request;
  size_t next = 0;
  const auto take = [&](const auto& known, auto* value) {
    const auto found = next < words.size() ? FindWord(known, words[next]) : absl::nullopt;
    if (!found.has_value()) return false;
    *value = *found;
    ++next;
    return true;
  };
  const bool has_mode = take(Modes(), &request.server);
  take(Targets(), &request.target);
  if (!take(Verbs(), &request.verb)) {
    return next < words.size() ? std::vector<std::string>() : WordsBeforeCommand(request, has_mode);
  }
  const std::string& last = words.back();
  if (next < words.size() && last == "from") {
    return {request.server ? "SESSION" : "SERVER"};
  }
  if (next < words.size() && last == "on") return {"MOUNT"};
  if (next < words.size() && last == "as") return {};
  request.either = request.verb == Verb::kReload && !has_mode;
  std::vector<std::string> behind;
  for (const Command& command : kCommands) {
    if (!Matches(request, command)) continue;
    for (const absl::string_view word :
         absl::StrSplit(command.arguments, absl::ByAnyChar(" []|."), absl::SkipEmpty())) {
      if (std::find(behind.begin(), behind.end(), word) == behind.end()) {
        behind.emplace_back(word);
      }
    }
  }
  if (!behind.empty()) behind.emplace_back("help");
  return behind;
}

}  // namespace rnbd::client::tool
