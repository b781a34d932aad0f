#ifndef RNBD_RTRS_SERVER_HANDLER_H_
#define RNBD_RTRS_SERVER_HANDLER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "rtrs/address.h"
#include "rtrs/messages.h"
#include "rtrs/server_request.h"

// What sits on top of a server's sessions.
namespace rnbd::rtrs {

struct ServerSessionInfo {
  std::string name;
  Address client;  // of the path that came first
  SessionGeometry geometry;
  Features features = 0;       // of the client
  absl::Span<uint8_t> chunks;  // the memory of all chunks; lives as long as the session's handler
  // Control thread, while the handler lives: tells the client's layer above something of at most
  // kMaxNews without being asked. May come twice, or not at all where a path is lost. Null where
  // the client takes no news.
  std::function<void(uint32_t news)> send_news = nullptr;
};

// One session, from its first path to its last.
class ServerSessionHandler {
 public:
  // Control thread. No request is being worked on any more, none will come.
  virtual ~ServerSessionHandler() = default;

  // Control thread: a further path of the session comes from `client`. A failure refuses the path
  // and tells the client why.
  virtual absl::Status MayJoin(const Address& client) = 0;

  // On any worker's thread, several at once: a request to be worked on and completed on the same
  // thread, now or later.
  virtual void OnRequest(ServerRequest* request) = 0;

  // On the thread of `worker`, one of the server's: a connection of it was lost. Its requests are
  // abandoned(), and what was not begun for them need not be; they are to be completed all the
  // same.
  virtual void OnConnectionLost(size_t) {}

  // Control thread: the server was given other settings while it runs.
  virtual void OnReconfigured() {}
};

class ServerHandler {
 public:
  // Control thread: whether a client may have a session of this name. A failure refuses it and
  // tells the client why; where there is a session of the name, it stays.
  virtual absl::Status MayBegin(const std::string& session_name, const Address& client) = 0;
  // Control thread: a client that may gets its session. A failure refuses it and tells the client
  // why.
  virtual absl::StatusOr<std::unique_ptr<ServerSessionHandler>> OnSession(
      const ServerSessionInfo& session) = 0;

 protected:
  ~ServerHandler() = default;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_SERVER_HANDLER_H_
