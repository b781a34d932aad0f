#ifndef RNBD_CLIENT_SERVING_H_
#define RNBD_CLIENT_SERVING_H_

#include <string>

#include "client/daemonize.h"
#include "client/keeper.h"
#include "config/client_config.h"

namespace rnbd::client {

// The life of a process that serves the mount, from what the keeper has given it to its end.
struct ServingOptions {
  const config::ClientConfig* config = nullptr;
  std::string mount_point;
  bool allow_other = false;
  std::string state_file;  // see ClientProgram
};

// The exit status of the process; docs/rnbd-fuse.md has them. The process has no other thread yet.
// Lets go of the terminal where `background` is not in the foreground, once the mount is there.
int Serve(const ServingOptions& options, Keeper::Process process, Background background);

// Of Keeper::Options: memory that such a process wants to be given.
size_t ServingMemoryBytes(const config::ClientConfig& config);

// What Serve() returns, and what it tells the keeper for the shell.
inline constexpr int kServedToTheEnd = 0;
inline constexpr int kServingFailed = 1;
inline constexpr int kPartlyMapped = 3;  // mounted, but not every device

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_SERVING_H_
