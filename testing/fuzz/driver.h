#ifndef RNBD_TESTING_FUZZ_DRIVER_H_
#define RNBD_TESTING_FUZZ_DRIVER_H_

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

// A fuzz target is a *_fuzz.cc with the two functions below. As a cc_test it is linked with this
// driver, which needs no special compiler: it runs the seeds, then a fixed number of mutations of
// them from a fixed random seed, so that a run can be repeated exactly. Options of the binary:
// --runs=N, --random_seed=N, --write_seeds=DIRECTORY; other arguments are files to run instead.
//
// With libFuzzer: clang++ -std=c++20 -I. -fsanitize=fuzzer,address X_fuzz.cc and the .cc files it
// needs, without the driver's; start it on the directory that --write_seeds has filled.

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace rnbd {

// Inputs that reach every branch worth mutating around.
std::vector<std::vector<uint8_t>> FuzzSeeds();

}  // namespace rnbd

// Aborts, which every fuzzer takes for a find.
#define FUZZ_CHECK(condition)                                                                 \
  do {                                                                                        \
    if (!(condition)) {                                                                       \
      std::fprintf(stderr, "%s:%d: FUZZ_CHECK(%s) failed\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                           \
    }                                                                                         \
  } while (false)

#endif  // RNBD_TESTING_FUZZ_DRIVER_H_
