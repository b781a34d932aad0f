#ifndef RNBD_CLIENT_FUSE_SERVER_H_
#define RNBD_CLIENT_FUSE_SERVER_H_

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/client_metrics.h"
#include "client/device_table.h"
#include "client/filesystem.h"
#include "client/fuse_reader.h"
#include "client/fuse_replies.h"
#include "client/request_memory.h"
#include "common/in_flight.h"
#include "common/ring.h"
#include "common/unique_fd.h"

namespace rnbd::client {

// Answers what the kernel asks of one mount: all workers read the same /dev/fuse, and a request
// stays on the worker that read it until it is answered. No thread waits for a request to end.
//
// Where buffers or places for requests run out, the worker reads nothing more until some come back;
// what the kernel has meanwhile goes to the other workers, or waits there.
//
// Start and stop, from a thread that is no worker's:
//   Create, Start, use filesystem(); then unmount, Stop(); if that did not succeed in time, have
//   the devices fail what they hold, Drain(); destroy, before the devices.
class FuseServer {
 public:
  struct Options {
    // Of each worker, read from the kernel and not yet answered.
    size_t requests_per_worker = 1024;
    Filesystem::Options filesystem;
    // Where requests to devices are counted, with a part for each worker; nullptr: nowhere.
    ClientMetrics* metrics = nullptr;
  };

  // Told once, on the thread of a worker, when the mount is gone, or with the reason why requests
  // cannot be read any more.
  using OnEnd = std::function<void(const absl::Status&)>;

  // `fuse` is /dev/fuse, mounted, or a SOCK_SEQPACKET socket that stands for it. Worker i runs on
  // workers[i] with memory->pool(i). All outlive the object.
  static absl::StatusOr<std::unique_ptr<FuseServer>> Create(const Options& options, UniqueFd fuse,
                                                            RequestMemory* memory,
                                                            std::vector<Ring*> workers,
                                                            OnEnd on_end);
  // Stopped and drained, or never started.
  ~FuseServer();
  FuseServer(const FuseServer&) = delete;
  FuseServer& operator=(const FuseServer&) = delete;

  Filesystem* filesystem() { return filesystem_.get(); }

  // Instead of waiting for the kernel's first request, when `fuse` comes from an earlier process:
  // goes on with what was agreed then. Before Start(); then restore the devices, and Resend().
  absl::Status TakeOver(absl::Span<const uint8_t> init_request, uint64_t last_inode);

  // Makes the kernel send again what an earlier process has read and not answered. EINVAL on
  // kernels that cannot (before Linux 6.9). Any thread, once.
  absl::Status Resend();

  // The kernel's first request is waiting already: nothing on the mount works before this.
  void Start();

  // Reads no more requests, then drains.
  absl::Status Stop(absl::Duration bound);

  // Once nothing is read: waits until every request is answered and no worker does anything for the
  // server any more. DEADLINE_EXCEEDED after `bound`, saying how many requests are not answered
  // and which of them is the oldest.
  absl::Status Drain(absl::Duration bound);

  // After Stop(): answers nothing more, so that requests which are not answered are left to the
  // next process. Any thread.
  absl::Status Silence();

  size_t in_flight() const;

  // Requests of the device of this name that it has not answered, in no order, as they are at about
  // this moment: each worker looks in a turn of its own. `done` runs on the thread of `home`, which
  // is no worker's. Any thread, while the object is there until then.
  void LookInFlight(const std::string& device, Ring* home,
                    std::function<void(std::vector<InFlightRequest>)> done);

  // Answers that the kernel did not take; see FuseReplies.
  uint64_t reply_failures() const { return replies_.failures(); }

 private:
  class Worker;

  FuseServer(UniqueFd fuse, const std::vector<Ring*>& workers, OnEnd on_end);
  void ReportEnd(const absl::Status& why);
  std::string DescribeOldest();

  const UniqueFd fuse_;
  const OnEnd on_end_;
  std::atomic<bool> ended_{false};
  FuseReaders readers_;
  FuseReplies replies_;
  DeviceTable devices_;
  std::unique_ptr<Filesystem> filesystem_;
  std::vector<std::unique_ptr<Worker>> workers_;
  bool reading_ = false;
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_FUSE_SERVER_H_
