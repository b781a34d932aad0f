#include "rtrs/uuid.h"

#include "absl/types/span.h"
#include "common/random.h"

namespace rnbd::rtrs {

Uuid RandomUuid() {
  Uuid uuid;
  FillRandom(absl::MakeSpan(uuid));
  uuid[6] = (uuid[6] & 0x0f) | 0x40;
  uuid[8] = (uuid[8] & 0x3f) | 0x80;
  return uuid;
}

}  // namespace rnbd::rtrs
