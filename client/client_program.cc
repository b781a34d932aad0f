#include "client/client_program.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "client/device_table.h"
#include "client/gathered_status.h"
#include "client/loop_helper.h"
#include "client/memory_pressure.h"
#include "client/state_file.h"
#include "common/logging.h"
#include "common/process.h"
#include "common/status.h"

namespace rnbd::client {
namespace {

// How often a start that waits for servers asks whether to give up.
constexpr absl::Duration kGiveUpInterval = absl::Milliseconds(100);
// How long a mount may stay busy because the kernel has not put away the files of loop devices yet.
constexpr absl::Duration kUnmountPatience = absl::Milliseconds(500);
constexpr absl::Duration kUnmountInterval = absl::Milliseconds(10);
constexpr absl::Duration kLoopWatchInterval = absl::Seconds(2);

void WarnIfFailed(const absl::Status& status) {
  if (!status.ok()) spdlog::warn("{}", status);
}

RequestMemory::Options MemorySizes(const config::ClientConfig& config) {
  RequestMemory::Options sizes;
  sizes.workers = static_cast<size_t>(config.workers);
  sizes.small_buffers = config.request_memory.small_buffers;
  sizes.large_buffers = config.request_memory.large_buffers;
  return sizes;
}

}  // namespace

std::vector<Ring*> ClientProgram::rings() const {
  std::vector<Ring*> rings = worker_rings_;
  rings.push_back(control_->ring());
  return rings;
}

size_t ClientProgram::MemoryBytes(const config::ClientConfig& config) {
  return RequestMemory::BytesFor(MemorySizes(config));
}

absl::StatusOr<ClientProgram::Mapping> ClientProgram::Map(const std::function<bool()>& give_up) {
  RETURN_IF_ERROR(ReadStateFile());
  if (control_ == nullptr) RETURN_IF_ERROR(StartThreads());
  // Processes that take over have the same reasons.
  for (const absl::Status& missing : missing_privileges_) spdlog::warn("{}", missing);
  RETURN_IF_ERROR(CreateSessions());
  StartSessions();
  absl::MutexLock lock(&mutex_);
  while (!mutex_.AwaitWithTimeout(absl::Condition(this, &ClientProgram::AllReported),
                                  kGiveUpInterval)) {
    if (give_up()) {
      return absl::CancelledError(
          "interrupted before each device was open or had failed; nothing is mounted");
    }
  }
  Mapping mapping;
  mapping.open = open_.size();
  for (const auto& [name, failure] : failures_) mapping.failures.push_back(failure);
  return mapping;
}

absl::Status ClientProgram::ReadStateFile() {
  std::string text;
  if (!state_file_.empty()) {
    ASSIGN_OR_RETURN(text, client::ReadStateFile(state_file_));
  }
  const absl::StatusOr<config::ClientChanges> changes = config::ParseChanges(text, state_file_);
  if (!changes.ok()) {
    return Annotate(changes.status(), "what was changed at run time (--no-state leaves it out)");
  }
  Configure(*changes);
  return state_->SetChanges(text);
}

void ClientProgram::Configure(const config::ClientChanges& changes) {
  std::vector<std::string> left_out;
  now_ = config::ApplyChanges(config_, changes, &left_out);
  for (const std::string& sentence : left_out) spdlog::warn("{}", sentence);
  journal_ = std::make_unique<MountJournal>(now_, state_);
}

void ClientProgram::StartSessions() {
  control_->ring()->Post([this] { mappings_->Start(); });
}

absl::StatusOr<size_t> ClientProgram::TakeOver(
    UniqueFd fuse, std::function<void(const absl::Status&)> on_unmounted) {
  ASSIGN_OR_RETURN(const MountState::Contents contents, state_->Read());
  const absl::StatusOr<config::ClientChanges> changes =
      config::ParseChanges(contents.changes, "the state of the mount");
  WarnIfFailed(changes.status());
  Configure(changes.value_or(config::ClientChanges{}));
  if (control_ == nullptr) RETURN_IF_ERROR(StartThreads());
  RETURN_IF_ERROR(CreateSessions());
  mount_ = Mount::Adopt(contents.mount_point, contents.mount_id, std::move(fuse));
  RETURN_IF_ERROR(CreateFuse(std::move(on_unmounted)));
  RETURN_IF_ERROR(
      fuse_->TakeOver(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(contents.init.data()),
                                          contents.init.size()),
                      contents.last_inode));
  size_t files = 0;
  for (const MountState::Device& shown : contents.devices) {
    RemoteDevice* device = RestoreDevice(shown);
    if (device == nullptr) continue;
    RETURN_IF_ERROR(RestoreFile(device, shown));
    ++files;
  }
  RETURN_IF_ERROR(ShowOpenDevices());  // none yet
  StartSessions();
  // What was drained need not come again, so that kernels which cannot send again do as well.
  if (!contents.drained) RETURN_IF_ERROR(fuse_->Resend());
  RETURN_IF_ERROR(state_->SetDrained(false));
  RETURN_IF_ERROR(state_->CountTakeover());
  control_->ring()->Post([this] { CreateLoops(); });
  fuse_->Start();
  RegisterMetrics(contents.takeovers + 1);
  if (metrics_port_ != nullptr) {
    tree_thread_->ring()->Post([this] { metrics_port_->OpenWhenFree(); });
  }
  if (changes.ok()) KeepWhatIsLeftOf(contents.changes);
  control_->ring()->Post([this] { AttachLoops([](const absl::Status&) {}); });
  return files;
}

