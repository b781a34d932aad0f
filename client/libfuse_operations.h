#ifndef RNBD_CLIENT_LIBFUSE_OPERATIONS_H_
#define RNBD_CLIENT_LIBFUSE_OPERATIONS_H_

struct fuse_session;

namespace rnbd::client {

class Filesystem;

// A libfuse session that answers from `filesystem` and writes through Filesystem::WriteReply(), or
// nullptr. `fd` is only kept, and closed by fuse_session_destroy(). Requests are handed to it with
// fuse_session_process_buf(), by any thread.
fuse_session* NewLibfuseSession(Filesystem* filesystem, int fd);

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_LIBFUSE_OPERATIONS_H_
