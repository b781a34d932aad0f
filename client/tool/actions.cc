#include "client/tool/actions.h"

#include <netdb.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/loop_device.h"
#include "client/tool/control_files.h"
#include "client/tool/in_flight.h"
#include "client/tool/mounts.h"
#include "client/tool/names.h"
#include "client/tool/reload.h"
#include "client/tool/server_actions.h"
#include "client/tool/table.h"
#include "client/tool/views.h"
#include "common/rnbd_messages.h"
#include "common/status.h"
#include "config/units.h"
#include "rtrs/address.h"

namespace rnbd::client::tool {
namespace {

absl::Status NotFound(absl::string_view what) { return absl::NotFoundError(what); }

// Of a control file's refusal, what would help.
absl::string_view Advice(int error) {
  switch (error) {
    case EACCES:
    case EPERM:
      return " (the control files are for the user who mounted, the server's devices for those "
             "whom its configuration admits)";
    case EBUSY:
      return " (in use: unmap has \"force\")";
    case EALREADY:
      return " (it is open, or somebody does the same already)";
    case ENXIO:
      return " (there is no such session: say the server's address)";
    case EEXIST:
      return " (it is there already; \"as NAME\" gives a device another name in the mount)";
    default:
      return "";
  }
}

class Runner {
 public:
  explicit Runner(const Request& request) : request_(request) {}

  absl::StatusOr<std::string> Run() {
    RETURN_IF_ERROR(Look());
    switch (request_.verb) {
      case Verb::kList:
        return List();
      case Verb::kShow:
        return Show();
      case Verb::kMap:
        return Map();
      case Verb::kResize:
        return Resize();
      case Verb::kLosetup:
        return AttachByHand();
      case Verb::kAdd:
        return AddPath();
      case Verb::kInflight:
        return InFlight();
      case Verb::kUnmap:
      case Verb::kRemap:
      case Verb::kFail:
      case Verb::kRecover:
      case Verb::kReconnect:
      case Verb::kDisconnect:
      case Verb::kDelete:
      case Verb::kReadd:
        return Change();
      case Verb::kLimit:
      case Verb::kDrain:
      case Verb::kUndrain:
      case Verb::kFence:
      case Verb::kUnfence:
      case Verb::kClose:
      case Verb::kReload:
      case Verb::kTop:
      case Verb::kHelp:
        break;
    }
    return absl::InternalError("a command without an action");
  }

 private:
  absl::Status Look() {
    ASSIGN_OR_RETURN(const Mounts mounts, FindMounts(request_.mount));
    for (const std::string& point : mounts.points) mounts_.push_back(ReadMount(point));
    if (!mounts_.empty()) {
      WarnOfSilent(mounts);
      return absl::OkStatus();
    }
    if (!request_.mount.empty() && mounts.silent.empty()) {
      return NotFound(absl::StrCat("rnbd-fuse has not mounted on ", request_.mount));
    }
    return NoMount(mounts);
  }

  std::vector<const DeviceFacts*> Devices() const {
    std::vector<const DeviceFacts*> all;
    for (const MountFacts& mount : mounts_) {
      for (const DeviceFacts& device : mount.devices) all.push_back(&device);
    }
    return all;
  }
  std::vector<const SessionFacts*> Sessions() const {
    std::vector<const SessionFacts*> all;
    for (const MountFacts& mount : mounts_) {
      for (const SessionFacts& session : mount.sessions) all.push_back(&session);
    }
    return all;
  }
  std::vector<const PathFacts*> Paths() const { return PathsOf(Sessions()); }

  const std::string& name() const { return request_.names[0]; }
  bool IsAll() const { return name() == "all"; }

  template <typename Facts>
  std::vector<const Facts*> Called(const std::vector<const Facts*>& all) const {
    return tool::Called(all, name());
  }
  std::vector<const PathFacts*> CalledPaths() const {
    return tool::CalledPaths(Sessions(), request_.names);
  }

  absl::StatusOr<std::string> Rendered(const Table& table, Target target) const {
    ASSIGN_OR_RETURN(const Table chosen, Choose(table, StandardFields(target), request_.fields));
    return Render(chosen, request_.style);
  }