// What the file says by now was not changed at run time any more: when the file says something else
// later, that counts.
void ClientProgram::KeepWhatIsLeftOf(const std::string& changes) {
  const std::string left = config::WriteChanges(config::Difference(config_, now_));
  if (left == changes) return;
  control_->ring()->Post([this, left] { Keep(left, [](const absl::Status&) {}); });
}

// nullptr where the configuration does not have it any more.
RemoteDevice* ClientProgram::RestoreDevice(const MountState::Device& shown) {
  if (journal_->IsConfigured(shown)) {
    const DeviceFacts facts = {shown.size, shown.logical_block_size, shown.physical_block_size,
                               shown.identity};
    return mappings_->Restore(shown.session, shown.name, facts);
  }
  spdlog::warn("device {} (session {}, {}) is not configured any more; its file is gone",
               shown.name, shown.session, shown.path);
  WarnIfFailed(state_->RemoveDevice(DeviceTable::SlotOf(shown.inode)));
  return nullptr;
}

absl::Status ClientProgram::RestoreFile(RemoteDevice* device, const MountState::Device& shown) {
  journal_->SetIdentity(shown.name, shown.identity);
  Filesystem::FileFacts file;
  file.inode = shown.inode;
  file.device = device;
  file.mode = shown.mode;
  file.owner = shown.owner;
  file.group = shown.group;
  file.accessed = shown.accessed;
  file.modified = shown.modified;
  file.changed = shown.changed;
  file.handles.insert(shown.handles.begin(), shown.handles.end());
  first_files_.push_back(device->name());
  return Annotate(fuse_->filesystem()->RestoreDevice(device, file),
                  absl::StrCat("show device ", device->name(), " again"));
}

// Measured: 1.5 MiB for each worker and 0.9 MiB for a session with three devices.
absl::Status ClientProgram::Prepare() {
  const auto workers = static_cast<size_t>(config_.workers);
  const size_t sessions = config_.sessions.size();
  ReserveHeap((2 + workers + sessions) << 20);
  RETURN_IF_ERROR(UniqueMapping::Reserve((1 + 2 * workers + sessions) << 20));
  return StartThreads();
}

