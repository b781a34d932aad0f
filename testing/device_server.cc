#include "testing/device_server.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/status.h"
#include "gtest/gtest.h"
#include "server/request_check.h"
#include "testing/socket_path.h"

namespace rnbd::testing {

namespace {

rtrs::Address UnusedAddress() {
  return *rtrs::ParseAddress(absl::StrCat("unix:", UnusedSocketPath()));
}

}  // namespace

using rtrs::Eventually;
using server::BackendRequest;
using server::Geometry;

// A memory disk with a geometry of its own. Requests of several threads touch the memory one after
// the other, so that ThreadSanitizer need not be told which races the contract allows.
class TestDisk::Disk final : public server::Backend {
 public:
  Disk(TestDisk* disk, const Geometry& geometry, bool read_only)
      : disk_(disk),
        memory_(disk->memory_, read_only),
        geometry_(geometry),
        size_(geometry.size),
        read_only_(read_only) {}

  const Geometry& geometry() const override { return geometry_; }
  SizeLook size_look() const override {
    return [disk = disk_] { return disk->size_.load(); };
  }
  void Grow(uint64_t size) override { size_.store(size); }
  void Submit(Ring* ring, BackendRequest* request) override {
    const int error = Execute(ring, *request);
    if (error == 0 && request->may_lend && disk_->lends_.load()) {
      request->lent = disk_->memory_->data() + request->offset;
      std::memset(request->data, 0xDB, request->length);  // nobody is to see it
    }
    request->OnDone(error);
  }

 private:
  class Part final : public BackendRequest {
   public:
    void OnDone(int error_number) override { error = error_number; }
    int error = -1;
  };

  int Execute(Ring* ring, const BackendRequest& request) {
    const int error = server::CheckRequest(geometry_, size_.load(), read_only_, request);
    if (error != 0) return error;
    Part part;
    part.operation = request.operation;
    part.no_unmap = request.no_unmap;
    part.offset = request.offset;
    part.length = request.length;
    part.data = request.data;
    absl::MutexLock lock(&disk_->memory_mutex_);
    memory_.Submit(ring, &part);
    return part.error;
  }

  TestDisk* const disk_;
  server::MemoryBackend memory_;
  const Geometry geometry_;
  std::atomic<uint64_t> size_;
  const bool read_only_;
};

class TestDisk::Recorder final : public server::Backend {
 public:
  Recorder(TestDisk* disk, std::unique_ptr<server::Backend> next)
      : disk_(disk), next_(std::move(next)) {}

  const Geometry& geometry() const override { return next_->geometry(); }
  SizeLook size_look() const override { return next_->size_look(); }
  void Grow(uint64_t size) override { next_->Grow(size); }
  void Submit(Ring* ring, BackendRequest* request) override {
    if (disk_->record_.load(std::memory_order_relaxed)) {
      absl::MutexLock lock(&disk_->mutex_);
      disk_->seen_.push_back({request->operation, request->offset, request->length, request->fua,
                              request->preflush, request->no_unmap, request->priority});
    }
    next_->Submit(ring, request);
  }

 private:
  TestDisk* const disk_;
  const std::unique_ptr<server::Backend> next_;
};

Geometry TestDisk::DefaultGeometry(uint64_t size) {
  Geometry geometry;
  geometry.size = size;
  geometry.max_discard = 1 << 20;
  geometry.discard_granularity = 4096;
  geometry.max_write_zeroes = 1 << 20;
  geometry.write_back_cache = true;
  geometry.fua = true;
  return geometry;
}

TestDisk::TestDisk(const Geometry& geometry, uint64_t most)
    : memory_(*server::MemoryDisk::Create(std::max(geometry.size, most))),
      size_(geometry.size),
      geometry_(geometry) {}

void TestDisk::set_geometry(const Geometry& geometry) {
  size_.store(geometry.size);
  absl::MutexLock lock(&mutex_);
  geometry_ = geometry;
}

std::vector<TestDisk::Seen> TestDisk::TakeSeen() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(seen_, {});
}

absl::StatusOr<server::OpenedDevice> TestDisk::Open(AccessMode mode) {
  const bool writes = mode != AccessMode::kReadOnly;
  absl::MutexLock lock(&mutex_);
  if (writes && writers_.load() >= (mode == AccessMode::kMigration ? 2 : 1)) {
    return ErrnoToStatus(EPERM, "the disk has its writers");
  }
  ++opens_;
  if (writes) ++writers_;
  server::OpenedDevice opened;
  opened.read_only = !writes;
  opened.backend = std::make_unique<Recorder>(
      this,
      std::make_unique<FaultyBackend>(std::make_unique<Disk>(this, geometry_, !writes), faults_));
  opened.lease = std::shared_ptr<void>(nullptr, [this, writes](void*) {
    if (writes) --writers_;
    --opens_;
  });
  return opened;
}

