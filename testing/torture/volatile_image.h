#ifndef RNBD_TESTING_TORTURE_VOLATILE_IMAGE_H_
#define RNBD_TESTING_TORTURE_VOLATILE_IMAGE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "common/unique_fd.h"

namespace rnbd::testing {

// An image file as a disk with a volatile cache: what was not flushed before a loss of power may be
// there afterwards or not, sector by sector. All functions return an errno or 0; any thread.
class VolatileImage {
 public:
  static constexpr uint64_t kSector = 512;

  static absl::StatusOr<std::unique_ptr<VolatileImage>> Open(const std::string& path,
                                                             uint32_t seed);

  uint64_t bytes() const { return bytes_; }
  // Ends at the image's end. `done` is how much there was.
  int Read(uint64_t offset, absl::Span<uint8_t> data, size_t* done);
  // Of whole sectors.
  int Write(uint64_t offset, absl::Span<const uint8_t> data, bool fua);
  void Flush();

  // Takes back a random half of the sectors that were written and not flushed. Returns how many.
  size_t LosePower();

 private:
  using Sector = std::array<uint8_t, kSector>;

  VolatileImage(UniqueFd fd, uint64_t bytes, uint32_t seed)
      : fd_(std::move(fd)), bytes_(bytes), random_(seed) {}

  const UniqueFd fd_;
  const uint64_t bytes_;
  absl::Mutex mutex_;
  std::minstd_rand random_ ABSL_GUARDED_BY(mutex_);
  // What is on the medium where the cache has something else.
  std::unordered_map<uint64_t, Sector> medium_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_TORTURE_VOLATILE_IMAGE_H_
