// Mounts a tree of devices that are answered within this process, so that the FUSE side can be
// measured and tested with no network behind it. Ends on SIGINT, SIGTERM or when unmounted.

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "client/fuse_server.h"
#include "client/mount.h"
#include "client/request_memory.h"
#include "common/ring.h"
#include "common/status.h"
#include "config/common_options.h"
#include "gflags/gflags.h"
#include "testing/fuse/fake_block_device.h"

DEFINE_uint64(workers, 2, "threads that answer requests");
DEFINE_int64(poll_us, absl::ToInt64Microseconds(rnbd::config::kDefaultWorkerPoll),
             "worker_poll of rnbd-fuse, in microseconds");
DEFINE_uint64(devices, 1, "files in the mount: disk0, disk1, ...");
DEFINE_uint64(size, 1 << 30, "bytes of each device");
DEFINE_bool(memory, false, "devices remember what is written to them");
DEFINE_bool(read_only, false, "devices have access mode ro");
DEFINE_bool(in_next_turn, false, "requests end in the next turn of the loop, not at once");
DEFINE_uint64(small_buffers, 512, "of 16 KiB, for each worker");
DEFINE_uint64(large_buffers, 32, "of 1 MiB, for each worker");
DEFINE_bool(allow_other, false, "other users may use the mount");

namespace rnbd {
namespace {

using client::FuseServer;
using client::Mount;
using client::RequestMemory;
using testing::FakeBlockDevice;

absl::Status Serve(const std::string& mount_point) {
  // Before any thread, so that each of them blocks them.
  sigset_t signals;
  sigemptyset(&signals);
  for (int signal : {SIGINT, SIGTERM}) sigaddset(&signals, signal);
  sigprocmask(SIG_BLOCK, &signals, nullptr);

  RequestMemory::Options sizes;
  sizes.workers = FLAGS_workers;
  sizes.small_buffers = FLAGS_small_buffers;
  sizes.large_buffers = FLAGS_large_buffers;
  ASSIGN_OR_RETURN(std::unique_ptr<RequestMemory> memory, RequestMemory::Create(sizes));

  std::vector<std::unique_ptr<RingThread>> threads;
  std::vector<Ring*> rings;
  Ring::Options ring_options;
  ring_options.poll = absl::Microseconds(FLAGS_poll_us);
  for (size_t i = 0; i < FLAGS_workers; ++i) {
    ASSIGN_OR_RETURN(std::unique_ptr<RingThread> thread,
                     RingThread::Start(absl::StrCat("worker-", i), ring_options));
    rings.push_back(thread->ring());
    threads.push_back(std::move(thread));
  }

  std::vector<std::unique_ptr<FakeBlockDevice>> devices;
  for (size_t i = 0; i < FLAGS_devices; ++i) {
    FakeBlockDevice::Options options;
    options.name = absl::StrCat("disk", i);
    options.size = FLAGS_size;
    options.access_mode = FLAGS_read_only ? AccessMode::kReadOnly : AccessMode::kReadWrite;
    options.content =
        FLAGS_memory ? FakeBlockDevice::Content::kMemory : FakeBlockDevice::Content::kNull;
    options.completion = FLAGS_in_next_turn ? FakeBlockDevice::Completion::kInNextTurn
                                            : FakeBlockDevice::Completion::kAtOnce;
    devices.push_back(std::make_unique<FakeBlockDevice>(options, rings));
  }

  Mount::Options mount_options;
  mount_options.mount_point = mount_point;
  mount_options.allow_other = FLAGS_allow_other;
  ASSIGN_OR_RETURN(std::unique_ptr<Mount> mount, Mount::Create(mount_options));

  // The mount's end comes to the same place as a signal.
  const auto on_end = [](const absl::Status& why) {
    if (!why.ok()) std::cerr << why << "\n";
    kill(getpid(), SIGTERM);
  };
  FuseServer::Options options;
  options.filesystem.owner = getuid();
  options.filesystem.group = getgid();
  ASSIGN_OR_RETURN(std::unique_ptr<FuseServer> server,
                   FuseServer::Create(options, mount->TakeFuse(), memory.get(), rings, on_end));
  for (const auto& device : devices) {
    RETURN_IF_ERROR(server->filesystem()->AddDevice(device.get()));
  }
  server->Start();
  std::cout << "mounted" << std::endl;

  for (;;) {
    int signal;
    sigwait(&signals, &signal);
    const absl::Status unmounted = mount->Unmount();
    if (unmounted.ok()) break;
    std::cerr << unmounted << std::endl;
    if (signal == SIGINT) continue;  // SIGTERM ends it in any case
    RETURN_IF_ERROR(mount->Detach());
    break;
  }
  return server->Stop(absl::Seconds(5));
}

}  // namespace
}  // namespace rnbd

int main(int argc, char** argv) {
  gflags::SetUsageMessage("null_mount [FLAGS] MOUNT_POINT");
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  if (argc != 2) {
    std::cerr << gflags::ProgramUsage() << "\n";
    return 2;
  }
  const absl::Status status = rnbd::Serve(argv[1]);
  if (status.ok()) return 0;
  std::cerr << status << "\n";
  return 1;
}
