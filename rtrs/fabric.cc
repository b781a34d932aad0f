#include "rtrs/fabric.h"

#include <cerrno>

#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"
#include "common/status.h"

namespace rnbd::rtrs {
namespace {

constexpr absl::string_view kGivenByPeerUrl = "rnbd/given-by-peer";

}  // namespace

absl::StatusOr<Region> Domain::RegisterWindows(absl::Span<uint8_t>, uint32_t) {
  return ErrnoToStatus(EOPNOTSUPP, "this fabric has no memory windows");
}

bool IsViolation(const absl::Status& why) {
  return StatusToErrno(why) == EPROTO && !why.GetPayload(kGivenByPeerUrl).has_value();
}

absl::Status GivenByPeer(absl::Status why) {
  why.SetPayload(kGivenByPeerUrl, absl::Cord());
  return why;
}

}  // namespace rnbd::rtrs
