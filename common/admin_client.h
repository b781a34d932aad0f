#ifndef RNBD_COMMON_ADMIN_CLIENT_H_
#define RNBD_COMMON_ADMIN_CLIENT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/admin_protocol.h"
#include "common/unique_fd.h"

namespace rnbd {

// Asks a server through its admin socket. Failures carry the errno of the file asked about, and the
// server's reason; ETIMEDOUT where no answer comes within `patience`. Waits. One thread.
class AdminClient {
 public:
  // ENOENT and ECONNREFUSED where no server is, EACCES where this user may not ask it.
  static absl::StatusOr<AdminClient> Connect(const std::string& socket,
                                             absl::Duration patience = absl::Seconds(60));

  // In the order of their inode numbers.
  absl::StatusOr<std::vector<AdminEntry>> List(absl::string_view directory);
  absl::StatusOr<std::string> Read(absl::string_view attribute);
  // What it asks for is done when this returns.
  absl::Status Write(absl::string_view attribute, absl::string_view text);
  absl::StatusOr<std::string> ReadLink(absl::string_view link);

 private:
  AdminClient(UniqueFd socket, absl::Duration patience)
      : socket_(std::move(socket)), patience_(patience) {}

  absl::StatusOr<std::string> Ask(AdminOperation operation, absl::string_view path,
                                  absl::string_view text, uint64_t after);

  UniqueFd socket_;
  absl::Duration patience_;
};

}  // namespace rnbd

#endif  // RNBD_COMMON_ADMIN_CLIENT_H_
