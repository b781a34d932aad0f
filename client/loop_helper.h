#ifndef RNBD_CLIENT_LOOP_HELPER_H_
#define RNBD_CLIENT_LOOP_HELPER_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/loop_device.h"
#include "common/unique_fd.h"

// A process that works on loop devices for the one that serves their files, which must not wait for
// its own files (client/loop_device.h). It ends when its socket's other end is closed, and survives
// nobody: what it was doing, the next one finds done or does again.
namespace rnbd::client {

struct LoopRequest {
  enum class Operation : uint8_t {
    kAttach,  // `file` with `options`, and links `link`; replies with the device
    kDetach,  // `path` from `file`, and removes `link`; see DetachLoop()
    kResize,  // see UpdateLoopCapacity()
  };

  uint64_t id = 0;  // comes back with the reply
  Operation operation = Operation::kAttach;
  std::string file;
  std::string link;
  std::string path;
  LoopOptions options;
  bool force = false;
  absl::Duration bound;

  std::string Encode() const;
};

struct LoopReply {
  uint64_t id = 0;
  int error = 0;     // errno, or 0
  std::string text;  // the device, or what is wrong

  std::string Encode() const;
};

// kInvalidArgument for a text that Encode() has not made.
absl::StatusOr<LoopRequest> DecodeLoopRequest(absl::string_view text);
absl::StatusOr<LoopReply> DecodeLoopReply(absl::string_view text);

// No request or reply is longer.
inline constexpr size_t kMaxLoopMessage = 16384;

// Carries requests out, any number of them at a time, until the other end of the SOCK_SEQPACKET
// socket is closed. Those under way then still use the socket.
void ServeLoopRequests(int socket);

// Starts the process for the mount whose file system is `device` ("major:minor"): this program once
// more, whose main() must begin with LoopHelperMain(). The socket to talk to it by.
absl::StatusOr<UniqueFd> StartLoopHelper(const std::string& device);

// Whether the program was started as such a process, which then has ended.
bool LoopHelperMain(int argc, char** argv);

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_LOOP_HELPER_H_
