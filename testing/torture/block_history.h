#ifndef RNBD_TESTING_TORTURE_BLOCK_HISTORY_H_
#define RNBD_TESTING_TORTURE_BLOCK_HISTORY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace rnbd::testing {

// Which versions each block of a disk may hold, given the writes and flushes that were sent to it
// and their answers.
//
//  * A write that has not been answered, or was answered with an error, may be there or not, and
//    may still come: it and what was there before are allowed, until a later write is acknowledged.
//  * An acknowledged write is there: nothing before it is allowed.
//  * If the disk's host has been lost (HostLost), what had been acknowledged may be gone, but not
//    what was durable: by FUA, or by a flush that began after the write was acknowledged and
//    succeeded. What is seen then decides: of two acknowledged versions only one has survived.
//  * The next flush of a lost host has to fail, since it cannot keep its promise. If it succeeds,
//  all
//    that had been acknowledged before it has to be there. Once one has failed, later ones promise
//    nothing for what was lost.
//
// A block has one owner: who begins a write to it while another is in flight, or checks it then,
// uses this class wrongly. Not thread-safe; several owners have one history each.
class BlockHistory {
 public:
  // All blocks are at version 0: never written.
  explicit BlockHistory(uint64_t blocks) : blocks_(blocks, Versions(1)) {
    for (Versions& versions : blocks_) versions[0].acknowledged = kAtFirst;
  }

  uint64_t blocks() const { return blocks_.size(); }

  // The sequence numbers of a block's writes grow.
  void BeginWrite(uint64_t block, uint64_t sequence);
  void Acknowledge(uint64_t block, uint64_t sequence, bool fua);
  void Fail(uint64_t block, uint64_t sequence);

  // To be given to EndFlush(). Flushes may overlap with each other and with writes.
  uint64_t BeginFlush() { return now_++; }
  void EndFlush(uint64_t flush, bool succeeded);

  void HostLost();

  // Whether the block may hold this version.
  absl::Status Check(uint64_t block, uint64_t sequence);

  // Of one block, for a report.
  std::string Describe(uint64_t block) const;

 private:
  static constexpr uint64_t kNever = UINT64_MAX;
  static constexpr uint64_t kAtFirst = 0;

  struct Version {
    uint64_t sequence = 0;
    uint64_t acknowledged = kNever;  // when
    bool failed = false;
    bool lost = false;  // acknowledged by a host that may have lost it since
    bool fua = false;
    bool possible = true;  // to be seen now
  };
  // Those since the last durable one, in their order.
  using Versions = std::vector<Version>;

  bool IsDurable(const Version& version) const {
    return version.acknowledged != kNever && !version.lost &&
           (version.fua || version.acknowledged == kAtFirst || version.acknowledged < flushed_);
  }
  void Forget(Versions* versions) const;
  void KeepPromise(Versions* versions, uint64_t flush) const;

  std::vector<Versions> blocks_;
  // Those with lost versions for which a flush may still answer.
  std::vector<uint64_t> lost_blocks_;
  uint64_t now_ = 1;
  // What was acknowledged before is durable.
  uint64_t flushed_ = 0;
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_TORTURE_BLOCK_HISTORY_H_
