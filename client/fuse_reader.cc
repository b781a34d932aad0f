#include "client/fuse_reader.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#include <cassert>
#include <cerrno>
#include <utility>

#include "common/status.h"

namespace rnbd::client {
namespace {

// In one turn; what is then submitted goes out together, and completions wait no longer than this.
constexpr int kRequestsPerTurn = 32;
// Of data that is written. What was copied from the kernel goes to the socket while the processor's
// caches still hold it, and other workers find requests left to read.
constexpr uint64_t kBytesPerTurn = 256 << 10;

// Work that another worker is called for: a request whose copy takes longer than a wake-up, or more
// requests in flight than one worker handles well.
constexpr uint32_t kLargeBytes = 64 << 10;
constexpr size_t kManyInFlight = 128;

// How long a called worker stays after the last such work, so that it is not called all the time.
constexpr int64_t kStayNs = 50'000'000;

uint32_t DataBytes(const FuseMessage& message) {
  if (message.opcode() == FUSE_READ) return message.head->read.size;
  return static_cast<uint32_t>(message.payload());
}

}  // namespace

void FuseReaders::Invite() {
  for (FuseReader* reader : readers_) {
    if (!reader->resting_.exchange(false)) continue;
    resting_.fetch_sub(1, std::memory_order_relaxed);
    reader->ring_->Post([reader] { reader->Join(); });
    return;
  }
}

void FuseReaders::LeaveToOthers(const FuseReader* starved) {
  for (FuseReader* reader : readers_) {
    if (reader == starved) continue;
    if (reader->resting_.exchange(false)) resting_.fetch_sub(1, std::memory_order_relaxed);
    reader->ring_->Post([reader] { reader->Join(); });
  }
}

FuseReader::FuseReader(FuseReaders* readers, Ring* ring, BufferPool* buffers, FuseHandler* handler)
    : readers_(readers), ring_(ring), buffers_(buffers), handler_(handler) {
  message_.head = &head_;
  readers_->readers_.push_back(this);
}

FuseReader::~FuseReader() {
  assert(!poll_armed_);
  if (message_.small != nullptr) buffers_->small.Return(message_.small);
  if (message_.large != nullptr) buffers_->large.Return(message_.large);
}

void FuseReader::Start() {
  assert(state_ == State::kNew);
  state_ = State::kReading;
  Read();
}

void FuseReader::Resume() {
  if (state_ != State::kStarved) return;
  state_ = State::kReading;
  Read();
}

void FuseReader::Join() {
  if (state_ != State::kPolling && state_ != State::kResting) return;
  stay_until_ns_ = ring_->now_ns() + kStayNs;
  state_ = State::kReading;
  Read();
}

void FuseReader::Stop(std::function<void()> stopped) {
  state_ = State::kEnded;
  stopped_ = std::move(stopped);
  ring_->Unregister(&read_);
  if (poll_armed_) return ring_->Cancel(&poll_);
  FinishStop();
}

void FuseReader::FinishStop() {
  if (stopped_ != nullptr) std::exchange(stopped_, nullptr)();
}

bool FuseReader::TakeLanding() {
  if (message_.small == nullptr) message_.small = buffers_->small.Take();
  if (message_.large == nullptr) message_.large = buffers_->large.Take();
  return message_.small != nullptr && message_.large != nullptr;
}

void FuseReader::Read() {
  uint64_t taken = 0;
  for (int i = 0; i < kRequestsPerTurn && taken < kBytesPerTurn; ++i) {
    if (!TakeLanding() || !handler_->HasRoom()) return Starve();
    const iovec landing[] = {{&head_, sizeof(head_)},
                             {message_.small, RequestMemory::kSmallBytes},
                             {message_.large, RequestMemory::kLargeBytes}};
    const ssize_t bytes = readv(readers_->fd(), landing, 3);
    if (bytes < 0) {
      if (errno == EAGAIN) return Wait();
      if (errno == EINTR || errno == ENOENT) continue;  // ENOENT: that request was taken back
      if (errno == ENODEV) return End(absl::OkStatus());
      return End(ErrnoToStatus(errno, "read requests from /dev/fuse"));
    }
    if (bytes < static_cast<ssize_t>(sizeof(fuse_in_header))) return End(absl::OkStatus());
    message_.bytes = static_cast<size_t>(bytes);
    taken += message_.payload();
    NoteWork();
    handler_->OnRequest(&message_);
  }
  ring_->InNextTurn(&read_);
}

void FuseReader::NoteWork() {
  if (DataBytes(message_) < kLargeBytes && handler_->InFlight() < kManyInFlight) return;
  stay_until_ns_ = ring_->now_ns() + kStayNs;
  if (readers_->resting_.load(std::memory_order_relaxed) > 0) readers_->Invite();
}

void FuseReader::Starve() {
  state_ = State::kStarved;
  if (IsFirst()) readers_->first_is_starved_.store(true);
  handler_->OnStarved();
  readers_->LeaveToOthers(this);
}

void FuseReader::Wait() {
  if (IsFirst()) {
    readers_->first_is_starved_.store(false, std::memory_order_relaxed);
  } else if (ring_->now_ns() >= stay_until_ns_ && Rest()) {
    return;
  }
  Poll();
}

bool FuseReader::Rest() {
  if (poll_armed_) return false;
  state_ = State::kResting;
  readers_->resting_.fetch_add(1, std::memory_order_relaxed);
  resting_.store(true);
  // The first one, when it starves, sets its flag and then looks who rests: one sees the other.
  if (!readers_->first_is_starved_.load()) return true;
  if (!resting_.exchange(false)) return true;  // already called
  readers_->resting_.fetch_sub(1, std::memory_order_relaxed);
  return false;
}

void FuseReader::Poll() {
  state_ = State::kPolling;
  if (poll_armed_) return;
  poll_armed_ = true;
  ring_->Start(&poll_, [this](io_uring_sqe* entry) {
    io_uring_prep_poll_add(entry, readers_->fd(), POLLIN | EPOLLEXCLUSIVE);
  });
}

void FuseReader::OnPolled(int32_t, uint32_t) {
  poll_armed_ = false;
  if (state_ == State::kEnded) return FinishStop();
  if (state_ != State::kPolling) return;
  state_ = State::kReading;
  Read();
}

void FuseReader::End(const absl::Status& why) {
  state_ = State::kEnded;
  handler_->OnEnd(why);
}

}  // namespace rnbd::client
