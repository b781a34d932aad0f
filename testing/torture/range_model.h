#ifndef RNBD_TESTING_TORTURE_RANGE_MODEL_H_
#define RNBD_TESTING_TORTURE_RANGE_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace rnbd::testing {

// What a disk may contain, given the requests that were sent to it and when each of them began and
// ended. Any thread.
//
// The disk is cut into cells of odd sizes, some at the borders of blocks and some not, and requests
// cover whole cells. For each cell the model keeps the writes that may be the last one: those that
// no other write has followed. Requests that overlap in time have no order, and may mix byte by
// byte. A write that failed may have happened, or not, or in parts. A read that saw a cell while
// nobody wrote to it settles which write was the last.
class RangeModel {
 public:
  enum class Kind { kData, kZeroes, kDiscard };

  // Of a disk of zeroes. Cells are about `cell_bytes` long.
  RangeModel(uint64_t bytes, uint32_t cell_bytes, uint32_t seed);

  // Cells are numbered from 0; cell `cells()` begins at the end of the disk.
  size_t cells() const { return begins_.size() - 1; }
  uint64_t begin(size_t cell) const { return begins_[cell]; }

  // A request that changes the cells from `first` up to `last`, `last` not included. Returns a
  // number for it.
  uint64_t BeginWrite(Kind kind, size_t first, size_t last);
  // The bytes that a kData write is to write.
  void FillData(uint64_t write, size_t first, size_t last, uint8_t* data) const;
  void EndWrite(uint64_t write, bool succeeded);

  uint64_t BeginRead(size_t first, size_t last);
  // What the read saw, nullptr if it failed. A failure tells which byte cannot be.
  absl::Status EndRead(uint64_t read, const uint8_t* data);

 private:
  static constexpr uint64_t kNotEnded = UINT64_MAX;

  struct Version {
    uint64_t write = 0;
    Kind kind = Kind::kZeroes;
    uint64_t begun = 0;
    uint64_t ended = 0;
    // What a read has settled, instead of the write's own bytes.
    std::string settled;
  };
  using Versions = std::vector<Version>;
  struct Write {
    Kind kind;
    size_t first;
    size_t last;
    uint64_t begun;
  };
  struct Read {
    size_t first;
    size_t last;
    std::vector<Versions> seen;       // of each cell, all that it may see
    std::vector<bool> beside_writes;  // of each cell
  };

  uint8_t ByteOf(const Version& version, size_t cell, uint64_t position) const;
  bool Matches(const Version& version, size_t cell, const uint8_t* data) const;
  absl::Status CheckCell(const Versions& versions, size_t cell, const uint8_t* data) const;

  std::vector<uint64_t> begins_;
  absl::Mutex mutex_;
  uint64_t now_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Versions> cells_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Write> writes_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Read> reads_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_TORTURE_RANGE_MODEL_H_
