#ifndef RNBD_CLIENT_GATHERED_STATUS_H_
#define RNBD_CLIENT_GATHERED_STATUS_H_

#include <functional>
#include <utility>

#include "absl/status/status.h"

namespace rnbd::client {

// Tells the end of several operations, with their first failure, when the last one that shares it
// lets go. One thread.
class GatheredStatus {
 public:
  explicit GatheredStatus(std::function<void(const absl::Status&)> done) : done_(std::move(done)) {}
  ~GatheredStatus() { done_(status_); }
  GatheredStatus(const GatheredStatus&) = delete;
  GatheredStatus& operator=(const GatheredStatus&) = delete;

  void Add(const absl::Status& status) { status_.Update(status); }

 private:
  const std::function<void(const absl::Status&)> done_;
  absl::Status status_;
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_GATHERED_STATUS_H_
