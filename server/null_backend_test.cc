#include "server/null_backend.h"

#include <memory>

#include "gtest/gtest.h"
#include "testing/backend_conformance.h"

namespace rnbd::server {
namespace {

using ::rnbd::testing::BackendConformance;
using ::rnbd::testing::ConformanceDisk;
using ::rnbd::testing::ConformanceSubject;
using ::rnbd::testing::kConformanceDiskSize;
using ::rnbd::testing::SubjectName;

class Nothing final : public ConformanceDisk {
 public:
  absl::StatusOr<std::unique_ptr<Backend>> Open(bool read_only) override {
    return std::make_unique<NullBackend>(kConformanceDiskSize, read_only);
  }
};

INSTANTIATE_TEST_SUITE_P(Null, BackendConformance,
                         ::testing::Values(ConformanceSubject{
                             .name = "Null",
                             .make = [] { return std::make_unique<Nothing>(); },
                             .keeps_data = false,
                         }),
                         SubjectName);

}  // namespace
}  // namespace rnbd::server
