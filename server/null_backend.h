#ifndef RNBD_SERVER_NULL_BACKEND_H_
#define RNBD_SERVER_NULL_BACKEND_H_

#include <cstdint>

#include "server/backend.h"

namespace rnbd::server {

// A disk that is not there, to measure everything else: every valid request succeeds at once, what
// is written vanishes, and reads give zeroes. (They are filled in, for a chunk may hold what
// another session left there.) Never for data.
//
// Requests are done before Submit() returns, so a caller that submits from OnDone() recurses.
class NullBackend final : public Backend {
 public:
  // `bytes` is a multiple of 512.
  NullBackend(uint64_t bytes, bool read_only);

  const Geometry& geometry() const override { return geometry_; }
  void Submit(Ring* ring, BackendRequest* request) override;

 private:
  const bool read_only_;
  Geometry geometry_;
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_NULL_BACKEND_H_
