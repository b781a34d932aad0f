// Network links with PacketWeather, for machines without sch_netem: each is a TUN device here and
// one in another network namespace.
//
// Usage: weather-link NAMESPACE_FILE SEED DEVICE...
//
// DEVICE is the link's name, and that of both its devices; whoever starts this gives them
// addresses. It prints "ready" when they are there. Commands on standard input, each answered by
// "ok", for a link or for all with "*":
//
//   stall, go_on        nothing arrives
//   loss PERMILLE, duplicate PERMILLE, reorder PERMILLE, delay MS, limit BYTES_PER_SECOND
//   clear               good weather
//
// The devices go at the end of its input.

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <iostream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "testing/torture/packet_weather.h"

namespace rnbd::testing {
namespace {

struct Link {
  std::string name;
  UniqueFd here;
  UniqueFd there;
  PacketWeather out;
  PacketWeather in;
  PacketWeather::Settings settings;
};

// In the network namespace of this thread.
absl::StatusOr<UniqueFd> MakeDevice(const std::string& name) {
  UniqueFd device(open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!device.valid()) return ErrnoToStatus(errno, "open /dev/net/tun");
  ifreq request = {};
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  std::strncpy(request.ifr_name, name.c_str(), IFNAMSIZ - 1);
  if (ioctl(device.get(), TUNSETIFF, &request) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("make device ", name));
  }
  return device;
}

absl::Status EnterNamespace(const UniqueFd& file) {
  if (setns(file.get(), CLONE_NEWNET) == 0) return absl::OkStatus();
  return ErrnoToStatus(errno, "enter a network namespace");
}

absl::StatusOr<std::deque<Link>> MakeLinks(const char* namespace_file, uint32_t seed,
                                           const std::vector<std::string>& names) {
  const UniqueFd here(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
  const UniqueFd there(open(namespace_file, O_RDONLY | O_CLOEXEC));
  if (!there.valid()) return ErrnoToStatus(errno, absl::StrCat("open ", namespace_file));
  std::deque<Link> links;
  for (const std::string& name : names) {
    links.push_back({name, {}, {}, PacketWeather(++seed), PacketWeather(++seed), {}});
    ASSIGN_OR_RETURN(links.back().here, MakeDevice(name));
  }
  RETURN_IF_ERROR(EnterNamespace(there));
  for (Link& link : links) {
    ASSIGN_OR_RETURN(link.there, MakeDevice(link.name));
  }
  RETURN_IF_ERROR(EnterNamespace(here));
  return links;
}

bool Apply(PacketWeather::Settings* settings, const std::string& command, int64_t number) {
  if (command == "stall" || command == "go_on") {
    settings->cut = command == "stall";
  } else if (command == "loss") {
    settings->loss = static_cast<double>(number) / 1000;
  } else if (command == "duplicate") {
    settings->duplicate = static_cast<double>(number) / 1000;
  } else if (command == "reorder") {
    settings->reorder = static_cast<double>(number) / 1000;
  } else if (command == "delay") {
    settings->delay = absl::Milliseconds(number);
  } else if (command == "limit") {
    settings->bytes_per_second = number;
  } else if (command == "clear") {
    *settings = {};
  } else {
    return false;
  }
  return true;
}

std::string Command(std::deque<Link>* links, const std::string& line) {
  std::istringstream words(line);
  std::string name;
  std::string command;
  int64_t number = 0;
  words >> name >> command >> number;
  bool found = false;
  for (Link& link : *links) {
    if (name != "*" && name != link.name) continue;
    found = true;
    if (!Apply(&link.settings, command, number)) return "error: unknown command " + command;
    link.out.set(link.settings);
    link.in.set(link.settings);
  }
  return found ? "ok" : "error: no link " + name;
}

void Move(const UniqueFd& from, PacketWeather* weather, const UniqueFd& to) {
  Packet packet(65536);
  for (;;) {
    const ssize_t bytes = read(from.get(), packet.data(), packet.size());
    if (bytes <= 0) break;
    weather->Offer(Packet(packet.begin(), packet.begin() + bytes), absl::Now());
  }
  while (weather->Take(absl::Now(), &packet)) {
    // A device that is not up yet, or full, loses it.
    [[maybe_unused]] const ssize_t written = write(to.get(), packet.data(), packet.size());
  }
}

// Until the input ends.
void Run(std::deque<Link>* links) {
  std::string input;
  for (;;) {
    std::vector<pollfd> polled = {{STDIN_FILENO, POLLIN, 0}};
    absl::Time wake = absl::Now() + absl::Seconds(1);
    for (Link& link : *links) {
      polled.push_back({link.here.get(), POLLIN, 0});
      polled.push_back({link.there.get(), POLLIN, 0});
      wake = std::min({wake, link.out.NextDue(), link.in.NextDue()});
    }
    const timespec time = absl::ToTimespec(std::max(wake - absl::Now(), absl::ZeroDuration()));
    ppoll(polled.data(), polled.size(), &time, nullptr);
    for (Link& link : *links) {
      Move(link.here, &link.out, link.there);
      Move(link.there, &link.in, link.here);
    }
    if (polled[0].revents == 0) continue;
    char buffer[4096];
    const ssize_t bytes = read(STDIN_FILENO, buffer, sizeof(buffer));
    if (bytes <= 0) return;
    input.append(buffer, static_cast<size_t>(bytes));
    for (size_t end; (end = input.find('\n')) != std::string::npos; input.erase(0, end + 1)) {
      std::cout << Command(links, input.substr(0, end)) << std::endl;
    }
  }
}

int Main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: weather-link NAMESPACE_FILE SEED DEVICE..." << std::endl;
    return 2;
  }
  auto links = MakeLinks(argv[1], static_cast<uint32_t>(std::stoul(argv[2])),
                         std::vector<std::string>(argv + 3, argv + argc));
  if (!links.ok()) {
    std::cerr << links.status().message() << std::endl;
    return 1;
  }
  std::cout << "ready" << std::endl;
  Run(&*links);
  return 0;
}

}  // namespace
}  // namespace rnbd::testing

int main(int argc, char** argv) { return rnbd::testing::Main(argc, argv); }
