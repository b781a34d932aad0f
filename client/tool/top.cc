#include "client/tool/top.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/tool/control_files.h"
#include "client/tool/mounts.h"
#include "client/tool/server_files.h"
#include "client/tool/top_rates.h"
#include "common/admin_client.h"
#include "common/process.h"
#include "common/status.h"
#include "common/unique_fd.h"

namespace rnbd::client::tool {
namespace {

// The first rates on a screen need not wait for a whole interval.
constexpr absl::Duration kFirstInterval = absl::Milliseconds(500);

constexpr char kEnterScreen[] = "\x1b[?1049h\x1b[?25l";
constexpr char kLeaveScreen[] = "\x1b[?25h\x1b[?1049l";
constexpr char kHome[] = "\x1b[H";
constexpr char kClearLine[] = "\x1b[K";
constexpr char kClearBelow[] = "\x1b[J";
constexpr char kReverse[] = "\x1b[7m";
constexpr char kPlain[] = "\x1b[m";

bool Put(const std::string& text) {
  return std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
}

// Keys come one by one, and are not shown, while the object is there.
class RawKeys {
 public:
  explicit RawKeys(int terminal) : terminal_(terminal) {
    if (tcgetattr(terminal_, &before_) != 0) return;
    termios raw = before_;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    changed_ = tcsetattr(terminal_, TCSANOW, &raw) == 0;
  }
  ~RawKeys() {
    if (changed_) tcsetattr(terminal_, TCSANOW, &before_);
  }
  RawKeys(const RawKeys&) = delete;
  RawKeys& operator=(const RawKeys&) = delete;

  bool works() const { return changed_; }

 private:
  const int terminal_;
  termios before_ = {};
  bool changed_ = false;
};

// What was on the screen before comes back in the end.
class Screen {
 public:
  Screen() { Put(kEnterScreen); }
  ~Screen() { Put(kLeaveScreen); }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;
};

TopEntry EntryOf(const DeviceFacts& device) {
  TopEntry entry;
  entry.key = absl::StrCat(device.mount, "/", device.name);
  entry.name = device.name;
  entry.session = device.session;
  entry.state = device.state;
  entry.counters =
      ParseStat(ReadControl(absl::StrCat(device.directory, "/stat")).value_or(std::string()));
  return entry;
}

TopEntry EntryOf(const PathFacts& path) {
  TopEntry entry;
  entry.key = path.directory;
  entry.name = path.name;
  entry.session = path.session;
  entry.state = path.state;
  const auto text = [&](const char* file) {
    return ReadControl(absl::StrCat(path.directory, "/", file)).value_or(std::string());
  };
  entry.counters = ParsePathTraffic(text("stats/rdma"), &entry.in_flight);
  const std::string latency = text("cur_latency");
  uint64_t latency_ns = 0;
  if (absl::SimpleAtoi(latency.substr(0, latency.find(' ')), &latency_ns)) {
    entry.heartbeat_us = latency_ns / 1000;
  }
  return entry;
}

void Add(const TopCounters& more, TopCounters* sum) {
  sum->reads += more.reads;
  sum->read_bytes += more.read_bytes;
  sum->writes += more.writes;
  sum->written_bytes += more.written_bytes;
}

// The sum of its paths: one that goes takes its counts along, and the session looks idle once.
TopEntry EntryOf(AdminClient* client, const SessionFacts& session) {
  TopEntry entry;
  entry.key = entry.name = session.name;
  entry.state = session.paths.empty() ? "closing" : "connected";
  for (const PathFacts& path : session.paths) {
    uint64_t none = 0;
    const auto text = client->Read(absl::StrCat(path.directory, "/stats/rdma"));
    if (text.ok()) Add(ParsePathTraffic(*text, &none), &entry.counters);
  }
  return entry;
}

class Top {
 public:
  explicit Top(const Request& request)
      : request_(request),
        is_screen_(isatty(STDOUT_FILENO) == 1),
        signal_set_(BlockSignals({SIGINT, SIGTERM, SIGHUP, SIGWINCH})),
        signals_(signalfd(-1, &signal_set_, SFD_CLOEXEC | SFD_NONBLOCK)) {}

  absl::Status Run() {
    ASSIGN_OR_RETURN(before_, Look());
    if (!is_screen_) return Repeat();
    const RawKeys keys(STDIN_FILENO);
    watches_keys_ = keys.works();
    const Screen screen;
    return Repeat();
  }

 private:
  enum class Event { kTime, kRedraw, kEnd };

