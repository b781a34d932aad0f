#ifndef RNBD_CLIENT_METRICS_PORT_H_
#define RNBD_CLIENT_METRICS_PORT_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "client/client_metrics.h"
#include "client/mappings.h"
#include "common/metrics_http.h"
#include "common/ring.h"
#include "rtrs/address.h"
#include "rtrs/stream_socket.h"

namespace rnbd::client {

// What the sessions and devices of a mount are like, for its metrics. Control thread.
void AddMappings(const Mappings& mappings, ClientMetrics::State* state);

// Where a mount's metrics are served over HTTP. The process before may have the port for a moment
// longer than it serves the mount, so one that follows takes the port when it is free, and serves
// the mount meanwhile.
class MetricsPort {
 public:
  // `text` is called on a thread of HTTP. `ring` is of a thread that may wait for memory;
  // everything is on it.
  MetricsPort(rtrs::Address address, Ring* ring, std::function<std::string()> text);
  ~MetricsPort() = default;

  // Takes the port at once, or fails.
  absl::Status Open();
  // Takes it as soon as it is free, in the background.
  void OpenWhenFree();

 private:
  const rtrs::Address address_;
  const std::function<std::string()> text_;
  Ring::Timer retry_;
  bool told_ = false;
  std::unique_ptr<rtrs::ListeningSocket> socket_;
  std::unique_ptr<MetricsHttp> http_;
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_METRICS_PORT_H_
