#ifndef RNBD_RTRS_VERBS_STAGING_H_
#define RNBD_RTRS_VERBS_STAGING_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "common/unique_mapping.h"
#include "rtrs/byte_ring.h"
#include "rtrs/verbs_domain.h"
#include "rtrs/verbs_handles.h"

namespace rnbd::rtrs {

// Registered memory in which the messages of one connection arrive, because a device receives in
// registered memory only and RTRS offers any. Places are taken and given back in the same order, as
// a queue pair uses its receives. Grows when more is out than ever before, and only then allocates.
class VerbsStaging {
 public:
  struct Place {
    uint8_t* data = nullptr;  // null for no bytes
    uint32_t bytes = 0;
    uint32_t key = 0;
  };

  explicit VerbsStaging(VerbsDomain* domain) : domain_(domain) {}

  absl::Status Take(uint32_t bytes, Place* place);
  // The place that was taken first and is not given back yet.
  void GiveBack(const Place& place);

 private:
  struct Area {
    UniqueMapping memory;
    UniqueMr mr;
    std::unique_ptr<ByteRing> places;
  };

  absl::Status Grow(size_t bytes);

  VerbsDomain* const domain_;
  // Places are taken from the last area; what is out in the others is never used again.
  std::vector<Area> areas_;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_VERBS_STAGING_H_
