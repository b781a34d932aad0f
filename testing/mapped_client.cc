#include "testing/mapped_client.h"

#include <cerrno>
#include <utility>

#include "common/status.h"
#include "gtest/gtest.h"

namespace rnbd::testing {

using client::BlockOperation;
using client::MappedSession;
using client::RemoteDevice;
using client::UnalignedIo;

void TestBlockRequest::OnDone(int error) {
  EXPECT_FALSE(done()) << "a request was done twice";
  error_ = error;
  if (then) then(error);
  done_.Notify();
}

int TestBlockRequest::Wait(absl::Duration limit) {
  if (done_.WaitForNotificationWithTimeout(limit)) return error_;
  ADD_FAILURE() << "a request is not done";
  return -1;
}

config::ClientSessionConfig TestSessionConfig(const rtrs::PathAddress& path,
                                              const std::vector<std::string>& devices) {
  config::ClientSessionConfig config;
  config.name = "blya";
  config.paths = {path};
  config.settings.heartbeat = {absl::Milliseconds(700), absl::Seconds(5)};
  config.settings.connect_timeout = rtrs::kPatience;
  config.settings.reconnect_min = absl::Milliseconds(5);
  config.settings.reconnect_max = absl::Milliseconds(40);
  for (const std::string& name : devices) {
    config::ClientDeviceConfig device;
    device.path = name;
    device.name = name;
    device.io_hold = absl::ZeroDuration();
    config.devices.push_back(device);
  }
  return config;
}

MappedClient::MappedClient(rtrs::Fabric* fabric, const config::ClientSessionConfig& config,
                           size_t workers, size_t memory_bytes)
    : config_(config), threads_("client", workers) {
  memory_ = *UniqueMapping::Anonymous(memory_bytes);
  bounce_ = *UniqueMapping::Anonymous(workers * UnalignedIo::kBounceBytes);
  MappedSession::Environment environment;
  environment.fabric = fabric;
  environment.control = threads_.control()->ring();
  environment.workers = threads_.workers();
  for (size_t i = 0; i < workers; ++i) {
    unaligned_.push_back(
        std::make_unique<UnalignedIo>(i, bounce_.data() + i * UnalignedIo::kBounceBytes));
    environment.unaligned.push_back(unaligned_.back().get());
  }
  environment.memory = {memory_.span(), bounce_.span()};
  MappedSession::Observer* observer = this;
  auto session = MappedSession::Create(config_, environment, observer);
  EXPECT_TRUE(session.ok()) << session.status();
  session_ = *std::move(session);
}

MappedClient::~MappedClient() {
  if (closed_ == nullptr) BeginClose();
  EXPECT_NE(StatusToErrno(WaitClosed()), EBUSY) << "the session does not close";
  threads_.Settle();
}

RemoteDevice* MappedClient::Restore(const std::string& name, const client::DeviceFacts& facts) {
  RemoteDevice* device = session_->Restore(name, facts);
  absl::MutexLock lock(&mutex_);
  records_[name].device = device;
  return device;
}

void MappedClient::Start() {
  threads_.control()->RunAndWait([&] { session_->Start(); });
}

void MappedClient::BeginClose(absl::Duration bound) {
  closed_ = std::make_unique<absl::Notification>();
  threads_.control()->RunAndWait([&] {
    session_->Close(bound, [this](const absl::Status& status) {
      session_.reset();
      close_status_ = status;
      closed_->Notify();
    });
  });
}

absl::Status MappedClient::WaitClosed(absl::Duration limit) {
  if (closed_->WaitForNotificationWithTimeout(limit)) return close_status_;
  return ErrnoToStatus(EBUSY, "not closed yet");
}

absl::Status MappedClient::Close(absl::Duration bound) {
  BeginClose(bound);
  return WaitClosed();
}

bool MappedClient::WaitFor(const std::string& name,
                           const std::function<bool(const Record&)>& condition,
                           absl::Duration limit) {
  absl::MutexLock lock(&mutex_);
  auto holds = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return condition(records_[name]); };
  return mutex_.AwaitWithTimeout(absl::Condition(&holds), limit);
}

