#ifndef RNBD_COMMON_TIME_SLICE_H_
#define RNBD_COMMON_TIME_SLICE_H_

#include <chrono>

namespace rnbd {

// How long a thread that serves requests runs while others wait for the processor. The kernel's
// default is about 3 ms, and whoever is woken may wait for the end of it: with a request that takes
// 50 us from one process to the next, that is what others notice when a machine is busy.
inline constexpr std::chrono::microseconds kTimeSlice(300);

// Asks for it, for the calling thread; its policy and priority stay. From Linux 6.12 on; elsewhere,
// and where somebody has chosen another policy than the usual one for the thread, nothing happens.
void AskForShortTimeSlices();

}  // namespace rnbd

#endif  // RNBD_COMMON_TIME_SLICE_H_
