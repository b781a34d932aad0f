#include "rtrs/refusal.h"

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "common/status.h"
#include "common/wire.h"

namespace rnbd::rtrs {
namespace {

constexpr absl::string_view kPayloadUrl = "rnbd/refusal";

struct Reason {
  Le32 magic = Extension::kMagic;
  uint8_t number = 0;
  uint8_t zero[3] = {};
  Le32 limit = 0;
};
static_assert(WireMessage<Reason> && sizeof(Reason) <= sizeof(ConnectResponse::reserved));

struct Entry {
  Refusal reason;
  const char* name;
  int error_number;
  // '#' stands for the limit.
  const char* words;
};

constexpr Entry kEntries[] = {
    {Refusal::kShuttingDown, "shutting_down", ECONNRESET, "the server is shutting down"},
    {Refusal::kUnknownSession, "unknown_session", ENXIO,
     "a further path of a session that the server does not know; do all paths lead to one server?"},
    {Refusal::kMaxSessions, "max_sessions", ENOMEM,
     "the server has all its # sessions in use (max_sessions)"},
    {Refusal::kMaxSessionsPerAddress, "max_sessions_per_address", ENOMEM,
     "the client's address has all its # sessions in use (max_sessions_per_address)"},
    {Refusal::kMaxPathsPerSession, "max_paths_per_session", ECONNRESET,
     "the session has all its # paths (max_paths_per_session)"},
    {Refusal::kMaxConnectionsPerPath, "max_connections_per_path", ECONNRESET,
     "more than # connections for one path (max_connections_per_path); the client opens one for "
     "each of its workers"},
    {Refusal::kMaxConnections, "max_connections", ENOMEM,
     "the server has all its # connections in use (max_connections)"},
    {Refusal::kMaxConnectionsPerAddress, "max_connections_per_address", ENOMEM,
     "the client's address has all its # connections in use (max_connections_per_address)"},
    {Refusal::kSessionClosing, "session_closing", ECONNRESET,
     "the session's earlier paths are closing: their requests are being finished"},
    {Refusal::kPathClosing, "path_closing", ECONNRESET,
     "the path's earlier connections are closing: their requests are being finished"},
    {Refusal::kPathIsNewer, "path_is_newer", ECONNRESET, "a later attempt has connected this path"},
    {Refusal::kPathElsewhere, "path_elsewhere", ECONNRESET,
     "the path belongs to another session or address"},
    {Refusal::kSameEnds, "same_ends", EEXIST,
     "the session has another path between the same two addresses"},
    {Refusal::kOtherCidNum, "other_cid_num", ECONNRESET,
     "the path was begun with another number of connections"},
    {Refusal::kSameCid, "same_cid", ECONNRESET, "the path has this connection already"},
    {Refusal::kPathConnected, "path_connected", ECONNRESET, "the path is connected already"},
    {Refusal::kDrained, "drained", ECONNRESET,
     "the server is drained: it takes no sessions for the time being"},
};

const Entry* Find(uint8_t number) {
  for (const Entry& entry : kEntries) {
    if (static_cast<uint8_t>(entry.reason) == number) return &entry;
  }
  return nullptr;
}

std::string Words(const Entry& entry, uint32_t limit) {
  return absl::StrReplaceAll(entry.words, {{"#", absl::StrCat(limit)}});
}

}  // namespace

absl::Status Refuse(Refusal reason, uint32_t limit) {
  const Entry& entry = *Find(static_cast<uint8_t>(reason));
  absl::Status status = ErrnoToStatus(entry.error_number, Words(entry, limit));
  Reason sent;
  sent.number = static_cast<uint8_t>(reason);
  sent.limit = limit;
  status.SetPayload(kPayloadUrl, absl::Cord(absl::string_view(reinterpret_cast<const char*>(&sent),
                                                              sizeof(sent))));
  return status;
}

const char* RejectionName(size_t number) {
  const Entry* const entry = Find(static_cast<uint8_t>(number));
  return entry == nullptr ? "other" : entry->name;
}

size_t RejectionNumber(const absl::Status& why) {
  const absl::optional<absl::Cord> payload = why.GetPayload(kPayloadUrl);
  if (!payload.has_value()) return 0;
  const std::string bytes(*payload);
  return static_cast<uint8_t>(bytes[offsetof(Reason, number)]);
}

ConnectResponse MakeRefusal(const absl::Status& why) {
  ConnectResponse response = MakeRejection(StatusToErrno(why));
  if (const absl::optional<absl::Cord> reason = why.GetPayload(kPayloadUrl)) {
    const std::string bytes(*reason);
    std::memcpy(response.reserved, bytes.data(), bytes.size());
  }
  return response;
}

absl::Status ReadRefusal(absl::Span<const uint8_t> private_data) {
  absl::Status rejection = ParseRejection(private_data);
  Reason reason;
  if (!CopyMessage(private_data, offsetof(ConnectResponse, reserved), &reason)) return rejection;
  const Entry* entry = reason.magic == Extension::kMagic ? Find(reason.number) : nullptr;
  if (entry == nullptr) return rejection;
  return ErrnoToStatus(
      StatusToErrno(rejection),
      absl::StrCat("the server rejected the connection: ", Words(*entry, reason.limit)));
}

}  // namespace rnbd::rtrs
