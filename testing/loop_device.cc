#include "testing/loop_device.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace rnbd::testing {

absl::StatusOr<std::unique_ptr<LoopDevice>> LoopDevice::Attach(const std::string& file,
                                                               const Options& options) {
  UniqueFd backing(open(file.c_str(), (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
  if (!backing.valid()) return ErrnoToStatus(errno, absl::StrCat("open ", file));
  UniqueFd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control.valid()) return ErrnoToStatus(errno, "open /dev/loop-control");

  loop_config config = {};
  config.fd = backing.get();
  config.block_size = options.block_size;
  config.info.lo_offset = options.offset;
  config.info.lo_sizelimit = options.size_limit;
  config.info.lo_flags = LO_FLAGS_AUTOCLEAR | (options.direct_io ? LO_FLAGS_DIRECT_IO : 0) |
                         (options.read_only ? LO_FLAGS_READ_ONLY : 0) |
                         (options.partitions ? LO_FLAGS_PARTSCAN : 0);
  // Another process may take the device that was free a moment ago.
  for (int attempt = 0; attempt < 10; ++attempt) {
    int number = options.fresh ? ioctl(control.get(), LOOP_CTL_ADD, -1)
                               : ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return ErrnoToStatus(errno, "find a free loop device");
    std::string path = absl::StrCat("/dev/loop", number);
    UniqueFd fd(open(path.c_str(), (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
    if (!fd.valid()) return ErrnoToStatus(errno, absl::StrCat("open ", path));
    if (ioctl(fd.get(), LOOP_CONFIGURE, &config) == 0) {
      return std::unique_ptr<LoopDevice>(
          new LoopDevice(number, options.fresh, std::move(path), std::move(fd)));
    }
    if (errno != EBUSY) return ErrnoToStatus(errno, absl::StrCat("attach ", file, " to ", path));
  }
  return ErrnoToStatus(EBUSY, "attach a loop device");
}

LoopDevice::~LoopDevice() {
  fd_.reset(-1);
  if (!fresh_) return;
  UniqueFd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  ioctl(control.get(), LOOP_CTL_REMOVE, number_);
}

}  // namespace rnbd::testing
