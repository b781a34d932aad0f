#ifndef RNBD_TESTING_TORTURE_DISK_WRITER_H_
#define RNBD_TESTING_TORTURE_DISK_WRITER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/ring.h"
#include "common/unique_mapping.h"
#include "testing/torture/block_history.h"
#include "testing/torture/disk.h"

namespace rnbd::testing {

// Writes to the blocks of a disk at random, with many requests in flight, reads them again, and
// checks that each holds a version that its history allows. It is the only one who writes there.
//
// The disk begins with zeroes. No request touches a block on which another is in flight. A request
// that fails is counted, and its slot waits a little before the next.
class DiskWriter {
 public:
  struct Options {
    uint64_t device = 1;  // in the stamps, besides `writer`
    uint64_t writer = 1;
    uint64_t first_block = 0;
    uint64_t blocks = 0;
    uint32_t block_bytes = 512;
    uint32_t depth = 16;
    uint32_t longest = 64;  // blocks of one request
    uint32_t seed = 1;
    absl::Duration wait_after_error = absl::Milliseconds(20);
  };

  struct Report {
    int64_t writes = 0;   // acknowledged
    int64_t reads = 0;    // verified
    int64_t flushes = 0;  // that succeeded
    int64_t blocks_verified = 0;
    int64_t errors = 0;        // requests that failed
    int64_t flush_errors = 0;  // of these, flushes and writes with FUA
    int64_t violations = 0;
    int in_flight = 0;
    // Since the last report.
    absl::Duration longest_request;
    absl::Duration longest_pause;       // with requests in flight and none of them done
    std::vector<std::string> messages;  // of the first errors and violations
  };

  // The disk must live longer.
  static absl::StatusOr<std::unique_ptr<DiskWriter>> Create(const Options& options, Disk* disk);
  // Nothing may be in flight: Pause() first.
  ~DiskWriter();
  DiskWriter(const DiskWriter&) = delete;
  DiskWriter& operator=(const DiskWriter&) = delete;

  // All from one thread, which is not the writer's.
  void Resume();
  // No new requests. False if those in flight are not done after `limit`.
  bool Pause(absl::Duration limit);
  // While paused: reads every block and checks it. False if that takes longer than `limit`.
  bool CheckAll(absl::Duration limit);
  // The disk's host has lost its power; before anything is acknowledged by what comes after it.
  void HostLost();
  Report TakeReport();

 private:
  class Slot;
  struct Event {
    DiskRequest::Kind kind;
    uint64_t sequence;
    uint64_t first;
    uint64_t count;
    absl::Time begun;
    absl::Time ended;
    int error;
  };

  DiskWriter(const Options& options, Disk* disk);
  // All below on the ring's thread.
  void Next(Slot* slot);
  void NextOfCheck(Slot* slot);
  bool PickRange(Slot* slot);
  void Submit(Slot* slot);
  void OnDone(Slot* slot, int error);
  void EndWrite(Slot* slot, int error);
  void EndRead(Slot* slot);
  void NoteError(const Slot& slot, int error);
  void NoteTime(const Slot& slot, int error);
  void CheckBlock(uint64_t block, absl::Span<const uint8_t> data);
  void Violation(uint64_t block, uint64_t seen, absl::string_view what);
  void Say(std::string message);
  bool AwaitIdle(absl::Duration limit);
  void UpdateIdle();

  const Options options_;
  Disk* const disk_;
  UniqueMapping memory_;
  std::minstd_rand random_;
  BlockHistory history_;
  std::vector<bool> busy_;  // a request on the block is in flight
  uint64_t sequence_ = 0;
  bool paused_ = true;
  uint64_t check_next_ = UINT64_MAX;  // the next block that CheckAll() reads
  int in_flight_ = 0;
  absl::Time last_done_;
  std::deque<Event> events_;
  Report report_;
  std::vector<std::unique_ptr<Slot>> slots_;

  absl::Mutex mutex_;
  bool idle_ ABSL_GUARDED_BY(mutex_) = true;

  std::unique_ptr<RingThread> thread_;
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_TORTURE_DISK_WRITER_H_