absl::Status ClientProgram::StartThreads() {
  const auto workers = static_cast<size_t>(config_.workers);
  NotePrivilege(BecomeIoFlusher());
  ASSIGN_OR_RETURN(memory_,
                   RequestMemory::CreateIn(std::move(given_memory_), MemorySizes(config_)));
  ASSIGN_OR_RETURN(bounce_, UniqueMapping::Anonymous(workers * UnalignedIo::kBounceBytes));
  rtrs::StreamOptions stream;
  stream.payload_checksum = config_.payload_checksum;
  rtrs::VerbsOptions verbs;
  verbs.poll = config_.rdma_poll;
  fabrics_ = std::make_unique<rtrs::AllFabrics>(stream, verbs);
  ASSIGN_OR_RETURN(control_, RingThread::Start("control", {}));
  for (size_t i = 0; i < workers; ++i) {
    Ring::Options options;
    options.poll = config_.worker_poll;
    ASSIGN_OR_RETURN(auto worker, RingThread::Start(absl::StrCat("worker-", i), options));
    worker_rings_.push_back(worker->ring());
    workers_.push_back(std::move(worker));
    unaligned_.push_back(
        std::make_unique<UnalignedIo>(i, bounce_.data() + i * UnalignedIo::kBounceBytes));
  }
  ASSIGN_OR_RETURN(tree_thread_, RingThread::Start("tree", {}));
  if (config_.metrics) metrics_ = std::make_unique<ClientMetrics>(workers);
  NotePrivilege(LockMemory());
  NotePrivilege(RefuseOomKill());
  return absl::OkStatus();
}

void ClientProgram::NotePrivilege(const absl::Status& used) {
  if (!used.ok()) missing_privileges_.push_back(used);
}

absl::Status ClientProgram::CreateSessions() {
  MappedSession::Environment environment;
  environment.fabric = fabrics_.get();
  environment.control = control_->ring();
  environment.workers = worker_rings_;
  for (const auto& unaligned : unaligned_) environment.unaligned.push_back(unaligned.get());
  environment.memory = {memory_->span(), bounce_.span()};
  Mappings::Host* host = this;
  MappedSession::Observer* observer = this;
  mappings_ = std::make_unique<Mappings>(config_, now_, host, observer);
  attributes_ = std::make_unique<AttributeTree>(
      [this](std::function<void()> task) { control_->ring()->Post(std::move(task)); });
  control_tree_ = std::make_unique<ControlTree>(mappings_.get(), attributes_.get());
  RETURN_IF_ERROR(mappings_->Create(environment));
  size_t devices = 0;
  for (const config::ClientSessionConfig& session : now_.sessions) {
    devices += session.devices.size();
  }
  absl::MutexLock lock(&mutex_);
  expected_ = devices;
  return absl::OkStatus();
}

// On the control thread.
void ClientProgram::OnDeviceOpen(RemoteDevice* device) {
  journal_->SetIdentity(device->name(), device->facts().identity);
  absl::MutexLock lock(&mutex_);
  open_.push_back(device);
  failures_.erase(device->name());
  reported_.insert(device->name());
  if (mounted_) {
    tree_thread_->ring()->Post([this, device] {
      WarnIfFailed(ShowDevice(device));
      control_->ring()->Post([this, name = device->name()] { AttachLoop(name, WarnIfFailed); });
    });
  }
  control_->ring()->Post([this] { OnChanged(); });
}

void ClientProgram::OnDeviceFailed(const std::string& session,
                                   const config::ClientDeviceConfig& device,
                                   const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  reported_.insert(device.name);
  failures_[device.name] = absl::StrCat("device ", device.name, " (session ", session, ", ",
                                        device.path, "): ", why.message());
}

void ClientProgram::OnDeviceReopened(RemoteDevice* device) {
  // While the next FLUSH may still have to fail, the identity from before is what makes the next
  // process fail it too.
  if (!device->has_unflushed_writes()) {
    journal_->SetIdentity(device->name(), device->facts().identity);
  }
  OnResized(device->name());
}

void ClientProgram::OnLossTold(RemoteDevice* device) {
  journal_->SetIdentity(device->name(), device->facts().identity);
}

// False where nothing is shown: not yet, or not any more.
bool ClientProgram::PostToTree(std::function<void()> task) {
  absl::MutexLock lock(&mutex_);
  if (mounted_) tree_thread_->ring()->Post(std::move(task));
  return mounted_;
}

// Runs `task` where it may wait, and tells its end on the control thread.
void ClientProgram::OnTree(std::function<absl::Status()> task, Mappings::Done done) {
  const bool posted = PostToTree([this, task = std::move(task), done] {
    control_->ring()->Post([done, status = task()] { done(status); });
  });
  if (!posted) done(ErrnoToStatus(ESHUTDOWN, "the program ends"));
}

