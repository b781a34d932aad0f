#include "testing/fabric_harness.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "common/status.h"
#include "gtest/gtest.h"
#include "rtrs/features.h"

namespace rnbd::rtrs {

std::vector<uint8_t> PrivateData(absl::string_view text) {
  std::vector<uint8_t> data(text.begin(), text.end());
  data.resize(kPrivateDataBytes);
  return WithFeatures(std::move(data));
}

std::vector<uint8_t> WithFeatures(std::vector<uint8_t> private_data) {
  const Extension ours = Extension::Ours();
  std::memcpy(private_data.data() + kExtensionOffset, &ours, sizeof(ours));
  return private_data;
}

std::vector<uint8_t> Pattern(size_t bytes, uint64_t seed) {
  std::vector<uint8_t> data(bytes);
  uint64_t state = seed * 0x9E3779B97F4A7C15 + 1;
  for (size_t i = 0; i < bytes; ++i) {
    if (i % 8 == 0) state = state * 6364136223846793005 + 1442695040888963407;
    data[i] = static_cast<uint8_t>(state >> (8 * (i % 8)));
  }
  return data;
}

testing::AssertionResult SameBytes(absl::Span<const uint8_t> actual,
                                   absl::Span<const uint8_t> expected) {
  if (actual.size() != expected.size()) {
    return testing::AssertionFailure() << actual.size() << " bytes, expected " << expected.size();
  }
  if (actual.empty() || std::memcmp(actual.data(), expected.data(), actual.size()) == 0) {
    return testing::AssertionSuccess();
  }
  const auto [at, wanted] = std::mismatch(actual.begin(), actual.end(), expected.begin());
  return testing::AssertionFailure()
         << "byte " << at - actual.begin() << " is " << int{*at} << ", expected " << int{*wanted};
}

testing::AssertionResult AllBytesAre(uint8_t value, absl::Span<const uint8_t> actual) {
  return SameBytes(actual, std::vector<uint8_t>(actual.size(), value));
}

void RunOn(RingThread* thread, const std::function<void()>& task) {
  if (thread->ring()->OnOwnThread()) {
    task();
  } else {
    thread->RunAndWait(task);
  }
}

std::unique_ptr<RingThread> StartRingThread(const std::string& name) {
  absl::StatusOr<std::unique_ptr<RingThread>> thread = RingThread::Start(name, {});
  EXPECT_TRUE(thread.ok()) << thread.status();
  return *std::move(thread);
}

FabricEnd::FabricEnd(RingThread* thread, const EndOptions& options)
    : thread_(thread),
      options_(options),
      source_(options.source_bytes),
      receive_buffers_(options.receives) {
  for (std::vector<uint8_t>& buffer : receive_buffers_) buffer.resize(options.receive_bytes);
  // Devices let only whole pages begin at an address of one's choice.
  if (options.window_bytes > 0) window_ = *UniqueMapping::Anonymous(options.window_bytes);
}

FabricEnd::~FabricEnd() {
  if (started_) {
    Disconnect(ESHUTDOWN, "end of the test");
    EXPECT_TRUE(WaitUntilDown()) << "a connection does not end";
  }
  connection_.reset();
}

void FabricEnd::TakeDomain(absl::StatusOr<std::unique_ptr<Domain>> domain) {
  ASSERT_TRUE(domain.ok()) << domain.status();
  own_domain_ = *std::move(domain);
  domain_ = own_domain_.get();
}

void FabricEnd::CreateFor(Fabric* fabric, const PathAddress& path, Domain* domain) {
  domain_ = domain;
  if (domain == nullptr) TakeDomain(fabric->CreateDomain(path));
  absl::StatusOr<std::unique_ptr<Connection>> connection =
      fabric->CreateConnection(thread_->ring(), path, domain_, options_.limits, this);
  ASSERT_TRUE(connection.ok()) << connection.status();
  connection_ = *std::move(connection);
  PostReceives();
}

void FabricEnd::CreateFor(IncomingConnection* incoming, Domain* domain) {
  domain_ = domain;
  if (domain == nullptr) TakeDomain(incoming->CreateDomain());
  absl::StatusOr<std::unique_ptr<Connection>> connection =
      incoming->CreateConnection(thread_->ring(), domain_, options_.limits, this);
  ASSERT_TRUE(connection.ok()) << connection.status();
  connection_ = *std::move(connection);
  PostReceives();
}

void FabricEnd::PostReceives() {
  for (std::vector<uint8_t>& buffer : receive_buffers_) {
    connection_->PostReceive(absl::MakeSpan(buffer), 1);
  }
  auto take = [this](absl::Span<uint8_t> memory, bool remote_write, Region* region) {
    if (memory.empty()) return;
    absl::StatusOr<Region> registered = domain_->Register(memory, remote_write);
    ASSERT_TRUE(registered.ok()) << registered.status();
    *region = *registered;
  };
  take(window(), true, &window_region_);
  take(absl::MakeSpan(source_), false, &source_region_);
}

void FabricEnd::Connect(absl::Span<const uint8_t> private_data, absl::Duration timeout) {
  started_ = true;
  Run([&] { connection_->Connect(private_data, timeout); });
}

void FabricEnd::Accept(absl::Span<const uint8_t> private_data) {
  started_ = true;
  Run([&] { connection_->Accept(private_data); });
}

void FabricEnd::Run(const std::function<void()>& task) { RunOn(thread_, task); }

void FabricEnd::Post(const WorkRequest& request) {
  Run([&] { connection_->Post(request); });
}

void FabricEnd::Disconnect(const absl::Status& reason) {
  // Not past the end: then the connection may be gone.
  Run([&] {
    if (!down()) connection_->Disconnect(reason);
  });
}

void FabricEnd::Disconnect(int error, absl::string_view what) {
  Disconnect(rnbd::ErrnoToStatus(error, what));
}

LocalSpan FabricEnd::SourceSpan(size_t offset, size_t length) const {
  EXPECT_LE(offset + length, source_.size());
  return {source_.data() + offset, static_cast<uint32_t>(length), source_region_.local_key};
}

WorkRequest FabricEnd::Request(Opcode opcode, size_t offset, size_t length,
                               uint32_t immediate) const {
  WorkRequest request;
  request.opcode = opcode;
  request.immediate = immediate;
  if (length > 0) request.spans[request.span_count++] = SourceSpan(offset, length);
  return request;
}

WorkRequest FabricEnd::WriteRequest(Opcode opcode, size_t offset, size_t length,
                                    const Region& window, uint64_t window_offset,
                                    uint32_t immediate) const {
  WorkRequest request = Request(opcode, offset, length, immediate);
  request.key = window.remote_key;
  request.remote_address = window.address + window_offset;
  return request;
}

bool FabricEnd::Wait(absl::Duration limit, const std::function<bool()>& condition) {
  EXPECT_FALSE(thread_->ring()->OnOwnThread()) << "waiting would stop the end's own thread";
  {
    absl::MutexLock lock(&mutex_);
    if (!mutex_.AwaitWithTimeout(absl::Condition(&condition, &std::function<bool()>::operator()),
                                 limit)) {
      return false;
    }
  }
  Run([] {});  // the callback has returned when the thread does something else
  return true;
}

bool FabricEnd::WaitUntilEstablished(absl::Duration limit) {
  return Wait(limit, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return established_ || down_; }) &&
         established();
}

