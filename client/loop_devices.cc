#include "client/loop_devices.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/gathered_status.h"
#include "common/logging.h"
#include "common/status.h"

namespace rnbd::client {
namespace {

// The kernel closes the file of a loop device a moment after it was detached.
constexpr absl::Duration kReleaseBound = absl::Seconds(1);
constexpr absl::Duration kReleaseInterval = absl::Milliseconds(5);
// Of a detachment that waits for nobody but the kernel.
constexpr absl::Duration kForceBound = absl::Seconds(1);

absl::Status IsOpen(const std::string& name) {
  return ErrnoToStatus(EBUSY, absl::StrCat("detach device ", name, ", whose file is open"));
}

}  // namespace

class LoopDevices::Link {
 public:
  Link(Ring* ring, LoopDevices* owner, UniqueFd socket)
      : ring_(ring), owner_(owner), socket_(std::move(socket)), buffer_(kMaxLoopMessage) {
    Receive();
  }

  bool Send(const std::string& text) {
    return text.size() <= kMaxLoopMessage &&
           send(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
  }

  // The owner does not want it any more.
  void Leave(std::function<void()> gone) {
    owner_ = nullptr;
    gone_ = std::move(gone);
    shutdown(socket_.get(), SHUT_RDWR);
  }

 private:
  void Receive() {
    ring_->Start(&receive_, [this](io_uring_sqe* entry) {
      io_uring_prep_recv(entry, socket_.get(), buffer_.data(), buffer_.size(), 0);
    });
  }

  void OnReceived(int32_t result, uint32_t) {
    if (result > 0 && owner_ != nullptr) {
      owner_->OnReply(absl::string_view(buffer_.data(), static_cast<size_t>(result)));
      return Receive();
    }
    if (result == -EINTR && owner_ != nullptr) return Receive();
    if (owner_ != nullptr) owner_->OnHelperGone();
    if (gone_) gone_();
    delete this;
  }

  Ring* const ring_;
  LoopDevices* owner_;
  UniqueFd socket_;
  std::vector<char> buffer_;
  std::function<void()> gone_;
  MethodOperation<&Link::OnReceived> receive_{this};
};

LoopDevices::LoopDevices(Ring* ring, Options options) : ring_(ring), options_(std::move(options)) {}

void LoopDevices::Close(std::function<void()> done) {
  const Devices devices = std::move(devices_);
  devices_.clear();
  for (const auto& [name, device] : devices) {
    for (const auto& operation : device.operations) {
      if (operation->done) operation->done(ErrnoToStatus(ESHUTDOWN, "the program ends"));
    }
  }
  if (link_ == nullptr) return done();
  std::exchange(link_, nullptr)->Leave(std::move(done));
}

std::string LoopDevices::FileOf(const std::string& name) const {
  return absl::StrCat(options_.mount_point, "/", name);
}

std::string LoopDevices::PathOf(const std::string& name) const {
  const auto found = devices_.find(name);
  return found == devices_.end() ? std::string() : found->second.path;
}

bool LoopDevices::any() const {
  return std::any_of(devices_.begin(), devices_.end(),
                     [](const auto& device) { return !device.second.path.empty(); });
}

void LoopDevices::Attach(const std::string& name, const LoopOptions& loop, uint64_t size,
                         Done done) {
  Device& device = devices_[name];
  device.loop = loop;
  device.size = size;
  device.parked = false;
  LoopRequest request;
  request.operation = LoopRequest::Operation::kAttach;
  request.options = loop;
  Enqueue(name, std::move(request), options_.attach_bound, std::move(done));
}

void LoopDevices::Detach(const std::string& name, bool force, Done done) {
  const auto found = devices_.find(name);
  const bool has_loop =
      found != devices_.end() && (!found->second.path.empty() || !found->second.operations.empty());
  if (!force && options_.open_count(name) > (has_loop ? 1 : 0)) return done(IsOpen(name));
  if (!has_loop) return done(absl::OkStatus());
  LoopRequest request;
  request.operation = LoopRequest::Operation::kDetach;
  request.force = force;
  const absl::Duration bound = force ? kForceBound : options_.detach_bound;
  request.bound = bound / 2;  // the rest is for the way there and back
  Enqueue(name, std::move(request), bound, std::move(done));
}

void LoopDevices::DetachAll(bool force, Done done) {
  const auto all = std::make_shared<GatheredStatus>(std::move(done));
  std::vector<std::string> names;
  for (auto& [name, device] : devices_) {
    if (device.path.empty() && device.operations.empty()) continue;
    device.parked = true;
    names.push_back(name);
  }
  for (const std::string& name : names) {
    Detach(name, force, [all](const absl::Status& status) { all->Add(status); });
  }
}

void LoopDevices::AttachAgain() {
  for (auto& [name, device] : devices_) {
    if (!device.parked) continue;
    Attach(name, device.loop, device.size, [name = name](const absl::Status& status) {
      if (!status.ok()) spdlog::warn("device {}: {}", name, status);
    });
  }
}

void LoopDevices::OnResized(const std::string& name, uint64_t size) {
  const auto found = devices_.find(name);
  if (found == devices_.end() || found->second.size == size) return;
  found->second.size = size;
  LoopRequest request;
  request.operation = LoopRequest::Operation::kResize;
  Enqueue(name, std::move(request), options_.attach_bound, [name](const absl::Status& status) {
    if (!status.ok()) spdlog::warn("device {}: {}", name, status);
  });
}

void LoopDevices::Enqueue(const std::string& name, LoopRequest request, absl::Duration bound,
                          Done done) {
  auto operation = std::make_unique<Operation>();
  request.id = next_id_++;
  request.file = FileOf(name);
  request.link = absl::StrCat(options_.link_directory, "/", name);
  operation->deadline =
      std::make_unique<Ring::Timer>(ring_, [this, name, id = request.id] { OnDeadline(name, id); });
  operation->deadline->Arm(bound);
  operation->request = std::move(request);
  operation->done = std::move(done);
  std::deque<std::unique_ptr<Operation>>& operations = devices_[name].operations;
  operations.push_back(std::move(operation));
  if (operations.size() == 1) StartNext(name);
}

void LoopDevices::StartNext(const std::string& name) {
  const auto found = devices_.find(name);
  if (found == devices_.end() || found->second.operations.empty()) return;
  Device& device = found->second;
  Operation* const operation = device.operations.front().get();
  if (!operation->done && !operation->sent) return Finish(name, absl::OkStatus());  // given up
  if (operation->request.operation != LoopRequest::Operation::kAttach && device.path.empty()) {
    return Finish(name, absl::OkStatus());  // there is none
  }
  operation->request.path = device.path;
  Send(name, operation);
}

void LoopDevices::Send(const std::string& name, Operation* operation) {
  if (link_ == nullptr) {
    absl::StatusOr<UniqueFd> socket = options_.start_helper();
    if (!socket.ok()) return Finish(name, socket.status());
    link_ = new Link(ring_, this, *std::move(socket));
  }
  operation->sent = link_->Send(operation->request.Encode());
  // With so many under way its turn comes with the end of another one, or its time is up.
  if (!operation->sent) spdlog::debug("device {}: the process for loop devices is busy", name);
}

// Who waits is told; the operation itself goes on if it has begun, and those behind it wait.
void LoopDevices::OnDeadline(const std::string& name, uint64_t id) {
  const auto found = devices_.find(name);
  if (found == devices_.end()) return;
  std::deque<std::unique_ptr<Operation>>& operations = found->second.operations;
  const auto operation = std::find_if(operations.begin(), operations.end(),
                                      [&](const auto& each) { return each->request.id == id; });
  if (operation == operations.end()) return;
  const Done done = std::exchange((*operation)->done, nullptr);
  if (done) {
    done(ErrnoToStatus(ETIMEDOUT, absl::StrCat("wait for the loop device of ", name)));
  }
}

void LoopDevices::OnReply(absl::string_view text) {
  const absl::StatusOr<LoopReply> reply = DecodeLoopReply(text);
  if (!reply.ok()) return;
  for (auto& [name, device] : devices_) {
    if (device.operations.empty() || device.operations.front()->request.id != reply->id) continue;
    OnCarriedOut(std::string(name), *reply);
    break;
  }
  // There is room again for those that could not be sent.
  std::vector<std::string> waiting;
  for (auto& [name, device] : devices_) {
    if (device.operations.empty() || device.operations.front()->sent) continue;
    waiting.push_back(name);
  }
  for (const std::string& name : waiting) StartNext(name);
}

void LoopDevices::OnHelperGone() {
  link_ = nullptr;
  std::vector<std::string> waiting;
  for (auto& [name, device] : devices_) {
    if (!device.operations.empty() && !device.operations.front()->replied) waiting.push_back(name);
  }
  for (const std::string& name : waiting) {
    Finish(name, ErrnoToStatus(EIO, "the process for loop devices has died"));
  }
}

void LoopDevices::OnCarriedOut(const std::string& name, const LoopReply& reply) {
  Device& device = devices_.at(name);
  Operation* const operation = device.operations.front().get();
  operation->replied = true;
  const bool detaches = operation->request.operation == LoopRequest::Operation::kDetach;
  if (reply.error != 0) return Finish(name, ErrnoToStatus(reply.error, reply.text));
  if (operation->request.operation == LoopRequest::Operation::kAttach) {
    OnAttached(name, &device, reply.text);
  }
  if (!detaches) return Finish(name, absl::OkStatus());
  spdlog::info("device {}: {} is detached", name, device.path);
  device.path.clear();
  if (operation->request.force) return Finish(name, absl::OkStatus());
  device.waited = absl::ZeroDuration();
  device.release_timer = std::make_unique<Ring::Timer>(ring_, [this, name] { AwaitRelease(name); });
  device.release_timer->Arm(absl::ZeroDuration());
}

void LoopDevices::OnAttached(const std::string& name, Device* device, const std::string& path) {
  device->path = path;
  spdlog::info("device {}: {} is {}", name, absl::StrCat(options_.link_directory, "/", name), path);
}

void LoopDevices::AwaitRelease(const std::string& name) {
  Device& device = devices_.at(name);
  if (options_.open_count(name) == 0) return Finish(name, absl::OkStatus());
  device.waited += kReleaseInterval;
  if (device.waited < kReleaseBound) return device.release_timer->Arm(kReleaseInterval);
  Finish(name, IsOpen(name));
}

void LoopDevices::Finish(const std::string& name, const absl::Status& status) {
  const auto found = devices_.find(name);
  if (found == devices_.end() || found->second.operations.empty()) return;
  const std::unique_ptr<Operation> operation = std::move(found->second.operations.front());
  found->second.operations.pop_front();
  if (operation->done) operation->done(status);
  StartNext(name);
}

}  // namespace rnbd::client
