#ifndef RNBD_RTRS_STREAM_SOCKET_H_
#define RNBD_RTRS_STREAM_SOCKET_H_

#include <sys/socket.h>
#include <sys/types.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "common/unique_fd.h"
#include "rtrs/address.h"

// All functions are thread-safe; errors carry the errno of the system call and name the address.
namespace rnbd::rtrs {

// A TCP or Unix socket set up for frames, bound to `source` if there is one.
absl::StatusOr<UniqueFd> OpenStreamSocket(sa_family_t family,
                                          const absl::optional<Address>& source);

// The same set-up for an accepted socket: no delay for small frames and a bound on silence on TCP,
// room for a large request on Unix.
void TuneStreamSocket(int socket, sa_family_t family);

// A socket that listens, and for Unix the file it is reached by, which goes with it.
class ListeningSocket {
 public:
  // On `address`, kTcp or kUnix. A Unix socket left behind by a process that has died is replaced;
  // one that somebody listens on is EADDRINUSE, and so is a file that is no socket. Its file gets
  // `mode`, as the umask allows.
  static absl::StatusOr<ListeningSocket> Open(const Address& address, mode_t mode = 0777);

  ListeningSocket(ListeningSocket&&) noexcept = default;
  ListeningSocket& operator=(ListeningSocket&&) = delete;
  ~ListeningSocket() { Close(); }

  // Stops listening, also for those who wait in accept(2) or the like; others may listen there from
  // now on. Removes the Unix socket's file, unless it has become another's meanwhile.
  void Close();

  int get() const { return socket_.get(); }
  // Where it is bound: with the port that the system chose if none was given.
  const Address& address() const { return address_; }

 private:
  ListeningSocket(UniqueFd socket, Address address)
      : socket_(std::move(socket)), address_(std::move(address)) {}

  UniqueFd socket_;
  Address address_;
  // Of the Unix socket's file.
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

// Where a socket is bound, or whom it is connected to.
absl::StatusOr<Address> LocalAddress(int socket, AddressScheme scheme);
absl::StatusOr<Address> PeerAddress(int socket, AddressScheme scheme);

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_STREAM_SOCKET_H_
