#include "testing/torture/disk.h"

#include <fcntl.h>
#include <liburing.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace rnbd::testing {
namespace {

// Goes with its completion.
class FileOperation final : public Ring::Operation {
 public:
  explicit FileOperation(DiskRequest* request) : request_(request) {}

  void OnComplete(int32_t result, uint32_t /*flags*/) override {
    DiskRequest* request = request_;
    delete this;
    if (result < 0) return request->OnDone(-result);
    // Short: the kernel met an error behind the part that it did.
    request->OnDone(static_cast<size_t>(result) == request->data.size() ? 0 : EIO);
  }

 private:
  DiskRequest* const request_;
};

}  // namespace

absl::StatusOr<FileDisk> FileDisk::Open(const char* path) {
  FileDisk disk;
  disk.fd_.reset(open(path, O_RDWR | O_DIRECT | O_CLOEXEC));
  if (!disk.fd_.valid()) return ErrnoToStatus(errno, absl::StrCat("open ", path));
  const off_t end = lseek(disk.fd_.get(), 0, SEEK_END);
  if (end < 0) return ErrnoToStatus(errno, absl::StrCat("size of ", path));
  disk.bytes_ = static_cast<uint64_t>(end);
  return disk;
}

void FileDisk::Submit(Ring* ring, DiskRequest* request) {
  auto* operation = new FileOperation(request);
  ring->Start(operation, [&](io_uring_sqe* entry) {
    const auto bytes = static_cast<unsigned>(request->data.size());
    switch (request->kind) {
      case DiskRequest::Kind::kRead:
        return io_uring_prep_read(entry, fd_.get(), request->data.data(), bytes, request->offset);
      case DiskRequest::Kind::kWrite:
        io_uring_prep_write(entry, fd_.get(), request->data.data(), bytes, request->offset);
        entry->rw_flags = request->fua ? RWF_DSYNC : 0;
        return;
      case DiskRequest::Kind::kFlush:
        return io_uring_prep_fsync(entry, fd_.get(), IORING_FSYNC_DATASYNC);
    }
  });
}

}  // namespace rnbd::testing
