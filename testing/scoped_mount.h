#ifndef RNBD_TESTING_SCOPED_MOUNT_H_
#define RNBD_TESTING_SCOPED_MOUNT_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"

namespace rnbd::testing {

// Gives the process a mount namespace of its own: what it mounts ends with it, and no other process
// sees it (a mount below /tmp breaks Bazel's sandboxes). Before any thread is started.
absl::Status EnterPrivateMountNamespace();

// That for all tests of a program: ::testing::AddGlobalTestEnvironment(new PrivateMounts()).
// Without root there is none, and nothing to mount.
class PrivateMounts : public ::testing::Environment {
 public:
  void SetUp() override;
};

// A mounted file system. Tests that use it need the tag "local".
class ScopedMount {
 public:
  // As mount(2); `directory` exists.
  static absl::StatusOr<std::unique_ptr<ScopedMount>> Mount(const std::string& source,
                                                            const std::string& directory,
                                                            const std::string& type,
                                                            const std::string& options = "",
                                                            unsigned long flags = 0);
  ~ScopedMount();
  ScopedMount(const ScopedMount&) = delete;
  ScopedMount& operator=(const ScopedMount&) = delete;

  const std::string& directory() const { return directory_; }

 private:
  explicit ScopedMount(std::string directory) : directory_(std::move(directory)) {}

  const std::string directory_;
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_SCOPED_MOUNT_H_