  absl::StatusOr<std::string> List() const {
    switch (request_.target) {
      case Target::kSession:
        return Rendered(SessionTable(Sessions()), Target::kSession);
      case Target::kPath:
        return Rendered(PathTable(Paths()), Target::kPath);
      case Target::kDevice:
      case Target::kNone:
        break;
    }
    return Rendered(DeviceTable(Devices()), Target::kDevice);
  }

  bool Means(Target target) const {
    return request_.target == target || request_.target == Target::kNone;
  }

  absl::Status Nothing() const {
    return NotFound(absl::StrCat("nothing here is called ", absl::StrJoin(request_.names, " ")));
  }

  absl::StatusOr<std::string> Show() const {
    if (Means(Target::kDevice)) {
      const auto devices = Called(Devices());
      if (!devices.empty()) return Rendered(DeviceTable(devices), Target::kDevice);
    }
    if (Means(Target::kSession) && request_.names.size() == 1) {
      const auto sessions = Called(Sessions());
      if (!sessions.empty()) return Rendered(SessionTable(sessions), Target::kSession);
    }
    if (Means(Target::kPath)) {
      const auto paths = CalledPaths();
      if (!paths.empty()) return Rendered(PathTable(paths), Target::kPath);
    }
    return Nothing();
  }

  absl::StatusOr<std::string> InFlight() const {
    const auto devices = request_.names.empty() ? Devices() : Called(Devices());
    if (devices.empty() && !request_.names.empty()) return Nothing();
    return ShowInFlight(request_, devices);
  }

  // Writes, and says so where that is wanted.
  absl::Status Write(const std::string& file, const std::string& text) {
    const absl::Status written = WriteControl(file, text);
    if (written.ok()) {
      if (request_.verbose) absl::StrAppend(&said_, file, ": ", text, "\n");
      return written;
    }
    const int error = StatusToErrno(written);
    return rnbd::ErrnoToStatus(error, absl::StrCat(text, " > ", file, Advice(error)));
  }

  absl::StatusOr<std::string> Map() {
    ASSIGN_OR_RETURN(const MountFacts* mount, MountForMap());
    std::vector<std::string> words;
    const SessionFacts* session = SessionIn(*mount, request_.from);
    words.push_back(
        absl::StrCat("sessname=", session != nullptr ? session->name : NewSessionName()));
    if (session == nullptr) {
      std::vector<std::string> paths(request_.names.begin() + 1, request_.names.end());
      if (paths.empty()) paths.push_back(request_.from);
      for (const std::string& path : paths) {
        ASSIGN_OR_RETURN(const std::string address, PathOf(path));
        words.push_back(absl::StrCat("path=", address));
      }
    }
    words.push_back(absl::StrCat("device_path=", name()));
    if (!request_.access.empty()) words.push_back(absl::StrCat("access_mode=", request_.access));
    if (!request_.file_name.empty()) words.push_back(absl::StrCat("name=", request_.file_name));
    if (request_.loop) words.push_back("loop=auto");
    RETURN_IF_ERROR(Write(MapDeviceFile(mount->point), absl::StrJoin(words, " ")));
    const MountFacts now = ReadMount(mount->point);
    for (const DeviceFacts& device : now.devices) {
      if (device.path != name() || absl::StrCat("sessname=", device.session) != words[0]) continue;
      absl::StrAppend(&said_, now.point, "/", device.name, "\n");
    }
    return said_;
  }

  static const SessionFacts* SessionIn(const MountFacts& mount, const std::string& name) {
    for (const SessionFacts& session : mount.sessions) {
      if (IsCalled(session, name)) return &session;
    }
    return nullptr;
  }

  absl::StatusOr<const MountFacts*> MountForMap() const {
    if (mounts_.size() == 1) return &mounts_[0];
    std::vector<const MountFacts*> with_session;
    std::vector<std::string> points;
    for (const MountFacts& mount : mounts_) {
      points.push_back(mount.point);
      if (SessionIn(mount, request_.from) != nullptr) with_session.push_back(&mount);
    }
    if (with_session.size() == 1) return with_session[0];
    return absl::InvalidArgumentError(absl::StrCat("there are several mounts, say on which: on ",
                                                   absl::StrJoin(points, ", on ")));
  }

