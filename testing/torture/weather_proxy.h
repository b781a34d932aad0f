#ifndef RNBD_TESTING_TORTURE_WEATHER_PROXY_H_
#define RNBD_TESTING_TORTURE_WEATHER_PROXY_H_

#include <list>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "common/unique_fd.h"
#include "rtrs/address.h"
#include "rtrs/stream_socket.h"
#include "testing/torture/proxy_pipe.h"

namespace rnbd::testing {

// Stands between clients and a server, on TCP and Unix sockets, and makes bad weather: each route
// is a place to listen and a place where connections go on to. One thread.
//
// Commands, for a route by its name or for all with "*":
//
//   cut            ends the connections, in order
//   reset          breaks them: ECONNRESET
//   reset_one      breaks one of them
//   refuse         does not listen; connections that there are stay
//   accept         listens again
//   stall, go_on   nothing moves any more, in silence; then what was held moves on
//   forget         breaks connections towards the server only; the client's stay, and are silent
//   for good delay MS       each byte takes so long more, per direction limit BYTES    per second,
//   direction and connection; 0: no limit clear          accept, go_on, no delay, no limit count
//   nothing
class WeatherProxy {
 public:
  // Binds to `listen`; connections to `target` are made as they are needed.
  absl::Status AddRoute(const std::string& name, const rtrs::Address& listen,
                        const rtrs::Address& target);
  absl::StatusOr<rtrs::Address> AddressOf(absl::string_view name) const;

  // How many connections there were on the routes that are meant.
  absl::StatusOr<int> Command(absl::string_view line);

  // Waits for something to happen on a socket or on `other`, at most for `limit`, and does what is
  // to be done. True if `other` can be read.
  bool Turn(int other, absl::Duration limit);

 private:
  struct Connection {
    Connection(UniqueFd from_client, UniqueFd from_server)
        : client(std::move(from_client)),
          server(std::move(from_server)),
          up(client.get(), server.get()),
          down(server.get(), client.get()) {}
    UniqueFd client;
    UniqueFd server;
    ProxyPipe up;
    ProxyPipe down;
    bool forgotten = false;
  };
  struct Route {
    std::string name;
    rtrs::Address listen;
    rtrs::Address target;
    absl::optional<rtrs::ListeningSocket> socket;
    Weather weather;
    std::list<Connection> connections;
  };

  absl::Status CommandRoute(Route* route, absl::string_view command, int64_t number);
  static absl::Status Listen(Route* route);
  static void Accept(Route* route);
  static bool Move(const Weather& weather, Connection* connection);

  std::vector<std::unique_ptr<Route>> routes_;
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_TORTURE_WEATHER_PROXY_H_
