#include "rtrs/stream_socket.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"

namespace rnbd::rtrs {
namespace {

constexpr int kBacklog = 512;
// Unix sockets do not grow their buffers by themselves; this holds one large request and its
// successor.
constexpr int kUnixBufferBytes = 2 << 20;

bool SetOption(int socket, int level, int option, int value) {
  return setsockopt(socket, level, option, &value, sizeof(value)) == 0;
}

absl::StatusOr<UniqueFd> NewSocket(sa_family_t family) {
  UniqueFd socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return ErrnoToStatus(errno, "open a socket");
  return socket;
}

// True when a Unix socket's file is there but nobody accepts on it any more.
bool IsAbandoned(const std::string& path, const SocketAddress& address) {
  struct stat file;
  // Connecting to a file of another kind is refused as well.
  if (lstat(path.c_str(), &file) != 0 || !S_ISSOCK(file.st_mode)) return false;
  absl::StatusOr<UniqueFd> probe = NewSocket(AF_UNIX);
  if (!probe.ok()) return false;
  // Somebody whose backlog is full is somebody.
  fcntl(probe->get(), F_SETFL, O_NONBLOCK);
  return connect(probe->get(), address.get(), address.length) < 0 && errno == ECONNREFUSED;
}

// Locks the directory of a Unix socket, so that of two programs which start at the same time
// neither takes the other's socket, bound and not yet listening, for abandoned. Without the lock,
// which anybody may hold for reasons of their own, that is unlikely still.
UniqueFd LockDirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == 0 ? "/" : path.substr(0, slash);
  UniqueFd lock(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (int i = 0; i < 50 && lock.valid(); ++i) {
    if (flock(lock.get(), LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) break;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return lock;
}

absl::Status BindAndListen(int socket, const Address& address, const SocketAddress& resolved) {
  const bool is_unix = address.scheme == AddressScheme::kUnix;
  const UniqueFd lock = is_unix ? LockDirectoryOf(address.path) : UniqueFd();
  auto bind_or_error = [&] {
    return bind(socket, resolved.get(), resolved.length) == 0 ? 0 : errno;
  };
  int error = bind_or_error();
  if (error == EADDRINUSE && is_unix && IsAbandoned(address.path, resolved)) {
    unlink(address.path.c_str());
    error = bind_or_error();
  }
  if (error == 0 && listen(socket, kBacklog) != 0) error = errno;
  if (error == 0) return absl::OkStatus();
  return ErrnoToStatus(error, absl::StrCat("listen on ", address.ToString()));
}

template <typename GetName>
absl::StatusOr<Address> NameOf(int socket, AddressScheme scheme, GetName get_name) {
  SocketAddress name;
  name.length = sizeof(name.storage);
  if (get_name(socket, name.get(), &name.length) != 0) {
    return ErrnoToStatus(errno, "read a socket's address");
  }
  return FromSocketAddress(scheme, name);
}

// A TCP connection whose bytes are not acknowledged for so long is broken: longer than RTRS's
// heartbeats take with any settings in use.
constexpr int kSilenceSeconds = 40;

}  // namespace

// None of the options set here is needed to work, only to work well.
void TuneStreamSocket(int socket, sa_family_t family) {
  if (family == AF_UNIX) {
    // Beyond the system's limit, where we may. The sender's buffer is the only one there is.
    if (!SetOption(socket, SOL_SOCKET, SO_SNDBUFFORCE, kUnixBufferBytes)) {
      SetOption(socket, SOL_SOCKET, SO_SNDBUF, kUnixBufferBytes);
    }
    return;
  }
  SetOption(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  // RTRS's heartbeats watch one connection of a path. Another one may go silent by itself, where a
  // router or a firewall on the way has lost it, and its requests would wait for a quarter of an
  // hour.
  SetOption(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  SetOption(socket, IPPROTO_TCP, TCP_KEEPIDLE, kSilenceSeconds / 4);
  SetOption(socket, IPPROTO_TCP, TCP_KEEPINTVL, kSilenceSeconds / 8);
  SetOption(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, kSilenceSeconds * 1000);
}

absl::StatusOr<UniqueFd> OpenStreamSocket(sa_family_t family,
                                          const absl::optional<Address>& source) {
  ASSIGN_OR_RETURN(UniqueFd socket, NewSocket(family));
  TuneStreamSocket(socket.get(), family);
  if (!source.has_value()) return socket;
  ASSIGN_OR_RETURN(SocketAddress local, ToSocketAddress(*source));
  SetOption(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  // Lets connections to different places share a port that the system chooses.
  SetOption(socket.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
  if (bind(socket.get(), local.get(), local.length) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("connect from ", source->ToString()));
  }
  return socket;
}

absl::StatusOr<ListeningSocket> ListeningSocket::Open(const Address& address, mode_t mode) {
  ASSIGN_OR_RETURN(std::vector<SocketAddress> resolved, Resolve(address));
  const SocketAddress& first = resolved.front();
  ASSIGN_OR_RETURN(UniqueFd socket, NewSocket(first.family()));
  if (first.family() != AF_UNIX) {
    SetOption(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  } else if (fchmod(socket.get(), mode) != 0) {  // which bind(2) gives the file
    return ErrnoToStatus(errno, absl::StrCat("restrict ", address.ToString()));
  }
  // "[::]" serves IPv4 as well, as the kernel's listener does.
  if (first.family() == AF_INET6) SetOption(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
  RETURN_IF_ERROR(BindAndListen(socket.get(), address, first));
  ASSIGN_OR_RETURN(Address bound, LocalAddress(socket.get(), address.scheme));
  ListeningSocket result(std::move(socket), std::move(bound));
  struct stat file;
  if (first.family() == AF_UNIX && lstat(address.path.c_str(), &file) == 0) {
    result.device_ = file.st_dev;
    result.inode_ = file.st_ino;
  }
  return result;
}

void ListeningSocket::Close() {
  if (!socket_.valid()) return;
  struct stat file;
  if (address_.scheme == AddressScheme::kUnix && lstat(address_.path.c_str(), &file) == 0 &&
      file.st_dev == device_ && file.st_ino == inode_) {
    unlink(address_.path.c_str());
  }
  shutdown(socket_.get(), SHUT_RDWR);
  socket_.reset(-1);
}

absl::StatusOr<Address> LocalAddress(int socket, AddressScheme scheme) {
  return NameOf(socket, scheme, getsockname);
}

absl::StatusOr<Address> PeerAddress(int socket, AddressScheme scheme) {
  return NameOf(socket, scheme, getpeername);
}

}  // namespace rnbd::rtrs
