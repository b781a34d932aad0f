#include "client/tool/server_files.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/status.h"

namespace rnbd::client::tool {
namespace {

constexpr char kDisks[] = "class/rnbd-server/ctl/devices";
constexpr char kSessions[] = "class/rtrs-server";

// Reads a tree of which parts may go at any time. What is not there is empty; any other failure is
// kept.
class Reader {
 public:
  explicit Reader(AdminClient* client) : client_(client) {}

  std::vector<std::string> NamesIn(const std::string& directory) {
    std::vector<std::string> names;
    const auto entries = client_->List(directory);
    if (!Keep(entries.status())) return names;
    for (const AdminEntry& entry : *entries) names.push_back(entry.name);
    std::sort(names.begin(), names.end());
    return names;
  }

  // False where the file has gone.
  bool Read(const std::string& file, std::string* text) {
    const auto found = client_->Read(file);
    if (!Keep(found.status())) return false;
    *text = std::string(absl::StripSuffix(*found, "\n"));
    return true;
  }

  bool ReadLink(const std::string& link, std::string* target) {
    auto found = client_->ReadLink(link);
    if (!Keep(found.status())) return false;
    *target = *std::move(found);
    return true;
  }

  const absl::Status& failure() const { return failure_; }

 private:
  bool Keep(const absl::Status& status) {
    if (status.ok()) return true;
    const int error = StatusToErrno(status);
    if (error != ENOENT && error != ENODEV && failure_.ok()) failure_ = status;
    return false;
  }

  AdminClient* const client_;
  absl::Status failure_;
};

// A second device of a session on one disk has a directory SESSION~2.
std::string SessionOf(const std::string& directory, const ServerFacts& facts) {
  const bool is_session =
      std::any_of(facts.sessions.begin(), facts.sessions.end(),
                  [&](const SessionFacts& session) { return session.name == directory; });
  return is_session ? directory : directory.substr(0, directory.rfind('~'));
}

void ReadDisk(Reader* reader, const std::string& name, ServerFacts* all) {
  const std::string disk = absl::StrCat(kDisks, "/", name);
  ExportFacts facts;
  facts.name = name;
  if (!reader->ReadLink(absl::StrCat(disk, "/block_dev"), &facts.target)) return;
  // What has only a name leads to itself.
  if (absl::StartsWith(facts.target, "../")) {
    facts.target = absl::StrReplaceAll(facts.target.substr(3), {{"!", "/"}});
  }
  const std::string sessions = absl::StrCat(disk, "/sessions");
  for (const std::string& session : reader->NamesIn(sessions)) {
    facts.directory = absl::StrCat(sessions, "/", session);
    facts.session = SessionOf(session, *all);
    std::string read_only;
    const auto file = [&](absl::string_view base) {
      return absl::StrCat(facts.directory, "/", base);
    };
    if (!reader->Read(file("mapping_path"), &facts.path) ||
        !reader->Read(file("access_mode"), &facts.access_mode) ||
        !reader->Read(file("read_only"), &read_only)) {
      continue;
    }
    facts.limits.clear();
    reader->Read(file("limits"), &facts.limits);  // which an older server does not have
    facts.read_only = read_only == "1";
    all->devices.push_back(facts);
  }
}

bool ReadPath(Reader* reader, const std::string& directory, PathFacts* path) {
  const auto file = [&](absl::string_view base) { return absl::StrCat(directory, "/", base); };
  std::string traffic;
  if (!reader->Read(file("src_addr"), &path->source) ||
      !reader->Read(file("dst_addr"), &path->destination) ||
      !reader->Read(file("hca_name"), &path->device) ||
      !reader->Read(file("hca_port"), &path->port) || !reader->Read(file("stats/rdma"), &traffic)) {
    return false;
  }
  path->directory = directory;
  path->state = "connected";
  const std::vector<std::string> numbers = absl::StrSplit(traffic, ' ');
  return numbers.size() == 4 && absl::SimpleAtoi(numbers[1], &path->read_bytes) &&
         absl::SimpleAtoi(numbers[3], &path->written_bytes);
}

SessionFacts ReadSession(Reader* reader, const std::string& name) {
  SessionFacts session;
  session.name = name;
  session.directory = absl::StrCat(kSessions, "/", name);
  const std::string paths = absl::StrCat(session.directory, "/paths");
  for (const std::string& each : reader->NamesIn(paths)) {
    PathFacts path;
    path.session = name;
    path.name = each;
    if (ReadPath(reader, absl::StrCat(paths, "/", each), &path)) session.paths.push_back(path);
  }
  reader->Read(absl::StrCat(OwnSessionDirectory(name), "/limits"), &session.limits);
  return session;
}

}  // namespace

std::string OwnSessionDirectory(const std::string& session) {
  return absl::StrCat("class/rnbd-server/ctl/sessions/", session);
}

std::string AdminSocketPath(const std::string& wanted) {
  if (!wanted.empty()) return wanted;
  const char* chosen = getenv("RNBD_ADMIN_SOCKET");
  return chosen != nullptr && *chosen != '\0' ? chosen : kDefaultAdminSocket;
}

absl::StatusOr<AdminClient> ConnectToServer(const std::string& socket) {
  absl::StatusOr<AdminClient> client = AdminClient::Connect(socket);
  const int error = StatusToErrno(client.status());
  if (error == ENOENT || error == ECONNREFUSED) {
    return absl::NotFoundError(
        absl::StrCat("no rnbd-server answers at ", socket,
                     "; its configuration has the place as admin_socket: say --socket PATH"));
  }
  return client;
}

absl::StatusOr<ServerFacts> ReadServer(AdminClient* client) {
  Reader reader(client);
  ServerFacts facts;
  for (const std::string& name : reader.NamesIn(kSessions)) {
    facts.sessions.push_back(ReadSession(&reader, name));
  }
  for (const std::string& name : reader.NamesIn(kDisks)) ReadDisk(&reader, name, &facts);
  RETURN_IF_ERROR(reader.failure());
  return facts;
}

}  // namespace rnbd::client::tool
