#include "client/fuse_server.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/uio.h>

#include <cassert>
#include <cerrno>
#include <functional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "client/device_requests.h"
#include "client/fuse_reader.h"
#include "common/status.h"
#include "common/unique_mapping.h"
#include "rtrs/ring_round.h"

namespace rnbd::client {
namespace {

constexpr size_t kLargestRequest =
    sizeof(FuseHead) + RequestMemory::kSmallBytes + RequestMemory::kLargeBytes;

// FUSE_NOTIFY_RESEND; Debian 12's headers do not have it.
constexpr int32_t kNotifyResend = 7;

// A single word.
std::string BlockOperationWord(BlockOperation operation) {
  return operation == BlockOperation::kWriteZeroes ? "write-zeroes" : BlockOperationName(operation);
}

void PostAndWait(Ring* ring, const std::function<void()>& task) {
  absl::Notification done;
  ring->Post([&] {
    task();
    done.Notify();
  });
  done.WaitForNotification();
}

}  // namespace

class FuseServer::Worker final : public FuseHandler {
 public:
  Worker(FuseServer* server, size_t index, size_t capacity, Ring* ring, BufferPool* buffers,
         UniqueMapping scratch)
      : server_(server),
        ring_(ring),
        scratch_(std::move(scratch)),
        requests_(index, capacity, ring, buffers, &server->devices_, &server->replies_),
        reader_(&server->readers_, ring, buffers, this) {}

  Ring* ring() { return ring_; }
  FuseReader* reader() { return &reader_; }
  const DeviceRequests& requests() const { return requests_; }
  void StopWatching() { requests_.StopWatching(); }
  void CountIn(ClientMetrics::Worker* metrics) { requests_.CountIn(metrics); }

  bool HasRoom() override { return requests_.HasRoom(); }

  void OnRequest(FuseMessage* message) override {
    if (DeviceRequests::Handles(*message)) return requests_.Start(message);
    server_->filesystem_->Process(*message, scratch_.span());
  }

  size_t InFlight() override { return requests_.in_flight(); }

  void OnStarved() override { requests_.CallWhenFreed(&resume_); }

  void OnEnd(const absl::Status& why) override { server_->ReportEnd(why); }

 private:
  void Resume() { reader_.Resume(); }

