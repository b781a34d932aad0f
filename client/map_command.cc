#include "client/map_command.h"

#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/types/optional.h"
#include "common/attribute_text.h"
#include "common/status.h"

namespace rnbd::client {
namespace {

using rtrs::PathPolicy;

constexpr size_t kMaxValue = 255;
constexpr size_t kUsefulValue = 254;  // the kernel's buffers end with a 0
constexpr int64_t kMaxPort = 65535;
constexpr int64_t kMaxReconnectAttempts = 9999;

absl::Status Invalid(absl::string_view what) { return rnbd::ErrnoToStatus(EINVAL, what); }

// As strtol with base 0 and nothing behind; 0 to `max`, or from `min`.
absl::optional<int64_t> ParseInteger(absl::string_view text, int base, int64_t min, int64_t max) {
  const std::string copy(text);
  if (copy.empty() || isspace(static_cast<unsigned char>(copy[0])) != 0) return absl::nullopt;
  char* end = nullptr;
  errno = 0;
  const long long value = strtoll(copy.c_str(), &end, base);
  if (errno != 0 || *end != '\0' || value < min || value > max) return absl::nullopt;
  return value;
}

bool HasControlCharacter(absl::string_view text) {
  for (const char c : text) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) return true;
  }
  return false;
}

class MapParser {
 public:
  explicit MapParser(int processors) : processors_(processors) {}

  absl::StatusOr<MapCommand> Parse(absl::string_view text) {
    for (absl::string_view token :
         absl::StrSplit(absl::StripAsciiWhitespace(text), ' ', absl::SkipEmpty())) {
      RETURN_IF_ERROR(Take(token));
    }
    if (command_.session.empty() || command_.device_path.empty()) {
      return Invalid("map a device without sessname= and device_path=");
    }
    if (command_.name.empty()) {
      command_.name = absl::StrReplaceAll(command_.device_path, {{"/", "!"}});
    }
    return std::move(command_);
  }

 private:
  absl::Status Take(absl::string_view token) {
    const std::pair<absl::string_view, absl::string_view> split =
        absl::StrSplit(token, absl::MaxSplits('=', 1));
    const auto& [key, value] = split;
    if (value.empty() || HasControlCharacter(value)) {
      return Invalid(absl::StrCat("map a device with \"", token, "\""));
    }
    if (value.size() > kMaxValue) return Invalid(absl::StrCat(key, "= with a text so long"));
    const std::string text(value.substr(0, kUsefulValue));
    if (key == "sessname") return Set(&command_.session, text);
    if (key == "device_path") return Set(&command_.device_path, text);
    if (key == "name") return Set(&command_.name, text);
    if (key == "path") return TakePath(text);
    if (key == "dest_port") return TakePort(text);
    if (key == "access_mode") return TakeAccess(text);
    if (key == "nr_poll_queues") return TakePollQueues(text);
    if (key == "loop") return TakeLoop(text);
    return Invalid(absl::StrCat("map a device with the unknown word \"", key, "\""));
  }

  static absl::Status Set(std::string* field, const std::string& text) {
    *field = text;
    return absl::OkStatus();
  }

  absl::Status TakePath(const std::string& text) {
    if (command_.paths.size() == MapCommand::kMaxPaths) {
      return ErrnoToStatus(
          ENOMEM, absl::StrCat("map a device with more than ", MapCommand::kMaxPaths, " paths"));
    }
    ASSIGN_OR_RETURN(rtrs::PathAddress path, rtrs::ParsePathAddress(text, port_));
    command_.paths.push_back(std::move(path));
    return absl::OkStatus();
  }

  // Of the paths behind it.
  absl::Status TakePort(const std::string& text) {
    const absl::optional<int64_t> port = ParseInteger(text, 0, 0, kMaxPort);
    if (!port.has_value()) return Invalid(absl::StrCat("use dest_port=", text));
    port_ = static_cast<uint16_t>(*port);
    return absl::OkStatus();
  }

  absl::Status TakeAccess(const std::string& text) {
    const absl::StatusOr<AccessMode> access = ParseAccessMode(text);
    if (!access.ok()) return Invalid(absl::StrCat("use access_mode=", text));
    command_.access = *access;
    return absl::OkStatus();
  }

