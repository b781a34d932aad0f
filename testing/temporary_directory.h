#ifndef RNBD_TESTING_TEMPORARY_DIRECTORY_H_
#define RNBD_TESTING_TEMPORARY_DIRECTORY_H_

#include <string>

#include "absl/strings/string_view.h"

namespace rnbd::testing {

// A directory of the test's own, removed with all it holds.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }
  // The path of `name` below it.
  std::string operator/(absl::string_view name) const;

 private:
  std::string path_;
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_TEMPORARY_DIRECTORY_H_