  // CLIENT@SERVER, without what a session's name cannot have.
  std::string NewSessionName() const {
    char host[256] = {};
    static_cast<void>(gethostname(host, sizeof(host) - 1));
    std::string name = absl::StrCat(
        absl::string_view(host).substr(0, absl::string_view(host).find('.')), "@", request_.from);
    for (char& c : name) {
      if (c == '.' || c == '/' || c == ':' || c == ' ') c = '-';
    }
    return name;
  }

  // Addresses without a scheme are IP, over RDMA, and so are names of hosts.
  static absl::StatusOr<std::string> PathOf(const std::string& text) {
    std::vector<std::string> ends = absl::StrSplit(text, absl::MaxSplits('@', 1));
    for (std::string& end : ends) {
      if (rtrs::ParseAddress(end).ok()) continue;
      if (const std::string ip = absl::StrCat("ip:", end); rtrs::ParseAddress(ip).ok()) {
        end = ip;
        continue;
      }
      ASSIGN_OR_RETURN(end, AddressOfHost(end));
    }
    return absl::StrJoin(ends, "@");
  }

  static absl::StatusOr<std::string> AddressOfHost(const std::string& host) {
    addrinfo* found = nullptr;
    addrinfo wanted = {};
    wanted.ai_socktype = SOCK_STREAM;
    if (getaddrinfo(host.c_str(), nullptr, &wanted, &found) != 0) {
      return NotFound(absl::StrCat("no session, address or host is called ", host));
    }
    const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
    char numeric[NI_MAXHOST];
    if (getnameinfo(found->ai_addr, found->ai_addrlen, numeric, sizeof(numeric), nullptr, 0,
                    NI_NUMERICHOST) != 0) {
      return NotFound(absl::StrCat("host ", host, " has no address"));
    }
    return absl::StrCat("ip:", numeric);
  }

  absl::StatusOr<const DeviceFacts*> OneDevice() const {
    const auto found = Called(Devices());
    if (found.empty()) return Nothing();
    if (found.size() == 1) return found[0];
    return absl::InvalidArgumentError(
        absl::StrCat("several devices are called ", name(), "; say which by MOUNT/NAME"));
  }

  absl::StatusOr<std::string> Resize() {
    ASSIGN_OR_RETURN(const DeviceFacts* device, OneDevice());
    const std::string unit(1, request_.style.unit);
    const bool has_unit = request_.style.unit != '\0' && request_.style.unit != 'B';
    ASSIGN_OR_RETURN(const uint64_t bytes,
                     config::ParseSize(absl::StrCat(request_.names[1], has_unit ? unit : "")));
    if (bytes % kSectorSize != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("a size is a multiple of ", kSectorSize, " bytes, ", bytes, " is not"));
    }
    RETURN_IF_ERROR(
        Write(absl::StrCat(device->directory, "/rnbd/resize"), absl::StrCat(bytes / kSectorSize)));
    return said_;
  }

  // The kernel's options that suit the device; this process may wait for the mount.
  absl::StatusOr<std::string> AttachByHand() {
    ASSIGN_OR_RETURN(const DeviceFacts* device, OneDevice());
    LoopOptions options;
    options.block_size = std::max(options.block_size, device->logical_block_size);
    options.read_only = device->access_mode == AccessModeName(AccessMode::kReadOnly);
    const std::string file = absl::StrCat(device->mount, "/", device->name);
    ASSIGN_OR_RETURN(const std::string loop, AttachLoop(file, options));
    if (request_.verbose) absl::StrAppend(&said_, loop, " is attached to ", file, "\n");
    return request_.verbose ? said_ : absl::StrCat(loop, "\n");
  }

  absl::StatusOr<std::string> AddPath() {
    const auto sessions = Called(Sessions());
    if (sessions.empty()) return Nothing();
    ASSIGN_OR_RETURN(const std::string path, PathOf(request_.names[1]));
    for (const SessionFacts* session : sessions) {
      RETURN_IF_ERROR(Write(absl::StrCat(session->directory, "/add_path"), path));
    }
    return said_;
  }

  // Commands about what is there.
  absl::StatusOr<std::string> Change() {
    bool any = false;
    if (Means(Target::kDevice)) RETURN_IF_ERROR(ChangeDevices(&any));
    if (Means(Target::kSession) && request_.names.size() == 1 && (!any || IsAll())) {
      RETURN_IF_ERROR(ChangeSessions(&any));
    }
    if (Means(Target::kPath) && !any) RETURN_IF_ERROR(ChangePaths(&any));
    if (!any && !IsAll()) return Nothing();
    return said_;
  }

