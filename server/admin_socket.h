#ifndef RNBD_SERVER_ADMIN_SOCKET_H_
#define RNBD_SERVER_ADMIN_SOCKET_H_

#include <atomic>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/admin_protocol.h"
#include "common/attribute_tree.h"
#include "common/blocking_calls.h"
#include "common/unique_fd.h"
#include "rtrs/stream_socket.h"

namespace rnbd::server {

// Offers an attribute tree to the rnbd command, over a Unix socket that only this user and root can
// open (common/admin_protocol.h). Threads of its own, one for each connection, so that whoever asks
// slowly, or nonsense, is in nobody's way.
class AdminSocket {
 public:
  struct Options {
    size_t max_connections = 32;
    // A connection that asks nothing for so long is closed, and so is one that takes so long to
    // send a question or to take an answer. What an attribute does may take any time.
    absl::Duration patience = absl::Seconds(5);
  };

  // Makes the socket, and the directory that it lies in. A socket that a process has left behind is
  // replaced; EADDRINUSE where one answers. `tree` outlives the object.
  static absl::StatusOr<std::unique_ptr<AdminSocket>> Start(const std::string& path,
                                                            AttributeTree* tree,
                                                            const Options& options);
  // Closes everything, and removes the socket. What attributes are at work on goes on unanswered.
  // Not on the tree's thread.
  ~AdminSocket();

 private:
  struct Answer {
    int error = 0;
    std::string body;
  };

  AdminSocket(rtrs::ListeningSocket socket, UniqueFd stop, AttributeTree* tree,
              const Options& options);

  void Accept();
  void Serve(int connection);
  absl::Status ServeOne(int connection);
  Answer Execute(int connection, const AdminQuestion& question, const std::string& path,
                 const std::string& text);
  Answer List(const std::string& path, uint64_t after) const;
  Answer ReadLink(const std::string& path) const;
  Answer Use(int connection, const AdminQuestion& question, const std::string& path,
             const std::string& text);
  absl::Status Send(int connection, const Answer& answer) const;
  bool PeerHasLeft(int connection) const;

  const Options options_;
  AttributeTree* const tree_;
  rtrs::ListeningSocket socket_;
  const UniqueFd stop_;  // an eventfd that can be read from the end on
  std::atomic<size_t> connections_{0};
  BlockingCalls threads_;
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_ADMIN_SOCKET_H_
