#include "client/tool/server_actions.h"

#include <cerrno>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "client/tool/control_files.h"
#include "client/tool/in_flight.h"
#include "client/tool/names.h"
#include "client/tool/server_files.h"
#include "client/tool/server_views.h"
#include "client/tool/table.h"
#include "common/admin_client.h"
#include "common/status.h"

namespace rnbd::client::tool {
namespace {

class ServerRunner {
 public:
  ServerRunner(const Request& request, AdminClient* client, const ServerFacts& facts)
      : request_(request), client_(client), facts_(facts) {}

  absl::StatusOr<std::string> Run() {
    switch (request_.verb) {
      case Verb::kList:
        return List();
      case Verb::kShow:
        return Show();
      case Verb::kInflight:
        return InFlight();
      case Verb::kClose:
        return Close();
      case Verb::kResize:
        return Resize();
      case Verb::kLimit:
        return Limit();
      case Verb::kDrain:
      case Verb::kUndrain:
        return Drain();
      case Verb::kFence:
      case Verb::kUnfence:
        return Fence();
      case Verb::kDisconnect:
        return Disconnect();
      default:
        return absl::InternalError("a command without an action");
    }
  }

 private:
  template <typename Facts>
  static std::vector<const Facts*> All(const std::vector<Facts>& facts) {
    std::vector<const Facts*> all;
    for (const Facts& each : facts) all.push_back(&each);
    return all;
  }

  std::vector<const PathFacts*> Paths() const { return PathsOf(All(facts_.sessions)); }

  const std::string& name() const { return request_.names[0]; }

  template <typename Facts>
  std::vector<const Facts*> Called(const std::vector<const Facts*>& all) const {
    return tool::Called(all, name());
  }
  std::vector<const PathFacts*> CalledPaths() const {
    return tool::CalledPaths(All(facts_.sessions), request_.names);
  }

  absl::StatusOr<std::string> Rendered(const Table& table, Target target) const {
    ASSIGN_OR_RETURN(const Table chosen,
                     Choose(table, StandardServerFields(target), request_.fields));
    return Render(chosen, request_.style);
  }

  absl::StatusOr<std::string> List() const {
    switch (request_.target) {
      case Target::kSession:
        return Rendered(ServerSessionTable(All(facts_.sessions)), Target::kSession);
      case Target::kPath:
        return Rendered(ServerPathTable(Paths()), Target::kPath);
      case Target::kDevice:
      case Target::kNone:
        break;
    }
    return Rendered(ExportTable(All(facts_.devices)), Target::kDevice);
  }

  bool Means(Target target) const {
    return request_.target == target || request_.target == Target::kNone;
  }

  absl::Status Nothing() const {
    return absl::NotFoundError(
        absl::StrCat("nothing of the server is called ", absl::StrJoin(request_.names, " ")));
  }

  absl::StatusOr<std::string> Show() const {
    if (Means(Target::kDevice)) {
      const auto devices = Called(All(facts_.devices));
      if (!devices.empty()) return Rendered(ExportTable(devices), Target::kDevice);
    }
    if (Means(Target::kSession) && request_.names.size() == 1) {
      const auto sessions = Called(All(facts_.sessions));
      if (!sessions.empty()) return Rendered(ServerSessionTable(sessions), Target::kSession);
    }
    if (Means(Target::kPath)) {
      const auto paths = CalledPaths();
      if (!paths.empty()) return Rendered(ServerPathTable(paths), Target::kPath);
    }
    return Nothing();
  }

  absl::StatusOr<std::string> InFlight() const {
    const auto devices = request_.names.empty() ? All(facts_.devices) : Called(All(facts_.devices));
    if (devices.empty() && !request_.names.empty()) return Nothing();
    return ShowInFlight(request_, client_, devices);
  }

  // Writes, and says so where that is wanted.
  absl::Status Write(const std::string& file, const std::string& text) {
    absl::Status written = client_->Write(file, text);
    if (!written.ok()) return Annotate(written, absl::StrCat(text, " > ", file));
    if (request_.verbose) absl::StrAppend(&said_, file, ": ", text, "\n");
    return written;
  }

  // Sessions' uses of a disk, or one session's, where that is said.
  std::vector<const ExportFacts*> Uses() const {
    std::vector<const ExportFacts*> found;
    for (const ExportFacts* device : Called(All(facts_.devices))) {
      if (request_.from.empty() || device->session == request_.from) found.push_back(device);
    }
    return found;
  }

  absl::StatusOr<std::string> Resize() {
    const std::vector<const ExportFacts*> found = Uses();
    if (found.empty()) return Nothing();
    for (const ExportFacts* device : found) {
      RETURN_IF_ERROR(Write(absl::StrCat(device->directory, "/resize"), "1"));
    }
    return said_;
  }

