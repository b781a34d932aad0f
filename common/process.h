#ifndef RNBD_COMMON_PROCESS_H_
#define RNBD_COMMON_PROCESS_H_

#include <signal.h>

#include <cstddef>
#include <initializer_list>

namespace rnbd {

// Raises the soft limits on open files and locked memory to the hard ones, and as root the latter
// to unlimited: every connection is a file, and registered buffers are locked. What cannot be
// raised stays as it is.
void RaiseLimits();

// Gives threads that are started from now on a stack of `bytes` instead of the system's default,
// usually 8 MiB: a process that is locked in memory has all of it in memory.
void LimitThreadStacks(size_t bytes);

// Puts `bytes`, at most kMostHeapReserve, into the heap, in memory already: what is allocated from
// now on comes from there, as long as that suffices, and needs nothing from the kernel. All threads
// share one heap then. Before other threads.
inline constexpr size_t kMostHeapReserve = size_t{31} << 20;
void ReserveHeap(size_t bytes);

// Blocks signals in the calling thread and all that it starts from now on, for sigwait(3) or a
// signalfd, and ignores SIGPIPE. Returns the set.
sigset_t BlockSignals(std::initializer_list<int> signals);

}  // namespace rnbd

#endif  // RNBD_COMMON_PROCESS_H_
