#ifndef RNBD_CLIENT_FUSE_READER_H_
#define RNBD_CLIENT_FUSE_READER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "client/fuse_message.h"
#include "client/request_memory.h"
#include "common/ring.h"

namespace rnbd::client {

class FuseReader;

// Who answers requests. On the reader's thread.
class FuseHandler {
 public:
  // Whether OnRequest() may be called. While false nothing is read; Resume() the reader then.
  virtual bool HasRoom() = 0;
  // `message` is valid until this returns.
  virtual void OnRequest(FuseMessage* message) = 0;
  // Requests taken and not yet answered.
  virtual size_t InFlight() = 0;
  // The reader cannot go on for want of room or buffers: call Resume() when some came back.
  virtual void OnStarved() = 0;
  // The mount is gone (OK) or reading failed; no request will come any more.
  virtual void OnEnd(const absl::Status& why) = 0;

 protected:
  ~FuseHandler() = default;
};

// The readers that share one /dev/fuse, and how they share it: the first one reads whatever comes;
// the others rest until there is work that gains by more processors, and for a while after it. One
// busy worker serves many small requests faster than two that wake each other for every one of
// them, but the copies of large ones want all workers.
class FuseReaders {
 public:
  explicit FuseReaders(int fd) : fd_(fd) {}

  // `fd` has O_NONBLOCK: /dev/fuse, or a SOCK_SEQPACKET socket in its place.
  int fd() const { return fd_; }

 private:
  friend class FuseReader;

  // Any thread: one of those that rest takes part.
  void Invite();
  // Any thread: everybody but `reader`, which is starved, looks for requests now: it may have been
  // woken for one that it cannot read.
  void LeaveToOthers(const FuseReader* reader);

  const int fd_;
  std::vector<FuseReader*> readers_;  // complete before the first one starts
  std::atomic<size_t> resting_{0};
  std::atomic<bool> first_is_starved_{false};
};

// Reads requests on the thread of one ring. The payload of a write lands where it stays: its first
// RequestMemory::kSmallBytes in a small buffer, the rest in a large one, which are replaced from
// the pool only when the handler kept them.
//
// All functions on the ring's thread, unless they say otherwise.
class FuseReader final {
 public:
  // Joins `readers`, all of which are made before the first is started. All arguments outlive the
  // reader. Any thread.
  FuseReader(FuseReaders* readers, Ring* ring, BufferPool* buffers, FuseHandler* handler);
  // After Stop() has called back, or before Start(). Any thread.
  ~FuseReader();
  FuseReader(const FuseReader&) = delete;
  FuseReader& operator=(const FuseReader&) = delete;

  void Start();
  // After OnStarved(). Harmless otherwise.
  void Resume();
  // Reads nothing more; `stopped` runs when the ring holds nothing of the reader any more.
  void Stop(std::function<void()> stopped);

 private:
  friend class FuseReaders;

  enum class State : uint8_t {
    kNew,
    kReading,  // in a turn, or waiting for the next one
    kPolling,  // asleep until the kernel has a request
    kResting,  // asleep until another reader calls
    kStarved,  // asleep until buffers or room come back
    kEnded,
  };

  bool IsFirst() const { return readers_->readers_.front() == this; }
  void Join();
  void Read();
  bool TakeLanding();
  void NoteWork();
  void Starve();
  void Wait();
  bool Rest();
  void Poll();
  void OnPolled(int32_t result, uint32_t flags);
  void End(const absl::Status& why);
  void FinishStop();

  FuseReaders* const readers_;
  Ring* const ring_;
  BufferPool* const buffers_;
  FuseHandler* const handler_;

  State state_ = State::kNew;
  std::atomic<bool> resting_{false};  // whoever makes it false posts Join()
  bool poll_armed_ = false;
  int64_t stay_until_ns_ = 0;
  FuseHead head_;
  FuseMessage message_;
  std::function<void()> stopped_;
  MethodOperation<&FuseReader::OnPolled> poll_{this};
  MethodHook<&FuseReader::Read> read_{this};
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_FUSE_READER_H_
