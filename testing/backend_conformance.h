#ifndef RNBD_TESTING_BACKEND_CONFORMANCE_H_
#define RNBD_TESTING_BACKEND_CONFORMANCE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "server/backend.h"

namespace rnbd::testing {

// A disk as a test finds it: made for one test, of kConformanceDiskSize bytes, all zeroes.
class ConformanceDisk {
 public:
  virtual ~ConformanceDisk() = default;

  // May be called again while other opens are in use; all see the same data.
  virtual absl::StatusOr<std::unique_ptr<server::Backend>> Open(bool read_only) = 0;

  // Bytes of storage that the disk occupies, negative where nobody can tell.
  virtual int64_t AllocatedBytes() { return -1; }
};

inline constexpr uint64_t kConformanceDiskSize = 8 << 20;

// A way to make disks, and what may be expected of them.
struct ConformanceSubject {
  std::string name;  // of the test, so letters and digits only
  // Fails, or gives nullptr where this machine lacks what the disk needs: the tests are then
  // skipped.
  std::function<absl::StatusOr<std::unique_ptr<ConformanceDisk>>()> make;

  bool keeps_data = true;        // false: reads always give zeroes
  bool has_discard = true;       // else DISCARD is not offered
  bool frees_discarded = false;  // DISCARD and WRITE_ZEROES lower AllocatedBytes()
  bool keeps_unfreed = false;    // WRITE_ZEROES with no_unmap does not lower it

  friend std::ostream& operator<<(std::ostream& out, const ConformanceSubject& subject) {
    return out << subject.name;
  }
};

// The tests that every backend passes. A backend's own test instantiates them:
//   INSTANTIATE_TEST_SUITE_P(Memory, BackendConformance, ::testing::Values(...), SubjectName);
class BackendConformance : public ::testing::TestWithParam<ConformanceSubject> {
 protected:
  void SetUp() override;
  ~BackendConformance() override;

  std::unique_ptr<server::Backend> Open(bool read_only = false);
  const server::Geometry& geometry() { return backend_->geometry(); }

  std::unique_ptr<Ring> ring_;
  std::unique_ptr<ConformanceDisk> disk_;
  std::unique_ptr<server::Backend> backend_;
};

std::string SubjectName(const ::testing::TestParamInfo<ConformanceSubject>& info);

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_BACKEND_CONFORMANCE_H_
