#ifndef RNBD_CLIENT_KEEPER_LINK_H_
#define RNBD_CLIENT_KEEPER_LINK_H_

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/unique_fd.h"

namespace rnbd::client {

// One end of what the keeper (client/keeper.h) and the process that serves the mount tell each
// other. One thread. Allocates nothing, and sending does not wait.
class KeeperLink {
 public:
  enum class Word : uint32_t {
    // To the keeper.
    kMounted,  // comes with a descriptor of /dev/fuse
    kServing,  // requests are answered from now on; the value is the exit status for the shell
    kEnding,   // ends on purpose, and will not have to be replaced
    kAlive,    // every event loop has turned of late
    // To the process.
    kLeave,  // make room for the next one: read nothing more, answer what can be answered, end
    kServe,  // to one that stands by: go on with /dev/fuse, which comes with it
  };
  struct Message {
    Word word = Word::kMounted;
    int32_t value = 0;
    UniqueFd fd;
  };
  enum class Received { kMessage, kNothing, kClosed };

  static absl::StatusOr<std::pair<KeeperLink, KeeperLink>> CreatePair();

  KeeperLink() = default;
  explicit KeeperLink(UniqueFd socket) : socket_(std::move(socket)) {}

  // To wait for a message, or for the end of the other side, with poll(2).
  int fd() const { return socket_.get(); }
  bool open() const { return socket_.valid(); }
  void Close() { socket_.reset(-1); }

  // False where the other side is gone. A copy of `fd` goes with it, unless it is -1.
  bool Send(Word word, int32_t value = 0, int fd = -1);
  // Does not wait.
  Received Receive(Message* message);

 private:
  UniqueFd socket_;
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_KEEPER_LINK_H_
