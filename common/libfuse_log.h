#ifndef RNBD_COMMON_LIBFUSE_LOG_H_
#define RNBD_COMMON_LIBFUSE_LOG_H_

namespace rnbd {

// Makes libfuse write to our log. Before its first session.
void LogLibfuse();

}  // namespace rnbd

#endif  // RNBD_COMMON_LIBFUSE_LOG_H_
