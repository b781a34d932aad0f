#include "common/logging.h"

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <ctime>
#include <iterator>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "spdlog/sinks/stdout_sinks.h"

namespace rnbd {
namespace {

struct Level {
  absl::string_view name;
  spdlog::level::level_enum value;
  char journal_priority;  // RFC 5424's severity, as in sd-daemon(3).
};

constexpr std::array<Level, 7> kLevels = {{
    {"trace", spdlog::level::trace, '7'},
    {"debug", spdlog::level::debug, '7'},
    {"info", spdlog::level::info, '6'},
    {"warning", spdlog::level::warn, '4'},
    {"error", spdlog::level::err, '3'},
    {"critical", spdlog::level::critical, '2'},
    {"off", spdlog::level::off, '2'},
}};

const Level* FindLevel(absl::string_view name) {
  for (const Level& level : kLevels) {
    if (level.name == name) return &level;
  }
  return nullptr;
}

// As systemd.exec(5) defines it: the variable may be inherited by a process whose stderr has been
// redirected since.
bool StderrIsJournal() {
  const char* stream = std::getenv("JOURNAL_STREAM");
  struct stat status;
  if (stream == nullptr || ::fstat(STDERR_FILENO, &status) != 0) return false;
  return stream == absl::StrCat(status.st_dev, ":", status.st_ino);
}

class LineFormatter : public spdlog::formatter {
 public:
  explicit LineFormatter(bool journal) : journal_(journal) {}

  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& line) override {
    const Level& level = kLevels[message.level];
    if (journal_) {
      fmt::format_to(std::back_inserter(line), "<{}>", level.journal_priority);
    } else {
      AppendTime(message.time, line);
      fmt::format_to(std::back_inserter(line), " {} ",
                     fmt::string_view(level.name.data(), level.name.size()));
    }
    for (const char c : message.payload) AppendEscaped(c, line);
    line.push_back('\n');
  }

  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<LineFormatter>(journal_);
  }

 private:
  static void AppendTime(spdlog::log_clock::time_point time, spdlog::memory_buf_t& line) {
    const std::time_t seconds = spdlog::log_clock::to_time_t(time);
    const auto since_epoch =
        std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch());
    std::tm local;
    ::localtime_r(&seconds, &local);
    fmt::format_to(std::back_inserter(line), "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}",
                   local.tm_year + 1900, local.tm_mon + 1, local.tm_mday, local.tm_hour,
                   local.tm_min, local.tm_sec, since_epoch.count() % 1000);
  }

  static void AppendEscaped(char c, spdlog::memory_buf_t& line) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f) {
      line.push_back(c);
    } else {
      fmt::format_to(std::back_inserter(line), "\\x{:02x}", byte);
    }
  }

  const bool journal_;
};

}  // namespace

absl::Status InitLogging(const LogOptions& options) {
  const Level* level = FindLevel(options.level);
  if (level == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("log level \"", options.level,
                     "\" is none of trace, debug, info, warning, error, critical, off"));
  }
  auto logger =
      std::make_shared<spdlog::logger>("", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_formatter(std::make_unique<LineFormatter>(StderrIsJournal()));
  logger->set_level(level->value);
  logger->flush_on(spdlog::level::warn);
  spdlog::set_default_logger(std::move(logger));
  return absl::OkStatus();
}

bool LogEvery::Allow(Clock::time_point now) {
  const Clock::duration::rep at = now.time_since_epoch().count();
  Clock::duration::rep next = next_.load(std::memory_order_relaxed);
  // Of the threads that find the interval over, the one whose exchange succeeds may write.
  if (at >= next &&
      next_.compare_exchange_strong(next, at + interval_.count(), std::memory_order_relaxed)) {
    return true;
  }
  suppressed_.fetch_add(1, std::memory_order_relaxed);
  return false;
}

}  // namespace rnbd
