#ifndef RNBD_COMMON_DIRECTION_H_
#define RNBD_COMMON_DIRECTION_H_

#include <cstdint>

namespace rnbd {

// Which way the data of an RTRS request goes, as seen by the client: the transport carries each
// RNBD message as a READ or a WRITE (protocol section 4.1).
enum class Direction : uint8_t {
  kRead,   // server to client
  kWrite,  // client to server, or no data
};

}  // namespace rnbd

#endif  // RNBD_COMMON_DIRECTION_H_