  absl::StatusOr<TopSample> Look() {
    TopSample sample;
    sample.time = absl::Now();
    bool any = false;
    ASSIGN_OR_RETURN(const Mounts mounts, FindMounts(request_.mount));
    for (const std::string& point : mounts.points) {
      any = true;
      const MountFacts mount = ReadMount(point);
      for (const DeviceFacts& device : mount.devices) sample.devices.push_back(EntryOf(device));
      for (const SessionFacts& session : mount.sessions) {
        for (const PathFacts& path : session.paths) sample.paths.push_back(EntryOf(path));
      }
    }
    const absl::Status server = LookAtServer(&sample);
    // One that was asked for is to be there; another need not be there, or for this user.
    if (!server.ok() && !request_.socket.empty()) return server;
    if (any || server.ok()) return sample;
    return absl::NotFoundError(
        "neither a mount of rnbd-fuse nor an rnbd-server that this user may "
        "look at");
  }

  absl::Status LookAtServer(TopSample* sample) {
    ASSIGN_OR_RETURN(AdminClient client, ConnectToServer(AdminSocketPath(request_.socket)));
    ASSIGN_OR_RETURN(const ServerFacts facts, ReadServer(&client));
    for (const SessionFacts& session : facts.sessions) {
      sample->server_sessions.push_back(EntryOf(&client, session));
    }
    return absl::OkStatus();
  }

  absl::Status Repeat() {
    absl::Duration interval =
        is_screen_ ? std::min(request_.interval, kFirstInterval) : request_.interval;
    for (uint64_t shown = 0; request_.count == 0 || shown < request_.count;) {
      const Event event = WaitUntil(before_.time + interval);
      if (event == Event::kEnd) return absl::OkStatus();
      if (event == Event::kTime) {
        ASSIGN_OR_RETURN(TopSample now, Look());
        lines_ = TopLines(before_, now);
        before_ = std::move(now);
        interval = request_.interval;
        ++shown;
      }
      if (!Show()) return rnbd::ErrnoToStatus(errno, "write to standard output");
    }
    return absl::OkStatus();
  }

  Event WaitUntil(absl::Time time) {
    for (;;) {
      const absl::Duration left = std::max(time - absl::Now(), absl::ZeroDuration());
      pollfd files[] = {{signals_.get(), POLLIN, 0},
                        {watches_keys_ ? STDIN_FILENO : -1, POLLIN, 0}};
      const int ready =
          poll(files, 2, static_cast<int>(absl::ToInt64Milliseconds(left + absl::Milliseconds(1))));
      if (ready == 0) return Event::kTime;
      signalfd_siginfo info = {};
      if (read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
        return info.ssi_signo == SIGWINCH ? Event::kRedraw : Event::kEnd;
      }
      if (files[1].revents != 0 && IsEnd()) return Event::kEnd;
    }
  }

  static bool IsEnd() {
    char key = 0;
    return read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == 'Q';
  }

  std::string Title() const {
    return absl::StrCat("rnbd top  ",
                        absl::FormatTime("%Y-%m-%d %H:%M:%S", before_.time, absl::LocalTimeZone()));
  }

  bool Show() const { return is_screen_ ? ShowOnScreen() : ShowAsLines(); }

  bool ShowAsLines() const {
    std::string text = absl::StrCat(Title(), "\n\n");
    for (const std::string& line : lines_) absl::StrAppend(&text, line, "\n");
    return Put(text + "\n");
  }

  bool ShowOnScreen() const {
    winsize size = {};
    static_cast<void>(ioctl(STDOUT_FILENO, TIOCGWINSZ, &size));
    const size_t columns = size.ws_col == 0 ? 80 : size.ws_col;
    const size_t rows = size.ws_row == 0 ? 24 : size.ws_row;
    std::vector<std::string> lines = {absl::StrCat(Title(), "  q ends"), ""};
    lines.insert(lines.end(), lines_.begin(), lines_.end());
    lines = FitToScreen(std::move(lines), columns, rows);
    std::string text = kHome;
    for (size_t i = 0; i < lines.size(); ++i) {
      if (i > 0) text += "\r\n";
      const bool is_header = i > 1 && lines[i - 1].empty();
      absl::StrAppend(&text, is_header ? kReverse : "", lines[i], is_header ? kPlain : "",
                      kClearLine);
    }
    return Put(text + kClearBelow);
  }

  const Request& request_;
  const bool is_screen_;
  const sigset_t signal_set_;
  const UniqueFd signals_;
  bool watches_keys_ = false;
  TopSample before_;
  std::vector<std::string> lines_;
};

}  // namespace

absl::Status RunTop(const Request& request) { return Top(request).Run(); }

}  // namespace rnbd::client::tool
