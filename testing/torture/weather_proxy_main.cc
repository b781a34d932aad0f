// WeatherProxy for the routes on the command line, each as NAME LISTEN TARGET, with addresses as in
// "tcp:127.0.0.1:0" and "unix:/tmp/a.sock". It prints "NAME LISTEN" for each, with the port that
// the system chose, and then "ready". Commands come on standard input, one a line, and are answered
// by the number of connections or by "error" and what is wrong. It ends with its input.

#include <unistd.h>

#include <iostream>
#include <string>

#include "absl/time/time.h"
#include "rtrs/address.h"
#include "testing/torture/weather_proxy.h"

namespace rnbd::testing {
namespace {

absl::Status AddRoute(WeatherProxy* proxy, char** words) {
  auto listen = rtrs::ParseAddress(words[1]);
  if (!listen.ok()) return listen.status();
  auto target = rtrs::ParseAddress(words[2]);
  if (!target.ok()) return target.status();
  absl::Status status = proxy->AddRoute(words[0], *listen, *target);
  if (status.ok()) std::cout << words[0] << " " << *proxy->AddressOf(words[0]) << std::endl;
  return status;
}

void Answer(WeatherProxy* proxy, const std::string& line) {
  const absl::StatusOr<int> result = proxy->Command(line);
  if (result.ok()) {
    std::cout << *result << std::endl;
  } else {
    std::cout << "error: " << result.status().message() << std::endl;
  }
}

int Main(int argc, char** argv) {
  WeatherProxy proxy;
  for (int i = 1; i + 2 < argc; i += 3) {
    const absl::Status status = AddRoute(&proxy, argv + i);
    if (!status.ok()) {
      std::cerr << status.message() << std::endl;
      return 1;
    }
  }
  std::cout << "ready" << std::endl;
  std::string input;
  for (;;) {
    if (!proxy.Turn(STDIN_FILENO, absl::Seconds(10))) continue;
    char buffer[4096];
    const ssize_t bytes = read(STDIN_FILENO, buffer, sizeof(buffer));
    if (bytes <= 0) return 0;
    input.append(buffer, static_cast<size_t>(bytes));
    for (size_t end; (end = input.find('\n')) != std::string::npos; input.erase(0, end + 1)) {
      Answer(&proxy, input.substr(0, end));
    }
  }
}

}  // namespace
}  // namespace rnbd::testing

int main(int argc, char** argv) { return rnbd::testing::Main(argc, argv); }