RemoteDevice* MappedClient::WaitOpen(const std::string& name, absl::Duration limit) {
  if (!WaitFor(
          name, [](const Record& record) { return record.device != nullptr; }, limit)) {
    ADD_FAILURE() << "device " << name << " does not open";
  }
  absl::MutexLock lock(&mutex_);
  return records_[name].device;
}

absl::Status MappedClient::WaitFailed(const std::string& name, absl::Duration limit) {
  if (!WaitFor(
          name, [](const Record& record) { return record.failed > 0; }, limit)) {
    ADD_FAILURE() << "device " << name << " does not fail";
  }
  absl::MutexLock lock(&mutex_);
  return records_[name].why;
}

bool MappedClient::WaitReopened(const std::string& name, int times, absl::Duration limit) {
  return WaitFor(
      name, [times](const Record& record) { return record.reopened >= times; }, limit);
}

int MappedClient::opened(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  return records_[name].opened;
}

int MappedClient::failed(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  return records_[name].failed;
}

int MappedClient::reopened(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  return records_[name].reopened;
}

int MappedClient::grown(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  return records_[name].grown;
}

void MappedClient::OnDeviceOpen(RemoteDevice* device) {
  absl::MutexLock lock(&mutex_);
  Record& record = records_[device->name()];
  ++record.opened;
  record.device = device;
}

void MappedClient::OnDeviceFailed(const std::string& session,
                                  const config::ClientDeviceConfig& device,
                                  const absl::Status& why) {
  EXPECT_EQ(session, config_.name);
  absl::MutexLock lock(&mutex_);
  Record& record = records_[device.name];
  ++record.failed;
  record.why = why;
}

void MappedClient::OnDeviceReopened(RemoteDevice* device) {
  absl::MutexLock lock(&mutex_);
  ++records_[device->name()].reopened;
}

void MappedClient::OnDeviceGrown(RemoteDevice* device) {
  absl::MutexLock lock(&mutex_);
  ++records_[device->name()].grown;
}

void MappedClient::Submit(size_t worker, RemoteDevice* device, client::BlockRequest* request) {
  threads_.workers()[worker]->Post([worker, device, request] { device->Submit(worker, request); });
}

int MappedClient::Run(RemoteDevice* device, TestBlockRequest* request, size_t worker) {
  Submit(worker, device, request);
  return request->Wait();
}

int MappedClient::Read(RemoteDevice* device, uint64_t offset, absl::Span<uint8_t> data,
                       size_t worker) {
  TestBlockRequest request;
  request.operation = BlockOperation::kRead;
  request.offset = offset;
  request.length = data.size();
  request.span_count = 1;
  request.spans[0] = {data.data(), static_cast<uint32_t>(data.size())};
  return Run(device, &request, worker);
}

int MappedClient::Write(RemoteDevice* device, uint64_t offset, absl::Span<uint8_t> data, bool fua,
                        size_t worker) {
  TestBlockRequest request;
  request.operation = BlockOperation::kWrite;
  request.fua = fua;
  request.offset = offset;
  request.length = data.size();
  request.span_count = 1;
  request.spans[0] = {data.data(), static_cast<uint32_t>(data.size())};
  return Run(device, &request, worker);
}

int MappedClient::Flush(RemoteDevice* device, size_t worker) {
  TestBlockRequest request;
  request.operation = BlockOperation::kFlush;
  return Run(device, &request, worker);
}

int MappedClient::Discard(RemoteDevice* device, uint64_t offset, uint64_t length, size_t worker) {
  TestBlockRequest request;
  request.operation = BlockOperation::kDiscard;
  request.offset = offset;
  request.length = length;
  return Run(device, &request, worker);
}

int MappedClient::WriteZeroes(RemoteDevice* device, uint64_t offset, uint64_t length, bool no_unmap,
                              size_t worker) {
  TestBlockRequest request;
  request.operation = BlockOperation::kWriteZeroes;
  request.no_unmap = no_unmap;
  request.offset = offset;
  request.length = length;
  return Run(device, &request, worker);
}

}  // namespace rnbd::testing