bool FabricEnd::WaitUntilDown(absl::Duration limit) {
  return Wait(limit, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return down_; });
}

bool FabricEnd::WaitForMessages(size_t count, absl::Duration limit) {
  return Wait(limit,
              [this, count]()
                  ABSL_NO_THREAD_SAFETY_ANALYSIS { return messages_.size() >= count || down_; }) &&
         message_count() >= count;
}

bool FabricEnd::WaitForSent(size_t count, absl::Duration limit) {
  return Wait(limit,
              [this, count]()
                  ABSL_NO_THREAD_SAFETY_ANALYSIS { return sent_.size() >= count || down_; }) &&
         sent().size() >= count;
}

bool FabricEnd::established() const {
  absl::MutexLock lock(&mutex_);
  return established_;
}

bool FabricEnd::down() const {
  absl::MutexLock lock(&mutex_);
  return down_;
}

std::vector<uint8_t> FabricEnd::established_with() const {
  absl::MutexLock lock(&mutex_);
  return established_with_;
}

std::vector<uint8_t> FabricEnd::disconnected_with() const {
  absl::MutexLock lock(&mutex_);
  return disconnected_with_;
}

absl::Status FabricEnd::why() const {
  absl::MutexLock lock(&mutex_);
  return why_;
}

int FabricEnd::error() const { return StatusToErrno(why()); }

std::vector<FabricEnd::Message> FabricEnd::messages() const {
  absl::MutexLock lock(&mutex_);
  return messages_;
}

size_t FabricEnd::message_count() const {
  absl::MutexLock lock(&mutex_);
  return messages_.size();
}

