#include "rtrs/verbs_staging.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "common/status.h"

namespace rnbd::rtrs {
namespace {

constexpr size_t kFirstArea = 16 << 10;

}  // namespace

absl::Status VerbsStaging::Take(uint32_t bytes, Place* place) {
  *place = {};
  if (bytes == 0) return absl::OkStatus();
  std::optional<size_t> offset;
  if (!areas_.empty()) offset = areas_.back().places->Take(bytes);
  if (!offset.has_value()) {
    RETURN_IF_ERROR(Grow(bytes));
    offset = areas_.back().places->Take(bytes);
  }
  *place = {areas_.back().memory.data() + *offset, bytes, areas_.back().mr->lkey};
  return absl::OkStatus();
}

void VerbsStaging::GiveBack(const Place& place) {
  if (place.data == nullptr || place.key != areas_.back().mr->lkey) return;
  const auto offset = static_cast<size_t>(place.data - areas_.back().memory.data());
  areas_.back().places->GiveBack(offset, place.bytes);
}

absl::Status VerbsStaging::Grow(size_t bytes) {
  size_t size = areas_.empty() ? kFirstArea : 2 * areas_.back().memory.size();
  while (size < bytes) size *= 2;
  Area area;
  ASSIGN_OR_RETURN(area.memory, UniqueMapping::Anonymous(size));
  ASSIGN_OR_RETURN(area.mr, domain_->RegisterStaging(area.memory.span()));
  area.places = std::make_unique<ByteRing>(size);
  areas_.push_back(std::move(area));
  return absl::OkStatus();
}

}  // namespace rnbd::rtrs