class DeviceServer::Opener final : public server::DeviceOpener {
 public:
  explicit Opener(DeviceServer* server) : server_(server) {}

  absl::StatusOr<server::OpenedDevice> Open(absl::string_view name, AccessMode mode) override {
    return server_->Open(name, mode);
  }
  absl::Status MayJoin(const rtrs::Address&) override { return absl::OkStatus(); }

 private:
  DeviceServer* const server_;
};

rtrs::ServerOptions DeviceServer::DefaultRtrsOptions() {
  rtrs::ServerOptions options;
  options.geometry = {.queue_depth = 16, .max_io_size = 64 << 10, .max_hdr_size = 4096};
  options.path.establishment_timeout = absl::Seconds(20);
  options.path.heartbeat = rtrs::FastHeartbeat();
  options.path.kernel_heartbeat = rtrs::FastHeartbeat();
  return options;
}

DeviceServer::DeviceServer(rtrs::Fabric* fabric, const Options& options)
    : fabric_(fabric),
      options_(options),
      threads_("server", options.workers),
      device_thread_(*RingThread::Start("devices", {})) {
  for (size_t i = 0; i < options_.addresses; ++i) addresses_.push_back(UnusedAddress());
}

DeviceServer::~DeviceServer() { Stop(); }

void DeviceServer::AddDisk(const std::string& name, TestDisk* disk) {
  absl::MutexLock lock(&mutex_);
  disks_[name] = disk;
}

void DeviceServer::Start() {
  ASSERT_EQ(server_, nullptr);
  control()->RunAndWait([&] {
    rtrs::ServerHandler* handler = this;
    server_ = std::make_unique<rtrs::Server>(options_.rtrs, control()->ring(), threads_.workers(),
                                             handler);
    server_->set_observer(options_.observer);
    for (const rtrs::Address& address : addresses_) {
      absl::StatusOr<rtrs::Address> bound = server_->Listen(fabric_, address);
      ASSERT_TRUE(bound.ok()) << bound.status();
    }
  });
}

void DeviceServer::Stop() {
  if (server_ == nullptr) return;
  absl::Notification stopped;
  control()->RunAndWait([&] {
    server_->Shutdown(ErrnoToStatus(ESHUTDOWN, "the test stops the server"), [&] {
      server_.reset();
      stopped.Notify();
    });
  });
  EXPECT_TRUE(Eventually([&] {
    absl::MutexLock lock(&mutex_);
    for (const auto& [name, disk] : disks_) disk->faults().ReleaseHung();
    return stopped.HasBeenNotified();
  })) << "the server does not stop";
  threads_.Settle();
  device_thread_->RunAndWait([] {});
  control()->RunAndWait([] {});
}

rtrs::ServerCounters DeviceServer::counters() {
  rtrs::ServerCounters counters;
  control()->RunAndWait([&] { counters = server_->counters(); });
  return counters;
}

size_t DeviceServer::session_count() {
  size_t count = 0;
  control()->RunAndWait([&] { count = server_->session_count(); });
  return count;
}

absl::StatusOr<std::unique_ptr<rtrs::ServerSessionHandler>> DeviceServer::OnSession(
    const rtrs::ServerSessionInfo& session) {
  if (on_session) RETURN_IF_ERROR(on_session(session));
  rtrs::ServerSessionInfo info = session;
  if (!options_.tells_identity) info.features = 0;
  return std::make_unique<server::DeviceSession>(
      info, std::make_unique<Opener>(this),
      server::DeviceSession::Threads{control()->ring(), device_thread_->ring(), &opening_,
                                     &looking_, threads_.workers()},
      server::DeviceSessionSettings{.stuck_after = options_.stuck_after,
                                    .resize_interval = options_.resize_interval},
      options_.device_observer);
}

absl::StatusOr<server::OpenedDevice> DeviceServer::Open(absl::string_view name, AccessMode mode) {
  ++opens_;
  if (on_open) RETURN_IF_ERROR(on_open(name, mode));
  absl::MutexLock lock(&mutex_);
  auto disk = disks_.find(std::string(name));
  if (disk == disks_.end()) return ErrnoToStatus(ENOENT, absl::StrCat("no disk ", name));
  return disk->second->Open(mode);
}

}  // namespace rnbd::testing