void ClientProgram::ShowFile(const std::string& session, const config::ClientDeviceConfig& config,
                             RemoteDevice* device, Mappings::Done done) {
  journal_->SetSource(session, config);
  journal_->SetIdentity(device->name(), device->facts().identity);
  OnTree([this, device] { return ShowDevice(device); }, std::move(done));
}

void ClientProgram::HideFile(const std::string& name, Mappings::Done done) {
  const bool posted = PostToTree([this, name, done] {
    const absl::Status hidden = fuse_->filesystem()->RemoveDevice(
        name, [this, done] { control_->ring()->Post([done] { done(absl::OkStatus()); }); });
    if (!hidden.ok()) control_->ring()->Post([done, hidden] { done(hidden); });
  });
  if (!posted) done(ErrnoToStatus(ESHUTDOWN, "the program ends"));
}

void ClientProgram::OnResized(const std::string& name) {
  OnTree([this, name] { return fuse_->filesystem()->OnResized(name); },
         [this, name](const absl::Status& resized) {
           WarnIfFailed(resized);
           MappedSession* const session =
               mappings_ == nullptr ? nullptr : mappings_->SessionOf(name);
           if (session == nullptr || loops_ == nullptr) return;
           loops_->OnResized(name, session->Find(name)->remote->size());
         });
}

// In memory for the next process, in the file for the next start: both of them, or nobody is told
// that it is done.
void ClientProgram::Keep(const std::string& changes, Mappings::Done done) {
  WarnIfFailed(state_->SetChanges(changes));
  if (state_file_.empty()) return done(absl::OkStatus());
  OnTree(
      [path = state_file_, changes] {
        WarnIfFailed(WriteStateFile(path, changes));
        return absl::OkStatus();
      },
      std::move(done));
}

void ClientProgram::OnChanged() {
  if (control_tree_ != nullptr) control_tree_->Refresh();
}

absl::Status ClientProgram::ShowDevice(RemoteDevice* device) {
  return Annotate(fuse_->filesystem()->AddDevice(device),
                  absl::StrCat("show device ", device->name()));
}

absl::Status ClientProgram::MountDevices(const std::string& mount_point, bool allow_other,
                                         const std::function<void(int)>& on_mounted,
                                         std::function<void(const absl::Status&)> on_unmounted) {
  Mount::Options mount_options;
  mount_options.mount_point = mount_point;
  mount_options.allow_other = allow_other;
  ASSIGN_OR_RETURN(mount_, Mount::Create(mount_options));
  RETURN_IF_ERROR(state_->SetMount(mount_->mount_point(), mount_->id()));
  on_mounted(mount_->fuse());
  RETURN_IF_ERROR(CreateFuse(std::move(on_unmounted)));
  RegisterMetrics(/*takeovers=*/0);
  RETURN_IF_ERROR(OpenMetrics());
  RETURN_IF_ERROR(ShowOpenDevices());
  control_->ring()->Post([this] { CreateLoops(); });
  fuse_->Start();
  return absl::OkStatus();
}

// On the control thread, posted there before the first request of the mount can be: one that unmaps
// a device finds what may have to be detached.
void ClientProgram::CreateLoops() {
  LoopDevices::Options options;
  options.mount_point = mount_->mount_point();
  options.detach_bound = config_.drain_timeout;
  options.start_helper = [device = mount_->device()] { return StartLoopHelper(device); };
  options.open_count = [this](const std::string& name) {
    return fuse_->filesystem()->OpenCount(name);
  };
  loops_ = std::make_unique<LoopDevices>(control_->ring(), std::move(options));
  loop_watch_ = std::make_unique<LoopWatch>(mount_->mount_point());
  loop_watch_timer_ = std::make_unique<Ring::Timer>(control_->ring(), [this] { WatchLoops(); });
  loop_watch_timer_->Arm(kLoopWatchInterval);
}

// A loop device is configured a moment after its file was opened.
void ClientProgram::WatchLoops() {
  loop_watch_timer_->Arm(kLoopWatchInterval);
  const uint64_t opens = fuse_->filesystem()->opens();
  if (std::exchange(watched_opens_, opens) == opens) return;
  OnTree(
      [this] {
        for (const std::string& sentence : loop_watch_->Look()) spdlog::warn("{}", sentence);
        return absl::OkStatus();
      },
      [](const absl::Status&) {});
}

