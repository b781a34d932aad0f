#include "server/null_backend.h"

#include <cstring>

#include "server/disk_id.h"
#include "server/request_check.h"

namespace rnbd::server {

NullBackend::NullBackend(uint64_t bytes, bool read_only) : read_only_(read_only) {
  geometry_.size = bytes;
  geometry_.disk_id = DiskIdOf("null");
  geometry_.discard_granularity = geometry_.physical_block_size;
  geometry_.max_discard = 1U << 30;
  geometry_.max_write_zeroes = 1U << 30;
}

void NullBackend::Submit(Ring*, BackendRequest* request) {
  int error = CheckRequest(geometry_, geometry_.size, read_only_, *request);
  if (error == 0 && request->operation == BlockOperation::kRead && request->length > 0) {
    std::memset(request->data, 0, request->length);
  }
  request->OnDone(error);
}

}  // namespace rnbd::server