  absl::Status ChangeDevices(bool* any) {
    const bool all = IsAll() && request_.verb == Verb::kRecover;
    const auto devices = all ? Devices() : Called(Devices());
    if (devices.empty()) return absl::OkStatus();
    if (!all) RETURN_IF_ERROR(OneDevice().status());
    for (const DeviceFacts* device : devices) {
      switch (request_.verb) {
        case Verb::kUnmap:
          RETURN_IF_ERROR(Unmap(*device, request_.force));
          break;
        case Verb::kRemap:
          RETURN_IF_ERROR(Remap(*device));
          break;
        case Verb::kFail:
          RETURN_IF_ERROR(Write(absl::StrCat(device->directory, "/rnbd/fail"), "1"));
          break;
        case Verb::kRecover:
          if (device->state != "open") RETURN_IF_ERROR(Remap(*device));
          break;
        default:
          return absl::OkStatus();
      }
      *any = true;
    }
    return absl::OkStatus();
  }

  absl::Status Unmap(const DeviceFacts& device, bool force) {
    return Write(absl::StrCat(device.directory, "/rnbd/unmap_device"), force ? "force" : "normal");
  }

  absl::Status Remap(const DeviceFacts& device) {
    if (!request_.force) return Write(absl::StrCat(device.directory, "/rnbd/remap_device"), "1");
    // Its session may end with it.
    std::string line = absl::StrCat("sessname=", device.session, " device_path=", device.path,
                                    " access_mode=", device.access_mode, " name=", device.name);
    for (const PathFacts* path : Paths()) {
      if (path->session != device.session || path->mount != device.mount) continue;
      absl::StrAppend(&line, " path=", path->destination);
    }
    if (!device.loop.empty()) absl::StrAppend(&line, " loop=auto");
    RETURN_IF_ERROR(Unmap(device, /*force=*/true));
    return Write(MapDeviceFile(device.mount), line);
  }

  absl::Status ChangeSessions(bool* any) {
    const bool all = IsAll() && request_.verb == Verb::kRecover;
    for (const SessionFacts* session : all ? Sessions() : Called(Sessions())) {
      switch (request_.verb) {
        case Verb::kReconnect:
        case Verb::kRecover:
          for (const PathFacts& path : session->paths) RETURN_IF_ERROR(ChangePath(path));
          break;
        case Verb::kRemap:
          for (const DeviceFacts* device : Devices()) {
            const bool of_session =
                device->session == session->name && device->mount == session->mount;
            if (!of_session || (!request_.force && device->state == "open")) continue;
            RETURN_IF_ERROR(Remap(*device));
          }
          break;
        default:
          return absl::OkStatus();
      }
      *any = true;
    }
    return absl::OkStatus();
  }

  absl::Status ChangePaths(bool* any) {
    const bool all = IsAll() && request_.verb == Verb::kRecover;
    for (const PathFacts* path : all ? Paths() : CalledPaths()) {
      *any = true;
      RETURN_IF_ERROR(ChangePath(*path));
    }
    return absl::OkStatus();
  }

  absl::Status ChangePath(const PathFacts& path) {
    const auto one = [&](absl::string_view file) {
      return Write(absl::StrCat(path.directory, "/", file), "1");
    };
    switch (request_.verb) {
      case Verb::kReconnect:
        return one("reconnect");
      case Verb::kRecover:
        return path.connected() ? absl::OkStatus() : one("reconnect");
      case Verb::kDisconnect:
        return one("disconnect");
      case Verb::kDelete:
        return one("remove_path");
      case Verb::kReadd:
        RETURN_IF_ERROR(one("remove_path"));
        return Write(absl::StrCat(path.mount, "/sys/class/rtrs-client/", path.session, "/add_path"),
                     path.destination);
      default:
        return absl::InvalidArgumentError("paths know no such command");
    }
  }

  const Request& request_;
  std::vector<MountFacts> mounts_;
  std::string said_;
};

}  // namespace

absl::StatusOr<std::string> Run(const Request& request) {
  if (request.verb == Verb::kReload) return RunReload(request);
  return request.server ? RunOnServer(request) : Runner(request).Run();
}

}  // namespace rnbd::client::tool
