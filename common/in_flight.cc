#include "common/in_flight.h"

#include <algorithm>
#include <cerrno>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status.h"

namespace rnbd {
namespace {

constexpr absl::string_view kMore = "more";

bool ParseLine(const std::vector<absl::string_view>& words, InFlightRequest* request) {
  int64_t age_us = 0;
  if (words.size() != 5 || !absl::SimpleAtoi(words[0], &age_us) ||
      !absl::SimpleAtoi(words[3], &request->offset) ||
      !absl::SimpleAtoi(words[4], &request->length)) {
    return false;
  }
  request->age_ns = age_us * 1000;
  request->place = std::string(words[1]);
  request->operation = std::string(words[2]);
  return true;
}

}  // namespace

std::string InFlightText(std::vector<InFlightRequest> requests) {
  std::stable_sort(requests.begin(), requests.end(),
                   [](const auto& one, const auto& other) { return one.age_ns > other.age_ns; });
  std::string text;
  size_t shown = 0;
  for (const InFlightRequest& request : requests) {
    const std::string line =
        absl::StrCat(request.age_ns / 1000, " ", request.place, " ", request.operation, " ",
                     request.offset, " ", request.length, "\n");
    if (text.size() + line.size() > kMaxInFlightText) break;
    text += line;
    ++shown;
  }
  if (shown < requests.size()) {
    absl::StrAppend(&text, requests.size() - shown, " ", kMore, "\n");
  }
  return text;
}

absl::StatusOr<InFlightList> ParseInFlight(absl::string_view text) {
  InFlightList list;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (words.size() == 2 && words[1] == kMore && absl::SimpleAtoi(words[0], &list.left_out)) {
      continue;
    }
    InFlightRequest request;
    if (!ParseLine(words, &request)) {
      return ErrnoToStatus(EPROTO, absl::StrCat("understand \"", line, "\" as a request"));
    }
    list.requests.push_back(std::move(request));
  }
  return list;
}

}  // namespace rnbd