void ClientProgram::AttachLoop(const std::string& name, Mappings::Done done) {
  MappedSession* const session = mappings_ == nullptr ? nullptr : mappings_->SessionOf(name);
  if (session == nullptr || loops_ == nullptr) return done(ErrnoToStatus(ESHUTDOWN, name));
  const MappedSession::DeviceView device = *session->Find(name);
  if (device.config->loop == config::LoopAttach::kNo) return done(absl::OkStatus());
  LoopOptions options;
  options.block_size = std::max(kSectorSize, device.remote->logical_block_size());
  options.read_only = device.remote->access_mode() == AccessMode::kReadOnly;
  loops_->Attach(name, options, device.remote->size(),
                 [name, done = std::move(done)](const absl::Status& attached) {
                   done(Annotate(attached, absl::StrCat("device ", name)));
                 });
}

void ClientProgram::DetachLoop(const std::string& name, bool force, Mappings::Done done) {
  if (loops_ == nullptr) return done(ErrnoToStatus(ESHUTDOWN, name));
  loops_->Detach(name, force, std::move(done));
}

std::string ClientProgram::LoopOf(const std::string& name) const {
  return loops_ == nullptr ? std::string() : loops_->PathOf(name);
}

// Whoever asks does so through the mount, which is served until that is answered.
void ClientProgram::LookInFlight(const std::string& name, Mappings::InFlightDone done) {
  fuse_->LookInFlight(name, control_->ring(), std::move(done));
}

// Of the devices that had a file when the mount was first served. Others come with OnDeviceOpen().
void ClientProgram::AttachLoops(Mappings::Done done) {
  const auto gathered = std::make_shared<GatheredStatus>(std::move(done));
  for (const std::string& name : first_files_) {
    AttachLoop(name, [gathered](const absl::Status& attached) {
      WarnIfFailed(attached);
      gathered->Add(attached);
    });
  }
}

// Runs `task` on the control thread, and waits for its end.
absl::Status ClientProgram::OnControl(const std::function<void(Mappings::Done done)>& task) {
  absl::Status result;
  absl::Notification ended;
  control_->ring()->Post([&] {
    task([&](const absl::Status& status) {
      result = status;
      ended.Notify();
    });
  });
  ended.WaitForNotification();
  return result;
}

absl::Status ClientProgram::AwaitLoops() {
  return OnControl([this](Mappings::Done done) { AttachLoops(std::move(done)); });
}

absl::Status ClientProgram::DetachLoops(bool force, bool* any) {
  return OnControl([this, force, any](Mappings::Done done) {
    *any = loops_ != nullptr && loops_->any();
    if (!*any) return done(absl::OkStatus());
    loops_->DetachAll(force, std::move(done));
  });
}

absl::Status ClientProgram::Unmount() {
  bool had_loops = false;
  absl::Status unmounted = DetachLoops(/*force=*/false, &had_loops);
  if (unmounted.ok()) unmounted = UnmountSoon(had_loops ? kUnmountPatience : absl::ZeroDuration());
  if (unmounted.ok() || !had_loops) return unmounted;
  control_->ring()->Post([this] {
    if (loops_ != nullptr) loops_->AttachAgain();
  });
  return unmounted;
}

absl::Status ClientProgram::UnmountSoon(absl::Duration patience) {
  const absl::Time give_up = absl::Now() + patience;
  for (;;) {
    absl::Status unmounted = mount_->Unmount();
    if (StatusToErrno(unmounted) != EBUSY || absl::Now() >= give_up) return unmounted;
    absl::SleepFor(kUnmountInterval);
  }
}

absl::Status ClientProgram::Detach() {
  bool had_loops = false;
  WarnIfFailed(DetachLoops(/*force=*/true, &had_loops));
  return mount_->Detach();
}

