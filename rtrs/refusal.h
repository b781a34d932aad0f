#ifndef RNBD_RTRS_REFUSAL_H_
#define RNBD_RTRS_REFUSAL_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "rtrs/messages.h"

// Why a server rejects a connection, in words. The protocol carries an errno only, and ECONNRESET
// for most of the reasons (protocol page, section 2.4). A server of ours puts a number for the
// reason into the reserved bytes of the rejection, behind a magic; a client of ours finds the
// words, a kernel client does not look. A kernel server sends zeros there.
//
// In reserved bytes, from 0 on: magic u32, reason u8, 3 zero bytes, limit u32.
namespace rnbd::rtrs {

// Numbers on the wire: never reused.
enum class Refusal : uint8_t {
  kShuttingDown = 1,
  kUnknownSession = 2,  // a further path of a session that is not there
  kMaxSessions = 3,     // with the limit, as all kMax*
  kMaxSessionsPerAddress = 4,
  kMaxPathsPerSession = 5,
  kMaxConnectionsPerPath = 6,
  kMaxConnections = 7,
  kMaxConnectionsPerAddress = 8,
  kSessionClosing = 9,  // all paths of the session are closing
  kPathClosing = 10,    // earlier connections of the path, now or already closing
  kPathIsNewer = 11,    // the path was connected by a later attempt
  kPathElsewhere = 12,  // the path belongs to another session or another host
  kSameEnds = 13,       // another path of the session joins the same two addresses
  kOtherCidNum = 14,    // the path was begun with another number of connections
  kSameCid = 15,        // the path has this connection
  kPathConnected = 16,  // the path is complete
  kDrained = 17,        // no new sessions, until somebody says so
};

inline constexpr size_t kRefusals = 18;  // numbers below it, 0 is for others

// In short, as a label of what is counted by number; "other" for 0.
const char* RejectionName(size_t number);
// The number of the reason where Refuse() made `why`, otherwise 0.
size_t RejectionNumber(const absl::Status& why);

// The failure that stands for a reason, with its errno.
absl::Status Refuse(Refusal reason, uint32_t limit = 0);

// What to reject a connection with: the errno of `why`, and the reason if Refuse() made it.
ConnectResponse MakeRefusal(const absl::Status& why);

// What a rejection says: ParseRejection(), with the reason if there is one that we know.
absl::Status ReadRefusal(absl::Span<const uint8_t> private_data);

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_REFUSAL_H_
