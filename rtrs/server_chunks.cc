#include "rtrs/server_chunks.h"

#include <utility>

#include "common/status.h"

namespace rnbd::rtrs {

absl::StatusOr<std::unique_ptr<ServerChunks>> ServerChunks::Create(
    const SessionGeometry& geometry) {
  ASSIGN_OR_RETURN(UniqueMapping memory,
                   UniqueMapping::Anonymous(size_t{geometry.queue_depth} * geometry.chunk_size()));
  return std::unique_ptr<ServerChunks>(new ServerChunks(geometry, std::move(memory)));
}

ServerChunks::ServerChunks(const SessionGeometry& geometry, UniqueMapping memory)
    : geometry_(geometry),
      codec_(geometry.queue_depth),
      memory_(std::move(memory)),
      requests_(geometry.queue_depth) {
  for (uint32_t index = 0; index < geometry.queue_depth; ++index) {
    requests_[index].chunk_ = index;
    requests_[index].data_ = chunk(index).data();
  }
}

}  // namespace rnbd::rtrs