absl::Status ClientProgram::CreateFuse(std::function<void(const absl::Status&)> on_unmounted) {
  FuseServer::Options options;
  options.requests_per_worker = std::max<size_t>(config_.queue_depth, 64);
  options.filesystem.owner = getuid();
  options.filesystem.group = getgid();
  options.filesystem.journal = journal_.get();
  options.filesystem.control = attributes_.get();
  options.metrics = metrics_.get();
  ASSIGN_OR_RETURN(fuse_, FuseServer::Create(options, mount_->TakeFuse(), memory_.get(),
                                             worker_rings_, std::move(on_unmounted)));
  return absl::OkStatus();
}

absl::Status ClientProgram::ShowOpenDevices() {
  std::vector<RemoteDevice*> shown;
  {
    absl::MutexLock lock(&mutex_);
    mounted_ = true;
    shown = open_;
  }
  for (RemoteDevice* device : shown) {
    RETURN_IF_ERROR(ShowDevice(device));
    first_files_.push_back(device->name());
  }
  return absl::OkStatus();
}

// Once there is a FuseServer. The port is the tree thread's, for whose memory nobody waits.
void ClientProgram::RegisterMetrics(uint64_t takeovers) {
  if (metrics_ == nullptr) return;
  metrics_->Register(
      [this, takeovers] {
        ClientMetrics::State state;
        state.takeovers = takeovers;
        state.request_memory = memory_->span().size();
        state.in_flight = fuse_->in_flight();
        AddMappings(*mappings_, &state);
        return state;
      },
      &metric_registry_);
  metrics_port_ = std::make_unique<MetricsPort>(*config_.metrics, tree_thread_->ring(), [this] {
    std::string text;
    control_->RunAndWait([&] { text = metric_registry_.Text(); });
    return text;
  });
}

absl::Status ClientProgram::OpenMetrics() {
  absl::Status opened;
  if (metrics_port_ == nullptr) return opened;
  tree_thread_->RunAndWait([&] { opened = metrics_port_->Open(); });
  return opened;
}

absl::Status ClientProgram::Stop() { return End(/*leave=*/false); }

absl::Status ClientProgram::Leave() { return End(/*leave=*/true); }

absl::Status ClientProgram::End(bool leave) {
  const absl::Time deadline = absl::Now() + config_.drain_timeout;
  {
    absl::MutexLock lock(&mutex_);
    mounted_ = false;
  }
  if (control_ != nullptr) {
    static_cast<void>(OnControl([this](Mappings::Done done) {
      loop_watch_timer_.reset();
      if (loops_ == nullptr) return done(absl::OkStatus());
      loops_->Close([this, done = std::move(done)] {
        control_->ring()->Post([this, done] {
          loops_.reset();
          done(absl::OkStatus());
        });
      });
    }));
  }
  // Somebody waits for each of its tasks.
  if (tree_thread_ != nullptr) tree_thread_->RunAndWait([this] { metrics_port_.reset(); });
  tree_thread_.reset();
  absl::Status result;
  // Half of the time for what applications wait for, the rest to make it durable and to take leave.
  if (fuse_ != nullptr) result = fuse_->Stop(config_.drain_timeout / 2);
  if (leave && mount_ != nullptr) mount_->LeaveToOthers();
  if (leave && fuse_ != nullptr) {
    result = result.ok() ? state_->SetDrained(true) : fuse_->Silence();
  }
  result.Update(CloseSessions(deadline));
  // Whatever was not answered has failed with its session.
  if (fuse_ != nullptr) result.Update(fuse_->Drain(absl::Seconds(1)));
  fuse_.reset();
  mount_.reset();
  if (control_ != nullptr) {
    control_->RunAndWait([this] {
      control_tree_.reset();
      mappings_.reset();
    });
  }
  return result;
}

absl::Status ClientProgram::CloseSessions(absl::Time deadline) {
  if (control_ == nullptr || mappings_ == nullptr) return absl::OkStatus();
  absl::Status result;
  absl::Notification closed;
  control_->RunAndWait([&] {
    mappings_->CloseAll(std::max(deadline - absl::Now(), absl::Milliseconds(100)),
                        [&](const absl::Status& status) {
                          result = status;
                          closed.Notify();
                        });
  });
  closed.WaitForNotification();
  return result;
}

}  // namespace rnbd::client
