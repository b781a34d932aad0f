#ifndef RNBD_CLIENT_MEMORY_PRESSURE_H_
#define RNBD_CLIENT_MEMORY_PRESSURE_H_

#include <string>

#include "absl/status/status.h"

namespace rnbd::client {

// When memory is short the kernel writes dirty pages back, some of them through us. We must not
// wait for that very writeback then, nor be killed. All need privileges; a client that goes on
// without them works, and may hang a machine that runs out of memory while it writes to one of its
// disks. Messages say which privilege is missing.

// Keeps every page of the process in memory, those of later allocations and threads too.
absl::Status LockMemory();

// Tells the kernel that this thread, and those it creates from now on, serve a block device: memory
// they ask for is not obtained by writing to one. Before other threads are created.
absl::Status BecomeIoFlusher();

// The kernel kills other processes when memory is short, and those that this one starts neither:
// what waits for a disk frees no memory by losing it.
absl::Status RefuseOomKill();

// While it exists the process is the first to be killed when memory is short: for one that only
// prepares itself, and can be started again. Harmless where that is not permitted.
class OomKillOffer {
 public:
  OomKillOffer();
  ~OomKillOffer();
  OomKillOffer(const OomKillOffer&) = delete;
  OomKillOffer& operator=(const OomKillOffer&) = delete;

 private:
  std::string before_;  // what the process has outside; empty where that is not known
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_MEMORY_PRESSURE_H_
