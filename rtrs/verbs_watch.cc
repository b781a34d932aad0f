#include "rtrs/verbs_watch.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status.h"
#include "rtrs/verbs_handles.h"

namespace rnbd::rtrs {

absl::StatusOr<std::shared_ptr<VerbsWatch>> VerbsWatch::Of(ibv_context* device) {
  static absl::Mutex mutex;
  static absl::flat_hash_map<ibv_context*, std::weak_ptr<VerbsWatch>> watches;
  absl::MutexLock lock(&mutex);
  std::weak_ptr<VerbsWatch>& known = watches[device];
  if (std::shared_ptr<VerbsWatch> watch = known.lock()) return watch;
  std::shared_ptr<VerbsWatch> watch(new VerbsWatch(device));
  RETURN_IF_ERROR(watch->Start());
  known = watch;
  return watch;
}

absl::Status VerbsWatch::Start() {
  RETURN_IF_ERROR(SetNonBlocking(device_->async_fd));
  stop_ = UniqueFd(eventfd(0, EFD_CLOEXEC));
  if (!stop_.valid()) return ErrnoToStatus(errno, "create an eventfd");
  try {
    thread_ = std::thread([this] { Run(); });
  } catch (const std::system_error& error) {
    return ErrnoToStatus(error.code().value(), "start a thread that watches an RDMA device");
  }
  pthread_setname_np(thread_.native_handle(), "rdma-events");
  return absl::OkStatus();
}

VerbsWatch::~VerbsWatch() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  const ssize_t written = write(stop_.get(), &one, sizeof(one));
  static_cast<void>(written);  // an eventfd below its maximum always takes it
  thread_.join();
}

uint64_t VerbsWatch::Register(uint8_t port, Ring* ring,
                              std::function<void(const absl::Status&)> on_failure) {
  absl::MutexLock lock(&mutex_);
  listeners_[next_number_] = {port, ring, std::move(on_failure)};
  return next_number_++;
}

void VerbsWatch::Unregister(uint64_t number) {
  absl::MutexLock lock(&mutex_);
  listeners_.erase(number);
}

void VerbsWatch::Run() {
  for (;;) {
    pollfd waiting[2] = {{stop_.get(), POLLIN, 0}, {device_->async_fd, POLLIN, 0}};
    if (poll(waiting, 2, -1) < 0 && errno != EINTR) return;
    if (waiting[0].revents != 0) return;
    if ((waiting[1].revents & (POLLERR | POLLHUP)) != 0) return;
    ibv_async_event event;
    while (ibv_get_async_event(device_, &event) == 0) {
      OnEvent(event);
      ibv_ack_async_event(&event);
    }
  }
}

// Events of one queue pair are none of ours: its completions tell the same.
void VerbsWatch::OnEvent(const ibv_async_event& event) {
  const char* name = ibv_get_device_name(device_->device);
  switch (event.event_type) {
    case IBV_EVENT_PORT_ERR: {
      const int port = event.element.port_num;
      spdlog::warn("RDMA device {}: port {} is down", name, port);
      Fail(ErrnoToStatus(ENETDOWN, absl::StrCat("RDMA device ", name, ", port ", port)),
           /*all_ports=*/false, static_cast<uint8_t>(port));
      return;
    }
    case IBV_EVENT_PORT_ACTIVE:
      spdlog::info("RDMA device {}: port {} is up", name, event.element.port_num);
      return;
    case IBV_EVENT_DEVICE_FATAL:
      spdlog::error("RDMA device {} has failed", name);
      Fail(ErrnoToStatus(ENODEV, absl::StrCat("RDMA device ", name, " has failed")),
           /*all_ports=*/true, 0);
      return;
    default:
      return;
  }
}

void VerbsWatch::Fail(const absl::Status& why, bool all_ports, uint8_t port) {
  absl::MutexLock lock(&mutex_);
  for (const auto& [number, listener] : listeners_) {
    if (!all_ports && listener.port != port) continue;
    listener.ring->Post([on_failure = listener.on_failure, why] { on_failure(why); });
  }
}

}  // namespace rnbd::rtrs
