#include "common/admin_client.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/types/span.h"
#include "common/status.h"
#include "common/timed_io.h"

namespace rnbd {

absl::StatusOr<AdminClient> AdminClient::Connect(const std::string& socket,
                                                 absl::Duration patience) {
  const std::string what = absl::StrCat("connect to ", socket);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (socket.size() >= sizeof(address.sun_path)) return ErrnoToStatus(ENAMETOOLONG, what);
  std::memcpy(address.sun_path, socket.data(), socket.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoToStatus(errno, "open a socket");
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return ErrnoToStatus(errno, what);
  }
  return AdminClient(std::move(fd), patience);
}

absl::StatusOr<std::string> AdminClient::Ask(AdminOperation operation, absl::string_view path,
                                             absl::string_view text, uint64_t after) {
  const WaitLimits limits = {absl::Now() + patience_};
  if (path.size() > kMaxAdminPath) return rnbd::ErrnoToStatus(ENAMETOOLONG, path);
  if (text.size() > kMaxAdminText) return rnbd::ErrnoToStatus(EMSGSIZE, path);
  AdminQuestion question;
  question.operation = static_cast<uint8_t>(operation);
  question.path_length = static_cast<uint16_t>(path.size());
  question.text_length = static_cast<uint32_t>(text.size());
  question.after = after;
  const std::string message = absl::StrCat(
      absl::string_view(reinterpret_cast<const char*>(&question), sizeof(question)), path, text);
  RETURN_IF_ERROR(
      SendAll(socket_.get(),
              absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(message.data()), message.size()),
              limits));
  AdminAnswer answer;
  RETURN_IF_ERROR(ReceiveAll(
      socket_.get(), absl::MakeSpan(reinterpret_cast<uint8_t*>(&answer), sizeof(answer)), limits));
  RETURN_IF_ERROR(CheckAdminAnswer(answer));
  std::string body(answer.body_length, '\0');
  RETURN_IF_ERROR(ReceiveAll(
      socket_.get(), absl::MakeSpan(reinterpret_cast<uint8_t*>(body.data()), body.size()), limits));
  if (answer.error == 0) return body;
  absl::Status failure = rnbd::ErrnoToStatus(static_cast<int>(uint32_t{answer.error}), path);
  if (body.empty()) return failure;
  // The server's words in place of the system's.
  absl::Status told(failure.code(), body);
  failure.ForEachPayload(
      [&told](absl::string_view url, const absl::Cord& payload) { told.SetPayload(url, payload); });
  return told;
}

absl::StatusOr<std::vector<AdminEntry>> AdminClient::List(absl::string_view directory) {
  std::vector<AdminEntry> all;
  uint64_t after = 0;
  while (true) {
    ASSIGN_OR_RETURN(const std::string body, Ask(AdminOperation::kList, directory, "", after));
    ASSIGN_OR_RETURN(std::vector<AdminEntry> entries, ParseAdminEntries(body));
    if (entries.empty()) return all;
    for (AdminEntry& entry : entries) {
      if (entry.inode <= after) return ErrnoToStatus(EPROTO, "entries of a directory out of order");
      after = entry.inode;
      all.push_back(std::move(entry));
    }
  }
}

absl::StatusOr<std::string> AdminClient::Read(absl::string_view attribute) {
  return Ask(AdminOperation::kRead, attribute, "", 0);
}

absl::Status AdminClient::Write(absl::string_view attribute, absl::string_view text) {
  return Ask(AdminOperation::kWrite, attribute, text, 0).status();
}

absl::StatusOr<std::string> AdminClient::ReadLink(absl::string_view link) {
  return Ask(AdminOperation::kReadLink, link, "", 0);
}

}  // namespace rnbd
