#include "server/device_session.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status.h"
#include "server/disk_id.h"
#include "server/refusal_reason.h"

namespace rnbd::server {
namespace {

// Clients try again and again.
constexpr std::chrono::seconds kLogInterval(5);

uint32_t Sectors(uint32_t bytes) { return bytes / kSectorSize; }

// What OPEN_RSP says of a backend (protocol page, section 1.5).
DeviceGeometry Announce(const Geometry& geometry, const rtrs::SessionGeometry& session) {
  DeviceGeometry announced;
  announced.nsectors = geometry.size / kSectorSize;
  announced.max_hw_sectors = Sectors(session.max_io_size);
  announced.max_segments =
      std::min<uint32_t>(session.max_io_size / 4096, std::numeric_limits<uint16_t>::max());
  announced.logical_block_size = geometry.logical_block_size;
  announced.physical_block_size =
      std::max(geometry.physical_block_size, geometry.logical_block_size);
  announced.max_discard_sectors = Sectors(geometry.max_discard);
  announced.discard_granularity = geometry.discard_granularity;
  announced.discard_alignment = geometry.discard_alignment;
  announced.max_write_zeroes_sectors = Sectors(geometry.max_write_zeroes);
  announced.max_secure_erase_sectors = Sectors(geometry.max_secure_erase);
  announced.fua = geometry.fua;
  announced.writeback = geometry.write_back_cache;
  return announced;
}

BlockOperation ToBlockOperation(Operation operation) {
  switch (operation) {
    case Operation::kRead:
      return BlockOperation::kRead;
    case Operation::kWrite:
      return BlockOperation::kWrite;
    case Operation::kFlush:
      return BlockOperation::kFlush;
    case Operation::kDiscard:
      return BlockOperation::kDiscard;
    case Operation::kSecureErase:
      return BlockOperation::kSecureErase;
    case Operation::kWriteZeroes:
      return BlockOperation::kWriteZeroes;
  }
  return BlockOperation::kFlush;
}

// May block. The share of the disk is given back last.
void Close(OpenedDevice* device) { const OpenedDevice closed = std::move(*device); }

}  // namespace

DeviceSession::DeviceSession(const rtrs::ServerSessionInfo& info,
                             std::unique_ptr<DeviceOpener> opener, const Threads& threads,
                             const DeviceSessionSettings& settings, DeviceObserver* observer,
                             ServerMetrics* metrics)
    : name_(info.name),
      session_geometry_(info.geometry),
      tells_identity_((info.features & rtrs::kRecovery) != 0),
      opener_(std::move(opener)),
      throttle_(threads.workers, std::make_shared<RateLimit>()),
      device_thread_(threads.devices),
      opening_(threads.opening),
      size_looks_(threads.looking),
      workers_(threads.workers.size()),
      ios_(info.geometry.queue_depth),
      control_(threads.control),
      settings_(settings),
      watch_(info.geometry.queue_depth),
      watch_timer_(threads.control, [this] { LookForStuckRequests(); }),
      send_news_(info.send_news),
      resize_timer_(threads.control, [this] { LookForGrowth(); }),
      log_refusals_(kLogInterval),
      observer_(observer),
      metrics_(metrics),
      devices_(std::make_unique<Devices>()),
      chunk_buffers_(info.chunks, info.geometry.chunk_size(), threads.workers) {
  {
    absl::MutexLock lock(&self_->mutex);
    self_->session = this;
  }
  OnReconfigured();
  if (observer_ != nullptr) observer_->OnSessionLimit(name_, throttle_.limit());
  if (settings_.stuck_after != absl::InfiniteDuration()) watch_timer_.Arm(settings_.stuck_after);
  if (settings_.resize_interval != absl::InfiniteDuration()) {
    resize_timer_.Arm(settings_.resize_interval);
  }
}

DeviceSession::~DeviceSession() {
  {
    absl::MutexLock lock(&self_->mutex);
    self_->session = nullptr;
  }
  for (const auto& [id, device] : devices_->by_id) {
    spdlog::info("session {}: device {} closed with its session", name_, device.name);
  }
  // std::function wants to be copied; the devices still die on the device thread.
  device_thread_->Post([devices = std::shared_ptr<Devices>(std::move(devices_)),
                        observer = observer_] { CloseWithSession(devices.get(), observer); });
}

void DeviceSession::CloseWithSession(Devices* devices, DeviceObserver* observer) {
  for (auto& [id, device] : devices->by_id) {
    if (!device.closing && device.opened.on_abandoned) device.opened.on_abandoned();
    Close(&device.opened);
    if (observer != nullptr) observer->OnDeviceClosed(device.number);
    if (device.force_closed) device.force_closed(absl::OkStatus());
  }
}

void DeviceSession::LookForStuckRequests() {
  watch_timer_.Arm(settings_.stuck_after);
  for (const std::string& line : watch_.Look(control_->now_ns(), settings_.stuck_after)) {
    spdlog::warn("session {}: {}", name_, line);
  }
}

// The data path.

void DeviceSession::OnRequest(rtrs::ServerRequest* request) {
  absl::StatusOr<RnbdMessageType> type = ParseUserMessageType(request->user_message());
  if (!type.ok()) {
    request->Complete(EINVAL);
    return;
  }
  switch (*type) {
    case RnbdMessageType::kIo:
      OnIo(request);
      return;
    case RnbdMessageType::kSessInfo:
      OnSessionInfo(request);
      return;
    case RnbdMessageType::kOpen:
      device_thread_->Post([this, request] { OnOpen(request); });
      return;
    case RnbdMessageType::kClose:
      device_thread_->Post([this, request] { OnClose(request); });
      return;
    default:
      request->Complete(EINVAL);
      return;
  }
}

void DeviceSession::OnIo(rtrs::ServerRequest* request) {
  int error = StartIo(request);
  if (error == 0) return;
  if (metrics_ != nullptr) metrics_->worker(request->worker())->Refuse(error);
  request->Complete(error);
}

// 0 when the backend has the request and will answer it.
int DeviceSession::StartIo(rtrs::ServerRequest* request) {
  absl::StatusOr<IoRequest> io = ParseIo(request->user_message(), request->direction(),
                                         static_cast<uint32_t>(request->data().size()),
                                         version_.load(std::memory_order_relaxed));
  if (!io.ok()) return StatusToErrno(io.status());
  DeviceSlot* slot = slots_.Acquire(io->device_id);
  if (slot == nullptr) return ENOTCONN;
  int error = 0;
  if (slot->read_only && IsModifying(io->operation)) {
    error = EROFS;
  } else if (absl::Status range = CheckRange(*io, slot->geometry()); !range.ok()) {
    error = StatusToErrno(range);
  }
  if (error != 0) {
    slots_.Release(slot);
    return error;
  }
  Io& work = ios_[request->chunk()];
  work.limited_bytes = HasData(io->operation) ? io->size : 0;
  work.session = this;
  work.request = request;
  work.slot = slot;
  work.operation = ToBlockOperation(io->operation);
  work.fua = (io->flags & kIoFua) != 0 && IsModifying(io->operation);
  work.preflush = (io->flags & kIoPreflush) != 0 && io->operation == Operation::kWrite;
  work.no_unmap = (io->flags & kIoNoUnmap) != 0;
  work.priority = io->prio;
  work.offset = io->sector * kSectorSize;
  work.length = io->size;
  work.data = request->data().data();
  work.may_lend = request->may_lend();
  work.lent = nullptr;
  work.buffer_slot =
      HasData(io->operation) ? chunk_buffers_.Slot(request->worker(), request->chunk()) : -1;
  work.device_id = io->device_id;
  if (throttle_.Admit(request->worker(), slot->throttled, &work)) {
    SubmitIo(&work);
  } else {
    BeginWait(&work);
  }
  return 0;
}

void DeviceSession::SubmitIo(Io* io) {
  rtrs::ServerRequest* const request = io->request;
  watch_.Begin(request->chunk(), io->device_id, *io, RequestWatch::Place::kDisk,
               Ring::coarse_now_ns());
  if (metrics_ != nullptr) {
    io->begun_ns = request->ring()->now_ns();
    metrics_->worker(request->worker())->Begin();
    io->slot->counters->Begin(request->worker());
  }
  io->slot->backend->Submit(request->ring(), io);
}

void DeviceSession::BeginWait(Io* io) {
  watch_.Begin(io->request->chunk(), io->device_id, *io, RequestWatch::Place::kLimit,
               Ring::coarse_now_ns());
  if (metrics_ == nullptr) return;
  io->begun_ns = io->request->ring()->now_ns();
  io->slot->counters->BeginWait(io->request->worker());
}

void DeviceSession::EndWait(const Io& io) {
  if (metrics_ == nullptr) return;
  const int64_t now_ns = io.request->ring()->now_ns();
  io.slot->counters->EndWait(io.request->worker(), now_ns - io.begun_ns);
}

void DeviceSession::OnAdmitted(Io* io) {
  EndWait(*io);
  SubmitIo(io);
}

void DeviceSession::OnCancelled(Io* io, int error) {
  EndWait(*io);
  rtrs::ServerRequest* const request = io->request;
  watch_.End(request->chunk());
  slots_.Release(io->slot);
  if (metrics_ != nullptr) metrics_->worker(request->worker())->Refuse(error);
  request->Complete(error);
}

void DeviceSession::OnConnectionLost(size_t worker) {
  throttle_.Cancel(worker, [](const Throttle::Request& waiting) {
    return static_cast<const Io&>(waiting).request->abandoned();
  });
}

void DeviceSession::Io::OnDone(int error) {
  // The chunk, and this object with it, may carry the next request as soon as this one is answered.
  rtrs::ServerRequest* answered = request;
  session->watch_.End(answered->chunk());
  if (session->metrics_ != nullptr) session->CountEnd(*this, error);
  session->slots_.Release(slot);
  if (lent != nullptr) answered->Lend(lent);
  answered->Complete(error);
}

void DeviceSession::CountEnd(const Io& io, int error) {
  const int64_t now_ns = io.request->ring()->now_ns();
  const int64_t ns = now_ns - io.begun_ns;
  metrics_->worker(io.request->worker())->End(io.operation, io.length, error, ns);
  io.slot->counters->End(io.request->worker(), io.operation, io.length, error, ns);
}

// What is open follows the rules as well.
void DeviceSession::OnReconfigured() {
  const absl::optional<SessionLimits> limits = opener_->limits();
  if (!limits.has_value()) return;
  throttle_.limit()->SetByFile(limits->session);
  device_thread_->Post([self = self_, device_limits = limits->device] {
    absl::MutexLock lock(&self->mutex);
    if (self->session == nullptr) return;
    for (const auto& [id, device] : self->session->devices_->by_id) {
      device.throttled->limit()->SetByFile(device_limits);
    }
  });
}

// The control path. From OnOpen() to AnswerOpen() and from OnClose() to CloseDrained() the session
// cannot go, for it has a request unanswered.

void DeviceSession::OnSessionInfo(rtrs::ServerRequest* request) {
  absl::StatusOr<uint8_t> version = ParseSessInfo(request->user_message(), request->direction(),
                                                  static_cast<uint32_t>(request->data().size()));
  if (!version.ok()) {
    request->Complete(StatusToErrno(version.status()));
    return;
  }
  version_.store(*version, std::memory_order_relaxed);
  SessInfoResponse response = MakeSessInfoResponse(*version);
  std::memset(request->data().data(), 0, request->data().size());
  std::memcpy(request->data().data(), &response, sizeof(response));
  request->Complete(0);
}

void DeviceSession::CompleteOnItsThread(rtrs::ServerRequest* request, int error) {
  request->ring()->Post([request, error] { request->Complete(error); });
}

void DeviceSession::OnOpen(rtrs::ServerRequest* request) {
  absl::StatusOr<OpenRequest> open = ParseOpen(request->user_message(), request->direction(),
                                               static_cast<uint32_t>(request->data().size()));
  if (!open.ok()) {
    CompleteOnItsThread(request, StatusToErrno(open.status()));
    return;
  }
  // Section 4.2: a name that is open already gives the same id, and the mode that was asked for
  // first.
  auto known = devices_->by_name.find(open->dev_name);
  if (known != devices_->by_name.end()) {
    Device& device = devices_->by_id.at(known->second);
    device.told_nsectors = device.geometry.nsectors;
    AnswerOpen(request, *open, MakeOpenResponse(known->second, device.geometry, device.identity));
    return;
  }
  std::vector<rtrs::ServerRequest*>& waiting = devices_->opening[open->dev_name];
  waiting.push_back(request);
  if (waiting.size() > 1) return;
  opening_->Run([this, open = *open] {
    // std::function wants to be copied.
    auto opened = std::make_shared<absl::StatusOr<OpenedDevice>>(
        opener_->Open(open.dev_name, open.access_mode));
    device_thread_->Post([this, open, opened] { OnOpened(open, std::move(*opened)); });
  });
}

void DeviceSession::OnOpened(const OpenRequest& open, absl::StatusOr<OpenedDevice> opened) {
  const absl::StatusOr<OpenResponse> response = Take(open, std::move(opened));
  auto waiting = devices_->opening.extract(open.dev_name);
  for (rtrs::ServerRequest* request : waiting.mapped()) AnswerOpen(request, open, response);
}

void DeviceSession::AnswerOpen(rtrs::ServerRequest* request, const OpenRequest& open,
                               const absl::StatusOr<OpenResponse>& response) {
  if (!response.ok()) {
    if (metrics_ != nullptr) metrics_->CountRefusedOpen(RefusalReasonOf(response.status()));
    if (log_refusals_.Allow()) {
      spdlog::warn("session {}: refused to open device {} {}: {} ({} more not shown)", name_,
                   open.dev_name, AccessModeName(open.access_mode), response.status(),
                   log_refusals_.TakeSuppressed());
    }
    CompleteOnItsThread(request, StatusToErrno(response.status()));
    return;
  }
  std::memset(request->data().data(), 0, request->data().size());
  std::memcpy(request->data().data(), &*response, sizeof(*response));
  CompleteOnItsThread(request, 0);
}

absl::StatusOr<OpenResponse> DeviceSession::Take(const OpenRequest& open,
                                                 absl::StatusOr<OpenedDevice> result) {
  ASSIGN_OR_RETURN(OpenedDevice opened, std::move(result));
  RETURN_IF_ERROR(opener_->MayUse(opened.name));
  DeviceGeometry geometry = Announce(opened.backend->geometry(), session_geometry_);
  RETURN_IF_ERROR(ValidateDeviceGeometry(geometry));
  auto throttled = std::make_unique<Throttle::Device>(workers_, std::make_shared<RateLimit>());
  if (const auto limits = opener_->limits(); limits.has_value()) {
    throttled->limit()->SetByFile(limits->device);
  }
  std::shared_ptr<DeviceCounters> counters;
  if (metrics_ != nullptr) counters = metrics_->AddDevice(name_, open.dev_name);
  ASSIGN_OR_RETURN(uint32_t id, slots_.Open({.backend = opened.backend.get(),
                                             .geometry = geometry,
                                             .read_only = opened.read_only,
                                             .throttled = throttled.get(),
                                             .counters = counters.get()}));
  if (opened.backend->wants_registered_buffers()) chunk_buffers_.Register();
  DiskIdentity identity;
  if (tells_identity_) {
    identity = {.disk = opened.backend->geometry().disk_id, .host_start = HostStart()};
  }
  const uint64_t number = TellOpened(id, open, opened, throttled->limit());
  devices_->by_id[id] = {open.dev_name,
                         std::move(throttled),
                         std::move(counters),
                         std::move(opened),
                         geometry,
                         identity,
                         /*told_nsectors=*/geometry.nsectors,
                         /*shrunk_to=*/0,
                         /*closing=*/false,
                         number,
                         /*force_closed=*/nullptr};
  devices_->by_name[open.dev_name] = id;
  watch_.SetName(id, open.dev_name);
  spdlog::info("session {}: device {} opened {}, {} bytes, id {}", name_, open.dev_name,
               AccessModeName(open.access_mode), geometry.nsectors * kSectorSize, id);
  return MakeOpenResponse(id, geometry, identity);
}

void DeviceSession::OnClose(rtrs::ServerRequest* request) {
  absl::StatusOr<uint32_t> id = ParseClose(request->user_message(), request->direction(),
                                           static_cast<uint32_t>(request->data().size()));
  if (!id.ok()) {
    CompleteOnItsThread(request, StatusToErrno(id.status()));
    return;
  }
  auto device = devices_->by_id.find(*id);
  // An id that is not open, or is being closed, is closed already (section 4.2).
  if (device == devices_->by_id.end() || std::exchange(device->second.closing, true)) {
    CompleteOnItsThread(request, 0);
    return;
  }
  spdlog::info("session {}: device {} closed", name_, device->second.name);
  devices_->by_name.erase(device->second.name);
  slots_.Close(*id, [this, id = *id, request] {
    device_thread_->Post([this, id, request] { CloseDrained(id, request); });
  });
}

void DeviceSession::CloseDrained(uint32_t id, rtrs::ServerRequest* request) {
  const auto closed = devices_->by_id.extract(id);
  const uint64_t number = closed.mapped().number;
  Close(&closed.mapped().opened);
  slots_.FreeId(id);
  if (observer_ != nullptr) observer_->OnDeviceClosed(number);
  CompleteOnItsThread(request, 0);
}

uint64_t DeviceSession::TellOpened(uint32_t id, const OpenRequest& open, const OpenedDevice& opened,
                                   const std::shared_ptr<RateLimit>& limit) {
  if (observer_ == nullptr) return 0;
  OpenDeviceFacts facts = {name_, open.dev_name, open.access_mode, opened.read_only, opened.name};
  facts.in_flight = [self = self_, id]() -> std::vector<InFlightRequest> {
    absl::MutexLock lock(&self->mutex);
    if (self->session == nullptr) return {};
    return self->session->watch_.InFlight(id, Ring::coarse_now_ns());
  };
  const auto command = [this, id](void (DeviceSession::*run)(uint32_t, DeviceObserver::Done)) {
    return [self = self_, thread = device_thread_, id, run](DeviceObserver::Done done) {
      thread->Post([self, id, run, done = std::move(done)] {
        absl::MutexLock lock(&self->mutex);
        if (self->session == nullptr) return done(ErrnoToStatus(ENODEV, "the session is gone"));
        (self->session->*run)(id, done);
      });
    };
  };
  return observer_->OnDeviceOpened(facts, {.force_close = command(&DeviceSession::BeginForceClose),
                                           .resize = command(&DeviceSession::LookAtOne),
                                           .limit = limit});
}

// The id is not given out again: the client does not know that it means nothing any more.
void DeviceSession::BeginForceClose(uint32_t id, DeviceObserver::Done done) {
  const auto found = devices_->by_id.find(id);
  if (found == devices_->by_id.end()) return done(ErrnoToStatus(ENODEV, "close a device"));
  Device& device = found->second;
  if (std::exchange(device.closing, true)) return done(ErrnoToStatus(EALREADY, "close a device"));
  spdlog::warn("session {}: device {} is taken away by force", name_, device.name);
  device.force_closed = std::move(done);
  devices_->by_name.erase(device.name);
  device.throttled->CancelAll();
  slots_.Close(id, [self = self_, thread = device_thread_, id] {
    thread->Post([self, id] { EndForceClose(self, id); });
  });
}

// Closing a file may take long, and the session's end is not to wait for it.
void DeviceSession::EndForceClose(const std::shared_ptr<Self>& self, uint32_t id) {
  std::map<uint32_t, Device>::node_type closed;
  DeviceObserver* observer = nullptr;
  {
    absl::MutexLock lock(&self->mutex);
    if (self->session == nullptr) return;  // its end does the rest
    closed = self->session->devices_->by_id.extract(id);
    observer = self->session->observer_;
  }
  Device& device = closed.mapped();
  Close(&device.opened);
  observer->OnDeviceClosed(device.number);
  device.force_closed(absl::OkStatus());
}

}  // namespace rnbd::server
