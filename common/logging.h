#ifndef RNBD_COMMON_LOGGING_H_
#define RNBD_COMMON_LOGGING_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

#include "absl/base/config.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "spdlog/spdlog.h"

// Log lines are written with spdlog: spdlog::warn("session {}: {}", name, status). They say what
// was attempted, on which session, path and device. Not for the data path.

namespace rnbd {

struct LogOptions {
  // One of trace, debug, info, warning, error, critical, off: the lowest level that is written.
  std::string level = "info";
};

// Makes spdlog's default logger write to stderr, which may be shared by any number of threads. A
// line is "<time> <level> <text>"; where stderr is the journal's, which keeps time and level
// itself, it is the text behind the priority prefix of sd-daemon(3). Control characters in the text
// are written as \xNN, so that a name that came from a peer cannot forge a line.
//
// Call it at the start of main() before there are other threads; a later call changes the level.
// Fails with kInvalidArgument, changing nothing, if the level is none of the above.
absl::Status InitLogging(const LogOptions& options);

// Keeps one place in the code from flooding the log: one line per interval, and the number of those
// that were left out.
//
//   static LogEvery limit(std::chrono::seconds(10));
//   if (limit.Allow()) spdlog::warn("bad header ({} more not shown)", limit.TakeSuppressed());
//
// Any thread may call; nothing waits.
class LogEvery {
 public:
  using Clock = std::chrono::steady_clock;

  explicit LogEvery(Clock::duration interval) : interval_(interval) {}

  // True for the first call and for the first after each interval; counts the others.
  bool Allow() { return Allow(Clock::now()); }
  bool Allow(Clock::time_point now);

  // How many calls were refused since the last time this was asked.
  uint64_t TakeSuppressed() { return suppressed_.exchange(0, std::memory_order_relaxed); }

 private:
  const Clock::duration interval_;
  std::atomic<Clock::duration::rep> next_{Clock::duration::min().count()};
  std::atomic<uint64_t> suppressed_{0};
};

}  // namespace rnbd

// Lets Status and Abseil's own string_view stand as arguments of a log line.
template <>
struct fmt::formatter<absl::Status> : fmt::formatter<fmt::string_view> {
  template <typename Context>
  auto format(const absl::Status& status, Context& context) const {
    // Messages are written for people; the names of codes and payloads are not.
    const absl::string_view text = status.ok() ? "OK" : status.message();
    return fmt::formatter<fmt::string_view>::format({text.data(), text.size()}, context);
  }
};

#ifndef ABSL_USES_STD_STRING_VIEW
template <>
struct fmt::formatter<absl::string_view> : fmt::formatter<fmt::string_view> {
  template <typename Context>
  auto format(absl::string_view text, Context& context) const {
    return fmt::formatter<fmt::string_view>::format({text.data(), text.size()}, context);
  }
};
#endif

#endif  // RNBD_COMMON_LOGGING_H_
