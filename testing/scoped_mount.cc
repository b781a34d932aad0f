#include "testing/scoped_mount.h"

#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace rnbd::testing {

absl::Status EnterPrivateMountNamespace() {
  if (unshare(CLONE_NEWNS) != 0) return ErrnoToStatus(errno, "leave the mount namespace");
  if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return ErrnoToStatus(errno, "make the mounts private");
  }
  return absl::OkStatus();
}

void PrivateMounts::SetUp() {
  if (geteuid() != 0) return;
  absl::Status status = EnterPrivateMountNamespace();
  ASSERT_TRUE(status.ok()) << status;
}

absl::StatusOr<std::unique_ptr<ScopedMount>> ScopedMount::Mount(const std::string& source,
                                                                const std::string& directory,
                                                                const std::string& type,
                                                                const std::string& options,
                                                                unsigned long flags) {
  if (mount(source.c_str(), directory.c_str(), type.c_str(), flags, options.c_str()) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("mount ", source, " (", type, ") on ", directory));
  }
  return std::unique_ptr<ScopedMount>(new ScopedMount(directory));
}

// Lazily: a leak of the test must not keep the namespace from ending.
ScopedMount::~ScopedMount() { umount2(directory_.c_str(), MNT_DETACH); }

}  // namespace rnbd::testing
