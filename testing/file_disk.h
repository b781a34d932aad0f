#ifndef RNBD_TESTING_FILE_DISK_H_
#define RNBD_TESTING_FILE_DISK_H_

#include <string>

#include "config/server_config.h"
#include "testing/backend_conformance.h"

namespace rnbd::testing {

// A sparse image file, as the conformance tests want a disk, behind the io_uring backend.
class FileDisk final : public ConformanceDisk {
 public:
  // The file is made in `directory`, by default the test's own, and removed at the end.
  explicit FileDisk(config::DirectIo direct_io, const std::string& directory = "");
  ~FileDisk() override;

  absl::StatusOr<std::unique_ptr<server::Backend>> Open(bool read_only) override;
  int64_t AllocatedBytes() override;

  const std::string& path() const { return path_; }

 private:
  const config::DirectIo direct_io_;
  std::string path_;
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_FILE_DISK_H_
