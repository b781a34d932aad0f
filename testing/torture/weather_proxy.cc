#include "testing/torture/weather_proxy.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "common/status.h"

namespace rnbd::testing {
namespace {

// Its end is an RST, and what is under way is lost.
void Break(UniqueFd* socket) {
  const linger at_once = {1, 0};
  setsockopt(socket->get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  socket->reset(-1);
}

void DoNotBlock(int socket) { fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) | O_NONBLOCK); }

absl::StatusOr<UniqueFd> Connect(const rtrs::Address& target) {
  ASSIGN_OR_RETURN(const rtrs::SocketAddress address, rtrs::ToSocketAddress(target));
  ASSIGN_OR_RETURN(UniqueFd socket, rtrs::OpenStreamSocket(address.family(), absl::nullopt));
  // On this machine it is done or refused at once.
  if (connect(socket.get(), address.get(), address.length) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("connect to ", target.ToString()));
  }
  DoNotBlock(socket.get());
  return socket;
}

}  // namespace

absl::Status WeatherProxy::AddRoute(const std::string& name, const rtrs::Address& listen,
                                    const rtrs::Address& target) {
  auto route = std::make_unique<Route>();
  route->name = name;
  route->listen = listen;
  route->target = target;
  RETURN_IF_ERROR(Listen(route.get()));
  routes_.push_back(std::move(route));
  return absl::OkStatus();
}

absl::StatusOr<rtrs::Address> WeatherProxy::AddressOf(absl::string_view name) const {
  for (const auto& route : routes_) {
    if (route->name == name) return route->listen;
  }
  return absl::NotFoundError(absl::StrCat("no route ", name));
}

absl::Status WeatherProxy::Listen(Route* route) {
  if (route->socket.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(rtrs::ListeningSocket socket, rtrs::ListeningSocket::Open(route->listen));
  DoNotBlock(socket.get());
  route->listen = socket.address();  // the next time on the same port
  route->socket.emplace(std::move(socket));
  return absl::OkStatus();
}

absl::StatusOr<int> WeatherProxy::Command(absl::string_view line) {
  const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
  if (words.size() < 2) return absl::InvalidArgumentError("expected ROUTE COMMAND [NUMBER]");
  int64_t number = 0;
  if (words.size() > 2 && !absl::SimpleAtoi(words[2], &number)) {
    return absl::InvalidArgumentError(absl::StrCat(words[2], " is no number"));
  }
  int connections = 0;
  bool found = false;
  for (auto& route : routes_) {
    if (words[0] != "*" && words[0] != route->name) continue;
    found = true;
    connections += static_cast<int>(route->connections.size());
    RETURN_IF_ERROR(CommandRoute(route.get(), words[1], number));
  }
  if (!found) return absl::NotFoundError(absl::StrCat("no route ", words[0]));
  return connections;
}

absl::Status WeatherProxy::CommandRoute(Route* route, absl::string_view command, int64_t number) {
  auto& connections = route->connections;
  if (command == "cut") {
    connections.clear();
  } else if (command == "reset") {
    for (Connection& connection : connections) {
      Break(&connection.client);
      Break(&connection.server);
    }
    connections.clear();
  } else if (command == "reset_one") {
    if (connections.empty()) return absl::OkStatus();
    auto one = std::next(connections.begin(), number % static_cast<int64_t>(connections.size()));
    Break(&one->client);
    Break(&one->server);
    connections.erase(one);
  } else if (command == "forget") {
    for (Connection& connection : connections) {
      Break(&connection.server);
      connection.forgotten = true;
    }
  } else if (command == "refuse") {
    route->socket.reset();
  } else if (command == "accept") {
    return Listen(route);
  } else if (command == "stall" || command == "go_on") {
    route->weather.stalled = command == "stall";
  } else if (command == "delay") {
    route->weather.delay = absl::Milliseconds(number);
  } else if (command == "limit") {
    route->weather.bytes_per_second = number;
  } else if (command == "clear") {
    route->weather = {};
    connections.remove_if([](const Connection& connection) { return connection.forgotten; });
    return Listen(route);
  } else if (command != "count") {
    return absl::InvalidArgumentError(absl::StrCat("unknown command ", command));
  }
  return absl::OkStatus();
}

void WeatherProxy::Accept(Route* route) {
  UniqueFd client(accept4(route->socket->get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!client.valid()) return;
  absl::StatusOr<UniqueFd> server = Connect(route->target);
  // As a client without proxy would meet it.
  if (!server.ok()) return Break(&client);
  rtrs::TuneStreamSocket(client.get(),
                         route->listen.scheme == rtrs::AddressScheme::kUnix ? AF_UNIX : AF_INET);
  route->connections.emplace_back(std::move(client), *std::move(server));
}

// False when the connection has ended.
bool WeatherProxy::Move(const Weather& weather, Connection* connection) {
  const absl::Time now = absl::Now();
  for (ProxyPipe* pipe : {&connection->up, &connection->down}) {
    if (pipe->wants_to_read(weather) && !pipe->Read(weather, now)) return false;
    if (pipe->wants_to_write(weather, now) && !pipe->Write(weather, now)) return false;
  }
  return !connection->up.done() || !connection->down.done();
}

bool WeatherProxy::Turn(int other, absl::Duration limit) {
  const absl::Time now = absl::Now();
  absl::Time wake = now + limit;
  std::map<int, int16_t> wanted;
  if (other >= 0) wanted[other] |= POLLIN;
  for (auto& route : routes_) {
    if (route->socket.has_value()) wanted[route->socket->get()] |= POLLIN;
    for (Connection& connection : route->connections) {
      if (connection.forgotten || route->weather.stalled) continue;
      const int client = connection.client.get();
      const int server = connection.server.get();
      if (connection.up.wants_to_read(route->weather)) wanted[client] |= POLLIN;
      if (connection.down.wants_to_read(route->weather)) wanted[server] |= POLLIN;
      if (connection.up.wants_to_write(route->weather, now)) wanted[server] |= POLLOUT;
      if (connection.down.wants_to_write(route->weather, now)) wanted[client] |= POLLOUT;
      for (const absl::Time due : {connection.up.NextDue(), connection.down.NextDue()}) {
        if (due > now) wake = std::min(wake, due);
      }
    }
  }
  std::vector<pollfd> polled;
  for (const auto& [fd, events] : wanted) polled.push_back({fd, events, 0});
  const timespec time = absl::ToTimespec(std::max(wake - now, absl::ZeroDuration()));
  ppoll(polled.data(), polled.size(), &time, nullptr);
  bool other_is_readable = false;
  std::map<int, int16_t> happened;
  for (const pollfd& entry : polled) happened[entry.fd] = entry.revents;
  if (other >= 0) other_is_readable = happened[other] != 0;

  for (auto& route : routes_) {
    route->connections.remove_if([&](Connection& connection) {
      if (connection.forgotten || route->weather.stalled) return false;
      if (Move(route->weather, &connection)) return false;
      // One end broke it, and the other is to see that.
      if (!connection.up.done()) Break(&connection.server);
      if (!connection.down.done()) Break(&connection.client);
      return true;
    });
    if (route->socket.has_value() && happened[route->socket->get()] != 0) Accept(route.get());
  }
  return other_is_readable;
}

}  // namespace rnbd::testing