  absl::Status TakeLoop(const std::string& text) {
    if (text != "auto" && text != "no") return Invalid(absl::StrCat("use loop=", text));
    command_.loop = text == "auto" ? config::LoopAttach::kAuto : config::LoopAttach::kNo;
    return absl::OkStatus();
  }

  absl::Status TakePollQueues(const std::string& text) {
    const absl::optional<int64_t> count = ParseInteger(text, 0, -1, processors_);
    if (!count.has_value()) return Invalid(absl::StrCat("use nr_poll_queues=", text));
    command_.poll_queues = *count < 0 ? processors_ : static_cast<int>(*count);
    return absl::OkStatus();
  }

  const int processors_;
  uint16_t port_ = rtrs::kDefaultPort;
  MapCommand command_;
};

struct PolicyWord {
  PathPolicy policy;
  absl::string_view number;
  absl::string_view letters;
  absl::string_view name;
  absl::string_view text;
};

constexpr PolicyWord kPolicies[] = {
    {PathPolicy::kRoundRobin, "0", "rr", "round-robin", "round-robin (RR: 0)"},
    {PathPolicy::kMinInflight, "1", "mi", "min-inflight", "min-inflight (MI: 1)"},
    {PathPolicy::kMinLatency, "2", "ml", "min-latency", "min-latency (ML: 2)"},
};

}  // namespace

absl::StatusOr<MapCommand> ParseMapCommand(absl::string_view text, int processors) {
  return MapParser(processors).Parse(text);
}

absl::Status CheckNewSession(const MapCommand& command) {
  if (command.paths.empty()) {
    return ErrnoToStatus(ENXIO, absl::StrCat("find session ", command.session,
                                             ", which is not there and has no path="));
  }
  if (absl::StrContains(command.session, '/') || absl::StrContains(command.session, '.')) {
    return Invalid(absl::StrCat("name a session ", command.session));
  }
  return absl::OkStatus();
}

std::string MapDeviceUsage() {
  return "Write: sessname=NAME device_path=PATH [path=[SRC@]DST]... [dest_port=PORT]\n"
         "       [access_mode=ro|rw|migration] [nr_poll_queues=N] [name=FILE] [loop=auto]\n"
         "An address is ip:ADDRESS, gid:GID, tcp:ADDRESS[:PORT] or unix:PATH.\n";
}

absl::StatusOr<bool> ParseUnmap(absl::string_view text) {
  const absl::string_view word = WithoutNewline(text);
  if (word == "normal") return false;
  if (word == "force") return true;
  return Invalid("take anything but normal or force");
}

absl::StatusOr<uint64_t> ParseSectors(absl::string_view text) {
  const absl::optional<int64_t> sectors =
      ParseInteger(WithoutNewline(text), 0, 0, INT64_MAX / static_cast<int64_t>(kSectorSize));
  if (!sectors.has_value()) return Invalid("take this as a number of sectors");
  return static_cast<uint64_t>(*sectors);
}

absl::StatusOr<rtrs::PathAddress> ParseNewPath(absl::string_view text) {
  const absl::string_view word = absl::StripAsciiWhitespace(text);
  if (word.empty() || HasControlCharacter(word)) return Invalid("take this as a path");
  return rtrs::ParsePathAddress(word);
}

absl::StatusOr<int> ParseReconnectAttempts(absl::string_view text) {
  const absl::optional<int64_t> count =
      ParseInteger(WithoutNewline(text), 10, -1, kMaxReconnectAttempts);
  if (!count.has_value()) return Invalid("take anything but -1 to 9999");
  return static_cast<int>(*count);
}

absl::StatusOr<PathPolicy> ParsePolicy(absl::string_view text) {
  const std::string word = absl::AsciiStrToLower(WithoutNewline(text));
  for (const PolicyWord& known : kPolicies) {
    if (word == known.number || word == known.letters || absl::StartsWith(word, known.name)) {
      return known.policy;
    }
  }
  return Invalid("take this as a policy");
}

absl::string_view PolicyText(PathPolicy policy) {
  for (const PolicyWord& known : kPolicies) {
    if (known.policy == policy) return known.text;
  }
  return "";
}

}  // namespace rnbd::client