  FuseServer* const server_;
  Ring* const ring_;
  const UniqueMapping scratch_;
  DeviceRequests requests_;
  FuseReader reader_;
  MethodHook<&Worker::Resume> resume_{this};
};

FuseServer::FuseServer(UniqueFd fuse, const std::vector<Ring*>& workers, OnEnd on_end)
    : fuse_(std::move(fuse)),
      on_end_(std::move(on_end)),
      readers_(fuse_.get()),
      replies_(fuse_.get()),
      devices_(workers) {}

FuseServer::~FuseServer() { assert(!reading_); }

absl::StatusOr<std::unique_ptr<FuseServer>> FuseServer::Create(const Options& options,
                                                               UniqueFd fuse, RequestMemory* memory,
                                                               std::vector<Ring*> workers,
                                                               OnEnd on_end) {
  if (fcntl(fuse.get(), F_SETFL, O_NONBLOCK) != 0) {
    return ErrnoToStatus(errno, "make reading from /dev/fuse non-blocking");
  }
  std::unique_ptr<FuseServer> server(new FuseServer(std::move(fuse), workers, std::move(on_end)));
  ASSIGN_OR_RETURN(server->filesystem_,
                   Filesystem::Create(options.filesystem, &server->devices_, &server->replies_));
  for (size_t i = 0; i < workers.size(); ++i) {
    ASSIGN_OR_RETURN(UniqueMapping scratch, UniqueMapping::Anonymous(kLargestRequest));
    server->workers_.push_back(std::make_unique<Worker>(server.get(), i,
                                                        options.requests_per_worker, workers[i],
                                                        memory->pool(i), std::move(scratch)));
    if (options.metrics != nullptr) server->workers_.back()->CountIn(options.metrics->worker(i));
  }
  return server;
}

absl::Status FuseServer::TakeOver(absl::Span<const uint8_t> init_request, uint64_t last_inode) {
  devices_.SkipInodes(last_inode);
  // Where it was not written down the kernel sends it again, or has not sent it yet.
  return init_request.empty() ? absl::OkStatus() : filesystem_->ReplayInit(init_request);
}

absl::Status FuseServer::Resend() {
  fuse_out_header notification = {};
  notification.len = sizeof(notification);
  notification.error = kNotifyResend;
  iovec part = {&notification, sizeof(notification)};
  if (writev(fuse_.get(), &part, 1) >= 0) return absl::OkStatus();
  // The mount is gone; whoever reads learns that.
  if (errno == ENODEV || errno == ENOTCONN || errno == ECONNABORTED) return absl::OkStatus();
  return ErrnoToStatus(errno, "ask the kernel to send requests again");
}

void FuseServer::Start() {
  reading_ = true;
  for (const auto& worker : workers_) {
    worker->ring()->Post([reader = worker->reader()] { reader->Start(); });
  }
}

absl::Status FuseServer::Stop(absl::Duration bound) {
  if (reading_) {
    absl::BlockingCounter stopping(static_cast<int>(workers_.size()));
    for (const auto& worker : workers_) {
      worker->ring()->Post([reader = worker->reader(), &stopping] {
        reader->Stop([&stopping] { stopping.DecrementCount(); });
      });
    }
    stopping.Wait();
    reading_ = false;
  }
  return Drain(bound);
}

// The number stays: whoever answers has it.
absl::Status FuseServer::Silence() {
  const UniqueFd nothing(open("/dev/null", O_RDWR | O_CLOEXEC));
  if (nothing.valid() && dup3(nothing.get(), fuse_.get(), O_CLOEXEC) >= 0) return absl::OkStatus();
  return ErrnoToStatus(errno, "leave requests to the next process");
}

size_t FuseServer::in_flight() const {
  size_t sum = filesystem_->unanswered();
  for (const auto& worker : workers_) sum += worker->requests().in_flight();
  return sum;
}

absl::Status FuseServer::Drain(absl::Duration bound) {
  const absl::Time deadline = absl::Now() + bound;
  while (in_flight() > 0) {
    if (absl::Now() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat(in_flight(), " requests are unanswered after ", absl::FormatDuration(bound),
                       "; the oldest: ", DescribeOldest()));
    }
    // The workers owe nobody a wake-up for the sake of this rare wait.
    absl::SleepFor(absl::Milliseconds(2));
  }
  // The turn in which the last request ended goes on behind it, and readers may have posted to each
  // other before they stopped. The second task of a worker runs in a later turn than the first.
  for (const auto& worker : workers_) {
    PostAndWait(worker->ring(), [] {});
    PostAndWait(worker->ring(), [&worker] { worker->StopWatching(); });
  }
  return absl::OkStatus();
}

std::string FuseServer::DescribeOldest() {
  std::string text = "one of the control tree";
  int64_t greatest_age = -1;
  for (const auto& worker : workers_) {
    PostAndWait(worker->ring(), [&] {
      worker->requests().ForEachUnanswered([&](const DeviceRequests::Unanswered& request) {
        if (request.place == RequestPlace::kOverdue || request.age_ns <= greatest_age) return;
        greatest_age = request.age_ns;
        text = absl::StrCat(BlockOperationName(request.operation), " of ", request.length,
                            " bytes at offset ", request.offset, " of device \"",
                            request.device->name(), "\", ", request.age_ns / 1'000'000, " ms ago",
                            request.place == RequestPlace::kBuffer ? ", waiting for a buffer" : "");
      });
    });
  }
  return text;
}

void FuseServer::LookInFlight(const std::string& device, Ring* home,
                              std::function<void(std::vector<InFlightRequest>)> done) {
  std::vector<Ring*> rings;
  const auto found = std::make_shared<std::vector<std::vector<InFlightRequest>>>(workers_.size());
  for (size_t i = 0; i < workers_.size(); ++i) {
    Worker* const worker = workers_[i].get();
    // Here rather than on the worker, whose time is the requests'.
    (*found)[i].reserve(worker->requests().capacity());
    rings.push_back(worker->ring());
    worker->ring()->Post([worker, found, device, i] {
      worker->requests().ForEachUnanswered([&](const DeviceRequests::Unanswered& request) {
        if (request.device->name() != device) return;
        (*found)[i].push_back({request.age_ns, RequestPlaceName(request.place),
                               BlockOperationWord(request.operation), request.offset,
                               request.length});
      });
    });
  }
  rtrs::AfterRound(home, rings, [found, done = std::move(done)] {
    std::vector<InFlightRequest> all;
    for (const auto& part : *found) all.insert(all.end(), part.begin(), part.end());
    done(std::move(all));
  });
}

void FuseServer::ReportEnd(const absl::Status& why) {
  if (!ended_.exchange(true)) on_end_(why);
}

}  // namespace rnbd::client