std::vector<uint64_t> FabricEnd::sent() const {
  absl::MutexLock lock(&mutex_);
  return sent_;
}

void FabricEnd::CheckCallback() const {
  EXPECT_TRUE(thread_->ring()->OnOwnThread()) << "a callback on a foreign thread";
  EXPECT_FALSE(down_) << "a callback after the last one";
}

void FabricEnd::OnEstablished(absl::Span<const uint8_t> private_data) {
  {
    absl::MutexLock lock(&mutex_);
    CheckCallback();
    EXPECT_FALSE(established_) << "established twice";
    established_ = true;
    established_with_.assign(private_data.begin(), private_data.end());
  }
  if (on_established) on_established();
}

void FabricEnd::OnReceipt(const Receipt& receipt) {
  {
    absl::MutexLock lock(&mutex_);
    CheckCallback();
    EXPECT_TRUE(established_) << "a message before the connection was established";
    Message message;
    message.data.assign(receipt.data.begin(), receipt.data.end());
    if (receipt.has_immediate) message.immediate = receipt.immediate;
    if (receipt.has_invalidated) message.invalidated_key = receipt.invalidated_key;
    messages_.push_back(std::move(message));
  }
  if (options_.post_again && !receive_buffers_.empty()) {
    connection_->PostReceive(absl::MakeSpan(receive_buffers_[next_receive_]), 1);
    next_receive_ = (next_receive_ + 1) % receive_buffers_.size();
  }
  if (on_receipt) on_receipt(receipt);
}

void FabricEnd::OnSent(uint64_t id) {
  {
    absl::MutexLock lock(&mutex_);
    CheckCallback();
    EXPECT_TRUE(established_) << "sent before the connection was established";
    sent_.push_back(id);
  }
  if (on_sent) on_sent(id);
}

void FabricEnd::OnDisconnected(const absl::Status& why, absl::Span<const uint8_t> private_data) {
  if (on_disconnected) on_disconnected();
  absl::MutexLock lock(&mutex_);
  CheckCallback();
  EXPECT_FALSE(why.ok()) << "a connection that ended for no reason";
  why_ = why;
  disconnected_with_.assign(private_data.begin(), private_data.end());
  down_ = true;
}

absl::Status FabricAcceptor::Listen(Fabric* fabric, const Address& address) {
  absl::Status status;
  RunOn(thread_, [&] {
    absl::StatusOr<std::unique_ptr<Listener>> listener =
        fabric->Listen(thread_->ring(), address, this);
    status = listener.status();
    if (listener.ok()) listener_ = *std::move(listener);
  });
  if (listener_ != nullptr) address_ = listener_->address();
  return status;
}

absl::Status FabricAcceptor::ListenAgain(Fabric* fabric) {
  absl::Status status;
  RunOn(thread_, [&] {
    listener_.reset();
    status = Listen(fabric, address_);
  });
  return status;
}

void FabricAcceptor::Close() {
  RunOn(thread_, [this] { listener_.reset(); });
}

void FabricAcceptor::OnIncoming(std::unique_ptr<IncomingConnection> incoming) {
  EXPECT_TRUE(thread_->ring()->OnOwnThread());
  if (on_incoming) {
    on_incoming(std::move(incoming));
    return;
  }
  absl::MutexLock lock(&mutex_);
  waiting_.push_back(std::move(incoming));
}

std::unique_ptr<IncomingConnection> FabricAcceptor::Next(absl::Duration limit) {
  absl::MutexLock lock(&mutex_);
  auto there = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !waiting_.empty(); };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&there), limit)) return nullptr;
  std::unique_ptr<IncomingConnection> first = std::move(waiting_.front());
  waiting_.erase(waiting_.begin());
  return first;
}

void ConnectEnds(Fabric* client_fabric, FabricAcceptor* acceptor, FabricEnd* client,
                 FabricEnd* server) {
  client->CreateFor(client_fabric, PathAddress{.source = {}, .destination = acceptor->address()});
  client->Connect(PrivateData("client"));
  std::unique_ptr<IncomingConnection> incoming = acceptor->Next();
  ASSERT_NE(incoming, nullptr) << client->why();
  server->CreateFor(incoming.get());
  server->Accept(PrivateData("server"));
  ASSERT_TRUE(client->WaitUntilEstablished()) << client->why();
  ASSERT_TRUE(server->WaitUntilEstablished()) << server->why();
}

}  // namespace rnbd::rtrs
