#ifndef RNBD_TESTING_TORTURE_DISK_H_
#define RNBD_TESTING_TORTURE_DISK_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/ring.h"
#include "common/unique_fd.h"

namespace rnbd::testing {

// A request to a disk. It and its data stay the submitter's, untouched until OnDone().
struct DiskRequest {
  enum class Kind { kRead, kWrite, kFlush };

  virtual ~DiskRequest() = default;
  // 0 or an errno; on the ring's thread, not within Submit().
  virtual void OnDone(int error) = 0;

  Kind kind = Kind::kRead;
  bool fua = false;
  uint64_t offset = 0;
  absl::Span<uint8_t> data;
};

class Disk {
 public:
  virtual ~Disk() = default;
  virtual void Submit(Ring* ring, DiskRequest* request) = 0;
};

// A file or block device, past the page cache of this machine.
class FileDisk final : public Disk {
 public:
  static absl::StatusOr<FileDisk> Open(const char* path);

  uint64_t bytes() const { return bytes_; }
  void Submit(Ring* ring, DiskRequest* request) override;

 private:
  UniqueFd fd_;
  uint64_t bytes_ = 0;
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_TORTURE_DISK_H_
