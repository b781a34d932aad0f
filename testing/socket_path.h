#ifndef RNBD_TESTING_SOCKET_PATH_H_
#define RNBD_TESTING_SOCKET_PATH_H_

#include <cstdint>
#include <string>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"

namespace rnbd::testing {

// Where a Unix socket of a test may lie: short enough for a sockaddr_un, wherever the test's own
// directory is, and random, because tests in sandboxes share /tmp but not their process numbers.
inline std::string UnusedSocketPath() {
  absl::BitGen random;
  return absl::StrCat("/tmp/rnbd-test-", absl::Hex(absl::Uniform<uint64_t>(random)), ".sock");
}

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_SOCKET_PATH_H_