  // Of a session, or of each use of a disk.
  absl::StatusOr<std::string> Limit() {
    std::vector<std::string> directories;
    if (Means(Target::kSession)) {
      for (const SessionFacts* session : Called(All(facts_.sessions))) {
        directories.push_back(OwnSessionDirectory(session->name));
      }
    }
    if (Means(Target::kDevice) && directories.empty()) {
      for (const ExportFacts* device : Uses()) directories.push_back(device->directory);
    }
    if (directories.empty()) return Nothing();
    for (const std::string& directory : directories) {
      RETURN_IF_ERROR(Write(absl::StrCat(directory, "/limits"), request_.limits));
    }
    return said_;
  }

  absl::StatusOr<std::string> Drain() {
    if (request_.names.empty()) {
      const bool drain = request_.verb == Verb::kDrain;
      RETURN_IF_ERROR(Write("class/rnbd-server/ctl/drain", drain ? "1" : "0"));
      return said_;
    }
    if (request_.target == Target::kDevice) return DrainDisk();
    const auto sessions = Called(All(facts_.sessions));
    if (sessions.empty()) return Nothing();
    for (const SessionFacts* session : sessions) {
      RETURN_IF_ERROR(Write(absl::StrCat(OwnSessionDirectory(session->name), "/drain"), "1"));
    }
    return said_;
  }

  // One that nobody has open is not in the tree: then it is named by its path.
  absl::StatusOr<std::string> DrainDisk() {
    std::set<std::string> names;
    for (const ExportFacts* device : Called(All(facts_.devices))) names.insert(device->name);
    const bool drain = request_.verb == Verb::kDrain;
    if (names.empty() && drain && name()[0] != '/') return Nothing();
    if (names.empty()) {
      names = {absl::StrReplaceAll(absl::StripPrefix(name(), "/dev/"), {{"/", "!"}})};
    }
    for (const std::string& each : names) {
      RETURN_IF_ERROR(Write(
          absl::StrCat("class/rnbd-server/ctl/", drain ? "drain_disk" : "undrain_disk"), each));
    }
    return said_;
  }

  // A name that no session has at the moment is fenced as well: it is taken as it stands.
  absl::StatusOr<std::string> Fence() {
    std::vector<std::string> names;
    for (const SessionFacts* session : Called(All(facts_.sessions))) {
      names.push_back(session->name);
    }
    if (names.empty() || request_.verb == Verb::kUnfence) names = {name()};
    const bool fence = request_.verb == Verb::kFence;
    const std::string time = request_.time.empty() ? "" : absl::StrCat(" for ", request_.time);
    for (const std::string& each : names) {
      RETURN_IF_ERROR(Write(absl::StrCat("class/rnbd-server/ctl/", fence ? "fence" : "unfence"),
                            absl::StrCat(each, fence ? time : "")));
    }
    return said_;
  }

  // With several uses it must be said whose.
  absl::StatusOr<std::string> Close() {
    const std::vector<const ExportFacts*> found = Uses();
    if (found.empty()) return Nothing();
    std::vector<std::string> sessions;
    for (const ExportFacts* device : found) sessions.push_back(device->session);
    if (found.size() > 1 && request_.from.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          name(),
          " is open several times, say for which session: ", absl::StrJoin(sessions, ", ")));
    }
    for (const ExportFacts* device : found) {
      RETURN_IF_ERROR(Write(absl::StrCat(device->directory, "/force_close"), "1"));
    }
    return said_;
  }

  absl::StatusOr<std::string> Disconnect() {
    std::vector<const PathFacts*> paths;
    if (Means(Target::kSession) && request_.names.size() == 1) {
      for (const SessionFacts* session : Called(All(facts_.sessions))) {
        for (const PathFacts& path : session->paths) paths.push_back(&path);
      }
    }
    if (Means(Target::kPath) && paths.empty()) paths = CalledPaths();
    if (paths.empty()) return Nothing();
    for (const PathFacts* path : paths) {
      RETURN_IF_ERROR(Write(absl::StrCat(path->directory, "/disconnect"), "1"));
    }
    return said_;
  }

  const Request& request_;
  AdminClient* const client_;
  const ServerFacts& facts_;
  std::string said_;
};

}  // namespace

absl::StatusOr<std::string> RunOnServer(const Request& request) {
  ASSIGN_OR_RETURN(AdminClient client, ConnectToServer(AdminSocketPath(request.socket)));
  ASSIGN_OR_RETURN(const ServerFacts facts, ReadServer(&client));
  return ServerRunner(request, &client, facts).Run();
}

}  // namespace rnbd::client::tool
