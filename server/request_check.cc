#include "server/request_check.h"

#include <cerrno>

namespace rnbd::server {
namespace {

// Of the operations that move no data; 0 where the device does not offer one.
uint32_t LengthLimit(const Geometry& geometry, BlockOperation operation) {
  switch (operation) {
    case BlockOperation::kDiscard:
      return geometry.max_discard;
    case BlockOperation::kWriteZeroes:
      return geometry.max_write_zeroes;
    case BlockOperation::kSecureErase:
      return geometry.max_secure_erase;
    default:
      return 0;
  }
}

int CheckRange(const Geometry& geometry, uint64_t size, const BackendRequest& request) {
  if (request.offset > size || request.length > size - request.offset) return EIO;
  // A power of two, so that one test does for both.
  uint64_t misaligned = (request.offset | request.length) & (geometry.logical_block_size - 1);
  return misaligned == 0 ? 0 : EINVAL;
}

}  // namespace

int CheckRequest(const Geometry& geometry, uint64_t size, bool read_only,
                 const BackendRequest& request) {
  switch (request.operation) {
    case BlockOperation::kFlush:
      return 0;
    case BlockOperation::kRead:
      return CheckRange(geometry, size, request);
    case BlockOperation::kWrite:
      return read_only ? EROFS : CheckRange(geometry, size, request);
    case BlockOperation::kDiscard:
    case BlockOperation::kWriteZeroes:
    case BlockOperation::kSecureErase:
      break;
    default:
      return EOPNOTSUPP;
  }
  if (read_only) return EROFS;
  uint32_t limit = LengthLimit(geometry, request.operation);
  if (limit == 0) return EOPNOTSUPP;
  if (request.length > limit) return EINVAL;
  return CheckRange(geometry, size, request);
}

}  // namespace rnbd::server
