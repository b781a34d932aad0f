#ifndef RNBD_RTRS_UUID_H_
#define RNBD_RTRS_UUID_H_

#include "rtrs/messages.h"

namespace rnbd::rtrs {

// A random (version 4) uuid from the kernel's generator: it identifies a session towards the
// server, so it must not be guessable.
Uuid RandomUuid();

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_UUID_H_
