#ifndef RNBD_RTRS_NAME_LOOKUP_H_
#define RNBD_RTRS_NAME_LOOKUP_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "common/ring.h"
#include "rtrs/address.h"

namespace rnbd::rtrs {

// Resolve() without making the thread of a ring wait: the system's resolver may take many seconds,
// so it is asked on a thread that lives as long as the question. All functions are called on the
// ring's thread.
class NameLookup {
 public:
  using Callback = std::function<void(absl::StatusOr<std::vector<SocketAddress>>)>;

  explicit NameLookup(Ring* ring) : ring_(ring) {}
  ~NameLookup() { Cancel(); }
  NameLookup(const NameLookup&) = delete;
  NameLookup& operator=(const NameLookup&) = delete;

  // Calls back once, in a later turn. Where there is no thread to be had, that is the answer. One
  // lookup at a time.
  void Start(const Address& address, Callback callback);

  // No callback from now on. Does not wait for the resolver.
  void Cancel();

 private:
  struct Question;

  Ring* const ring_;
  std::shared_ptr<Question> question_;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_NAME_LOOKUP_H_
