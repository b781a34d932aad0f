#ifndef RNBD_SERVER_REQUEST_CHECK_H_
#define RNBD_SERVER_REQUEST_CHECK_H_

#include "server/backend.h"

namespace rnbd::server {

// What every backend answers to `request` before it looks further, as the contract in backend.h
// says: 0, EIO (beyond the end), EINVAL (no multiple of the logical block, or longer than the
// geometry's limit for the operation), EOPNOTSUPP or EROFS. `size` is that of the disk now. Any
// thread.
int CheckRequest(const Geometry& geometry, uint64_t size, bool read_only,
                 const BackendRequest& request);

}  // namespace rnbd::server

#endif  // RNBD_SERVER_REQUEST_CHECK_H_
