#include "client/mapped_session.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status.h"
#include "config/heartbeat_settings.h"
#include "rtrs/ring_round.h"

namespace rnbd::client {
namespace {

// A device that could not be opened while its session is up is tried again: soon at first, for its
// last user may be about to leave.
constexpr absl::Duration kFirstOpenRetry = absl::Milliseconds(100);
constexpr absl::Duration kOpenRetry = absl::Seconds(1);

}  // namespace

absl::StatusOr<std::unique_ptr<MappedSession>> MappedSession::Create(
    const config::ClientSessionConfig& config, const Environment& environment, Observer* observer) {
  std::unique_ptr<MappedSession> mapped(new MappedSession(config, environment, observer));
  ASSIGN_OR_RETURN(mapped->admin_, AdminChannel::Create());
  rtrs::ClientSessionOptions options;
  options.name = config.name;
  options.paths = config.paths;
  options.memory = environment.memory;
  options.memory.push_back(mapped->admin_->memory());
  options.path.connect_timeout = config.settings.connect_timeout;
  options.path.reconnect_min = config.settings.reconnect_min;
  options.path.reconnect_max = config.settings.reconnect_max;
  options.path.heartbeat = config::ToHeartbeatSettings(config.settings.heartbeat);
  options.path.kernel_heartbeat = config::ToKernelHeartbeatSettings(config.settings.heartbeat);
  options.policy = config.settings.policy;
  ASSIGN_OR_RETURN(mapped->session_, rtrs::ClientSession::Create(
                                         std::move(options), environment.fabric,
                                         environment.control, environment.workers, mapped.get()));
  mapped->admin_->set_session(mapped->session_.get());
  mapped->session_->set_max_reconnect_attempts(config.settings.max_reconnect_attempts);
  for (const config::ClientDeviceConfig& device : config.devices) mapped->MakeDevice(device);
  return mapped;
}

MappedSession::Device* MappedSession::MakeDevice(const config::ClientDeviceConfig& config) {
  devices_.push_back(std::make_unique<Device>());
  Device* const device = devices_.back().get();
  device->config = config;
  device->remote = std::make_unique<RemoteDevice>(
      session_.get(), environment_.workers, environment_.unaligned, config.name, config.access);
  device->remote->AllowHolding(config.io_hold > absl::ZeroDuration());
  device->remote->SetIoTimeout(config.io_timeout);
  device->remote->OnLossTold(
      [observer = observer_, remote = device->remote.get(), control = environment_.control] {
        control->Post([observer, remote] { observer->OnLossTold(remote); });
      });
  device->hold_timer = std::make_unique<Ring::Timer>(environment_.control,
                                                     [this, device] { OnHoldExpired(device); });
  if (devices_.size() > 1) {
    for (const auto& each : devices_) each->remote->ShareSession();
  }
  return device;
}

MappedSession::MappedSession(const config::ClientSessionConfig& config,
                             const Environment& environment, Observer* observer)
    : config_(config),
      environment_(environment),
      observer_(observer),
      retry_timer_(environment.control, [this] { Proceed(); }),
      answer_timer_(environment.control, [this] { OnNoAnswer(); }),
      close_timer_(environment.control, [this] { CloseSession(); }) {}

MappedSession::~MappedSession() = default;

RemoteDevice* MappedSession::Restore(const std::string& device_name, const DeviceFacts& facts) {
  for (const auto& each : devices_) {
    Device& device = *each;
    if (device.config.name != device_name) continue;
    device.remote->Restore(facts);
    device.was_open = true;
    device.reported = true;
    return device.remote.get();
  }
  return nullptr;
}

// What was restored is lost from here on.
void MappedSession::Start() {
  for (const auto& each : devices_) {
    Device& device = *each;
    if (device.was_open) BeginHolding(&device);
  }
  session_->Start();
}

void MappedSession::OnConnectFailed(const rtrs::PathAddress& path, const absl::Status& why,
                                    absl::Duration retry_in) {
  if (closing_) return;
  if (retry_in == absl::InfiniteDuration()) {
    spdlog::warn("session {}: path {}: {}; it stays disconnected", name(), path.ToString(), why);
  } else {
    spdlog::warn("session {}: path {}: {}; trying again in {}", name(), path.ToString(), why,
                 absl::FormatDuration(absl::Trunc(retry_in, absl::Milliseconds(1))));
  }
  // One path is enough, so there is hope until each of them has failed.
  failed_paths_.insert(path.ToString());
  if (session_->connected() || !HaveAllFailed()) return;
  ReportFailures(Annotate(why, absl::StrCat("path ", path.ToString())));
}

bool MappedSession::HaveAllFailed() const {
  for (const rtrs::ClientPath* path : session_->Paths()) {
    if (!failed_paths_.contains(path->address().ToString())) return false;
  }
  return true;
}

void MappedSession::OnSessionUp() {
  was_up_ = true;
  if (closing_) return;
  greeted_ = false;
  next_ = 0;
  retry_wait_ = kFirstOpenRetry;
  Proceed();
}

void MappedSession::OnResendable() {
  for (const auto& device : devices_) device->remote->Resume();
}

// A device has grown: OPEN tells the size of one that is open already.
void MappedSession::OnNews(uint32_t news) {
  if (closing_) return;
  for (const auto& device : devices_) {
    if (device->remote->is_open() && device->remote->id() == news) device->has_news = true;
  }
  Proceed();
}

void MappedSession::OnSessionDown(const absl::Status& why) {
  retry_timer_.Cancel();
  if (!closing_) spdlog::warn("session {}: disconnected: {}", name(), why);
  for (const auto& each : devices_) {
    Device& device = *each;
    if (!device.remote->is_open()) continue;
    device.remote->Close();
    BeginHolding(&device);
  }
}

void MappedSession::BeginHolding(Device* device) {
  const absl::Duration hold = device->config.io_hold;
  if (closing_ || hold == absl::ZeroDuration()) {
    device->remote->AllowHolding(false);
  } else if (hold != absl::InfiniteDuration()) {
    device->hold_timer->Arm(hold);
  }
}

void MappedSession::OnHoldExpired(Device* device) {
  spdlog::error(
      "session {}: device {} has not been open for {} (io_hold): {} requests fail, and "
      "further ones until it is open again",
      name(), device->config.name, absl::FormatDuration(device->config.io_hold),
      device->remote->held());
  device->remote->AllowHolding(false);
}

// Sends what comes next: SESS_INFO, then OPEN for every device that is not open, or has news. When
// the session goes down and comes up meanwhile, the message under way fails and all begins anew.
void MappedSession::Proceed() {
  if (closing_ || admin_->busy() || !session_->connected()) return;
  if (greeted_) {
    OpenNext();
  } else {
    Greet();
  }
}

void MappedSession::Greet() {
  SessInfoMessage message;
  answer_timer_.Arm(config_.settings.connect_timeout);
  Send(Direction::kRead, MessageBytes(message), sizeof(SessInfoResponse),
       [this](int error, absl::Span<const uint8_t> reply) { OnGreeted(error, reply); });
}

void MappedSession::OnGreeted(int error, absl::Span<const uint8_t> reply) {
  answer_timer_.Cancel();
  if (closing_) return FlushNext(0);
  absl::Status status = error != 0 ? ErrnoToStatus(error, "the server did not answer SESS_INFO")
                                   : ParseSessInfoResponse(reply).status();
  if (!status.ok()) {
    spdlog::warn("session {}: {}", name(), status);
    ReportFailures(status);
    RetryLater();
    return;
  }
  greeted_ = true;
  OpenNext();
}

// Beginning with *devices_[next_]. At the end, those that failed are tried again in a while.
void MappedSession::OpenNext() {
  for (; next_ < devices_.size(); ++next_) {
    Device& device = *devices_[next_];
    const bool has_news = std::exchange(device.has_news, false);
    if (device.removed != nullptr || (device.remote->is_open() && !has_news)) continue;
    absl::StatusOr<OpenMessage> message = MakeOpen(device.config.path, device.config.access);
    if (!message.ok()) {
      OnOpenFailed(&device, message.status());
      continue;
    }
    answer_timer_.Arm(config_.settings.connect_timeout);
    const OpenMessage& open = *message;
    Send(Direction::kRead, MessageBytes(open), sizeof(OpenResponse),
         [this](int error, absl::Span<const uint8_t> reply) { OnOpened(error, reply); });
    return;
  }
  next_ = 0;
  if (RemoveNext()) return;
  for (const auto& device : devices_) {
    if (device->has_news) return OpenNext();
  }
  for (const auto& device : devices_) {
    if (!device->remote->is_open()) return RetryLater();
  }
}

void MappedSession::RetryLater() {
  for (const auto& device : devices_) {
    if (device->remapped != nullptr) return retry_timer_.Arm(absl::ZeroDuration());
  }
  retry_timer_.Arm(retry_wait_);
  retry_wait_ = std::min(2 * retry_wait_, kOpenRetry);
}

void MappedSession::OnOpened(int error, absl::Span<const uint8_t> reply) {
  answer_timer_.Cancel();
  // The server closes with the session what it may just have opened.
  if (closing_) return FlushNext(0);
  Device& device = *devices_[next_];
  if (device.remote->is_open()) return OnSizeAnswered(&device, error, reply);
  if (error != 0) {
    // Whatever the path took with it comes again with the session, or in a while over another path.
    const absl::string_view what =
        error == ECONNABORTED ? "lost the connection while opening " : "the server refused ";
    OnOpenFailed(&device, ErrnoToStatus(error, absl::StrCat(what, device.config.path, " ",
                                                            AccessModeName(device.config.access))));
    if (error == ECONNABORTED) return RetryLater();
    ++next_;
    return OpenNext();
  }
  OpenedDevice opened;
  absl::Status status = ParseOpenResponse(reply, &opened);
  const bool open_at_server = status.ok() || StatusToErrno(status) != EPROTO;
  if (!session_->server_has_recovery()) opened.identity = {};
  if (status.ok()) status = device.remote->Open(opened, config_.settings.trust_server_cache);
  ++next_;
  if (status.ok()) {
    OnDeviceIsOpen(&device);
  } else {
    OnOpenFailed(&device, status);
    if (open_at_server) return GiveBack(opened.device_id);
  }
  OpenNext();
}

// Where that fails, the server tells the news again.
void MappedSession::OnSizeAnswered(Device* device, int error, absl::Span<const uint8_t> reply) {
  if (error == ECONNABORTED) {
    device->has_news = true;
    return RetryLater();
  }
  ++next_;
  OpenedDevice opened;
  const absl::Status status =
      error != 0 ? ErrnoToStatus(error, "the server") : ParseOpenResponse(reply, &opened);
  if (!status.ok()) {
    spdlog::warn("session {}: the size of device {}: {}", name(), device->config.name, status);
    return OpenNext();
  }
  // It was taken away from us meanwhile, and is not to come back like this.
  if (opened.device_id != device->remote->id()) return GiveBack(opened.device_id);
  const uint64_t before = device->remote->disk_size();
  if (device->remote->Grow(opened.geometry.nsectors * kSectorSize)) {
    spdlog::info("session {}: device {} has grown from {} to {} bytes", name(), device->config.name,
                 before, device->remote->disk_size());
    observer_->OnDeviceGrown(device->remote.get());
  }
  OpenNext();
}

void MappedSession::OnDeviceIsOpen(Device* device) {
  device->last_failure.clear();
  device->reported = true;
  device->hold_timer->Cancel();
  device->remote->AllowHolding(device->config.io_hold > absl::ZeroDuration());
  const size_t held = device->remote->held();
  device->remote->Resume();
  Tell(&device->remapped, absl::OkStatus());
  if (std::exchange(device->was_open, true)) {
    spdlog::info("session {}: device {} is open again, {} requests go on", name(),
                 device->config.name, held);
    observer_->OnDeviceReopened(device->remote.get());
  } else {
    spdlog::info("session {}: device {} is open, {} bytes", name(), device->config.name,
                 device->remote->size());
    if (device->added == nullptr) return observer_->OnDeviceOpen(device->remote.get());
    Tell(&device->added, absl::OkStatus());
  }
}

// Closes a device that the server has opened and that cannot be used, so that others can have it.
void MappedSession::GiveBack(uint32_t device_id) {
  CloseMessage message = MakeClose(device_id);
  Send(Direction::kWrite, MessageBytes(message), 0, [this](int, absl::Span<const uint8_t>) {
    if (closing_) return FlushNext(0);
    OpenNext();
  });
}

// Logged once for each reason: attempts go on for as long as the session is up.
void MappedSession::OnOpenFailed(Device* device, const absl::Status& why) {
  if (device->added == nullptr && device->last_failure != why.ToString()) {
    device->last_failure = why.ToString();
    spdlog::warn("session {}: device {}: {}; trying again every {}", name(), device->config.name,
                 why, absl::FormatDuration(kOpenRetry));
  }
  Tell(&device->remapped, why);
  ReportFailure(device, why);
}

void MappedSession::OnNoAnswer() {
  absl::Status why = ErrnoToStatus(
      ETIMEDOUT, absl::StrCat("the server has not answered ", greeted_ ? "OPEN" : "SESS_INFO",
                              " for ", absl::FormatDuration(config_.settings.connect_timeout)));
  spdlog::warn("session {}: {}; waiting on", name(), why);
  ReportFailures(why);
}

void MappedSession::ReportFailures(const absl::Status& why) {
  for (const auto& device : devices_) ReportFailure(device.get(), why);
}

void MappedSession::ReportFailure(Device* device, const absl::Status& why) {
  if (std::exchange(device->reported, true)) return;
  if (device->added != nullptr) {
    // One that never was is not tried again.
    if (device->removed == nullptr) device->removed = [](const absl::Status&) {};
    Tell(&device->added, why);
    environment_.control->Post([this, alive = std::weak_ptr<bool>(alive_)] {
      if (!alive.expired() && !admin_->busy()) RemoveNext();
    });
    return;
  }
  observer_->OnDeviceFailed(name(), device->config, why);
}

void MappedSession::Send(Direction direction, absl::Span<const uint8_t> message,
                         uint32_t reply_bytes, AdminChannel::Done done) {
  admin_->Send(direction, message, reply_bytes,
               [this, alive = std::weak_ptr<bool>(alive_), done = std::move(done)](
                   int error, absl::Span<const uint8_t> reply) {
                 done(error, reply);
                 if (!alive.expired() && !closing_ && !admin_->busy()) RemoveNext();
               });
}

// Later, for whoever is told may add and remove devices.
void MappedSession::Tell(Done* waiter, const absl::Status& status) {
  if (*waiter == nullptr) return;
  environment_.control->Post(
      [waiter = std::exchange(*waiter, nullptr), status] { waiter(status); });
}

std::vector<MappedSession::DeviceView> MappedSession::devices() const {
  std::vector<DeviceView> views;
  for (const auto& device : devices_) {
    const bool coming_or_failed = device->added != nullptr || device->removed != nullptr;
    if (device->was_open || !coming_or_failed) views.push_back(ViewOf(*device));
  }
  return views;
}

MappedSession::DeviceView MappedSession::ViewOf(const Device& device) {
  DeviceView view;
  view.config = &device.config;
  view.remote = device.remote.get();
  if (device.removed != nullptr) {
    view.state = DeviceState::kUnmapped;
  } else if (device.remote->is_open()) {
    view.state = DeviceState::kOpen;
  } else {
    view.state = device.was_open ? DeviceState::kClosed : DeviceState::kInit;
  }
  return view;
}

MappedSession::Device* MappedSession::FindDevice(const std::string& device_name) const {
  for (const auto& device : devices_) {
    if (device->config.name == device_name && device->removed == nullptr) return device.get();
  }
  return nullptr;
}

absl::optional<MappedSession::DeviceView> MappedSession::Find(
    const std::string& device_name) const {
  // One that is about to go may have a successor already.
  if (const Device* device = FindDevice(device_name)) return ViewOf(*device);
  for (const auto& device : devices_) {
    if (device->config.name == device_name) return ViewOf(*device);
  }
  return absl::nullopt;
}

RemoteDevice* MappedSession::AddDevice(const config::ClientDeviceConfig& config, Done done) {
  if (closing_ || (was_up_ && !session_->connected())) {
    environment_.control->Post([done = std::move(done)] {
      done(ErrnoToStatus(ECONNABORTED, "no path of the session is connected"));
    });
    return nullptr;
  }
  Device* const device = MakeDevice(config);
  device->added = std::move(done);
  retry_timer_.Cancel();
  if (!admin_->busy()) Proceed();
  return device->remote.get();
}

void MappedSession::Remap(const std::string& device_name, Done done) {
  Device* const device = FindDevice(device_name);
  const auto refuse = [&](int error, absl::string_view what) {
    Tell(&done, rnbd::ErrnoToStatus(error, what));
  };
  if (device == nullptr || closing_) return refuse(ENODEV, "open a device that is unmapped");
  if (device->remote->is_open()) return refuse(EALREADY, "open a device that is open");
  if (device->remapped != nullptr) return refuse(EBUSY, "open a device that is being opened");
  if (!session_->connected()) return refuse(ECONNABORTED, "no path of the session is connected");
  device->remapped = std::move(done);
  retry_timer_.Arm(absl::ZeroDuration());
}

void MappedSession::RemoveDevice(const std::string& device_name, Done done) {
  Device* const device = FindDevice(device_name);
  if (device == nullptr || closing_) {
    return Tell(&done, ErrnoToStatus(ENODEV, "unmap a device that is unmapped"));
  }
  device->removed = std::move(done);
  device->hold_timer->Cancel();
  Tell(&device->added, ErrnoToStatus(ENODEV, "the device is unmapped"));
  Tell(&device->remapped, ErrnoToStatus(ENODEV, "the device is unmapped"));
  if (!device->remote->is_open() && device->remote->has_unflushed_writes()) {
    device->removal_status = ErrnoToStatus(ENOTCONN, "the session is down");
  }
  if (!admin_->busy()) RemoveNext();
}

void MappedSession::EndHold(const std::string& device_name, Done done) {
  Device* const device = FindDevice(device_name);
  if (device == nullptr || closing_) {
    return Tell(&done, rnbd::ErrnoToStatus(ENODEV, "end the hold of a device that is unmapped"));
  }
  if (device->remote->is_open()) {
    return Tell(&done, rnbd::ErrnoToStatus(EALREADY, "end the hold of a device that is open"));
  }
  spdlog::warn("session {}: device {}: the hold is ended by hand: {} requests fail", name(),
               device->config.name, device->remote->held());
  if (device->hold_timer->armed()) BeginHolding(device);
  device->remote->EndHold();
  rtrs::AfterRound(environment_.control, environment_.workers,
                   [done = std::move(done)] { done(absl::OkStatus()); });
}

void MappedSession::FailRequests(const std::string& device_name) {
  Device* const device = FindDevice(device_name);
  if (device != nullptr) device->remote->AllowHolding(false);
}

// Goes on with the devices that are to be removed, while no message is under way. True when it has
// sent one; its answer goes on.
bool MappedSession::RemoveNext() {
  if (closing_) return false;
  for (size_t index = 0; index < devices_.size();) {
    Device* const device = devices_[index].get();
    if (device->removed == nullptr) {
      ++index;
      continue;
    }
    if (device->remote->is_open()) {
      LeaveDevice(device);
      return true;
    }
    Forget(index);
  }
  return false;
}

// Makes durable what was written, then closes.
void MappedSession::LeaveDevice(Device* device) {
  if (NeedsFlush(*device) && !std::exchange(device->flushed, true)) {
    if (!device->remote->BeginFlush()) {
      device->removal_status = ErrnoToStatus(EIO, "the server's cache before the session was lost");
    }
    return SendFlush(*device, [this, device](int error, absl::Span<const uint8_t>) {
      if (error != 0) device->removal_status = ErrnoToStatus(error, "FLUSH");
      if (closing_) return FlushNext(0);
      Proceed();
    });
  }
  CloseMessage message = MakeClose(device->remote->id());
  device->remote->Close();
  device->remote->AllowHolding(false);
  Send(Direction::kWrite, MessageBytes(message), 0, [this](int, absl::Span<const uint8_t>) {
    if (closing_) return FlushNext(0);
    Proceed();
  });
}

// Tasks of the device may still wait on the workers.
void MappedSession::Forget(size_t index) {
  const auto device = std::make_shared<std::unique_ptr<Device>>(std::move(devices_[index]));
  devices_.erase(devices_.begin() + static_cast<ptrdiff_t>(index));
  if (index < next_) --next_;
  (*device)->hold_timer->Cancel();
  (*device)->remote->AllowHolding(false);
  spdlog::info("session {}: device {} is unmapped", name(), (*device)->config.name);
  rtrs::AfterRound(environment_.control, environment_.workers, [device] {
    const Done removed = std::move((*device)->removed);
    const absl::Status status = (*device)->removal_status;
    device->reset();
    removed(Annotate(status, "the device is unmapped, but its last writes may not be durable"));
  });
}

void MappedSession::SendFlush(const Device& device, AdminChannel::Done done) {
  IoRequest flush;
  flush.device_id = device.remote->id();
  flush.operation = Operation::kFlush;
  flush.flags = kIoSync | kIoFua;
  flush.sector = ~uint64_t{0};
  IoMessage message = MakeIo(flush);
  Send(CarrierOf(flush.operation), MessageBytes(message), 0, std::move(done));
}

bool MappedSession::NeedsFlush(const Device& device) {
  return device.remote->is_open() && device.remote->needs_flush();
}

}  // namespace rnbd::client
