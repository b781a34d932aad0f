#ifndef RNBD_TESTING_LOOP_DEVICE_H_
#define RNBD_TESTING_LOOP_DEVICE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "common/unique_fd.h"

namespace rnbd::testing {

// A loop device for the time of a test: it is detached once nobody has it open or mounted, however
// the test ends. Tests that use it need the tags "exclusive" and "local".
class LoopDevice {
 public:
  struct Options {
    bool direct_io = false;
    bool read_only = false;
    bool partitions = false;  // lets the kernel have partitions on it
    uint32_t block_size = 512;
    uint64_t offset = 0;      // in the file, bytes
    uint64_t size_limit = 0;  // bytes, 0: to the end of the file
    // A device made for this test, for those that change attributes: they outlive an attachment,
    // and a limit of 0 cannot be raised again.
    bool fresh = false;
  };

  // Attaches a free loop device to the file. Fails with EPERM or ENOENT where tests may not.
  static absl::StatusOr<std::unique_ptr<LoopDevice>> Attach(const std::string& file,
                                                            const Options& options);
  ~LoopDevice();
  LoopDevice(const LoopDevice&) = delete;
  LoopDevice& operator=(const LoopDevice&) = delete;

  const std::string& path() const { return path_; }

 private:
  LoopDevice(int number, bool fresh, std::string path, UniqueFd fd)
      : number_(number), fresh_(fresh), path_(std::move(path)), fd_(std::move(fd)) {}

  const int number_;
  const bool fresh_;
  const std::string path_;
  UniqueFd fd_;
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_LOOP_DEVICE_H_
