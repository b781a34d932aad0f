// rnbd: shows and changes what rnbd-fuse has mounted on this machine, and what rnbd-server exports.

#include <cstdio>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/tool/actions.h"
#include "client/tool/completion.h"
#include "client/tool/in_flight.h"
#include "client/tool/server_views.h"
#include "client/tool/top.h"
#include "client/tool/views.h"
#include "client/tool/words.h"
#include "common/status.h"

namespace rnbd::client::tool {
namespace {

// Exit statuses; docs/rnbd.md has them.
constexpr int kOk = 0;
constexpr int kFailed = 1;
constexpr int kUsage = 2;
constexpr int kNothingFound = 3;

int ExitStatus(const absl::Status& status) {
  const bool from_file = status.GetPayload(kErrnoPayloadUrl).has_value();
  if (from_file) return kFailed;
  if (absl::IsInvalidArgument(status)) return kUsage;
  return absl::IsNotFound(status) ? kNothingFound : kFailed;
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "rnbd: %s\n", std::string(status.message()).c_str());
  return ExitStatus(status);
}

int Print(const std::string& text) {
  const bool written = std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
  return written ? kOk : kFailed;
}

std::string AllFields(const Request& request) {
  if (request.verb == Verb::kInflight) return InFlightFieldsText();
  return request.server ? ServerFieldsText(request.target) : FieldsText(request.target);
}

// Of completion in shells; not for people. What may stand in place of the last word, one a line.
constexpr char kComplete[] = "--complete";

int Main(const std::vector<std::string>& words) {
  if (!words.empty() && words[0] == kComplete) {
    return Print(Complete({words.begin() + 1, words.end()}));
  }
  const absl::StatusOr<Request> request = ParseWords(words);
  if (!request.ok()) return Fail(request.status());
  if (request->verb == Verb::kHelp) return Print(HelpText(*request));
  if (request->help) {
    return Print(HelpText(*request) + (request->all_help ? AllFields(*request) : ""));
  }
  if (request->verb == Verb::kTop) {
    const absl::Status shown = RunTop(*request);
    return shown.ok() ? kOk : Fail(shown);
  }
  const absl::StatusOr<std::string> done = Run(*request);
  return done.ok() ? Print(*done) : Fail(done.status());
}

}  // namespace
}  // namespace rnbd::client::tool

int main(int argc, char** argv) {
  return rnbd::client::tool::Main(std::vector<std::string>(argv + 1, argv + argc));
}
