#include "client/mount_state.h"

#include <limits.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace rnbd::client {
namespace {

// The file: a header, the general record, the changes, the configuration, the devices' records. It
// never leaves this machine. Programs before one kept the configuration left that record empty.
struct Header {
  char magic[8];
  uint32_t version;
  uint32_t reserved;
};
constexpr char kMagic[] = {'r', 'n', 'b', 'd', 'f', 'u', 's', 'e'};
constexpr uint32_t kVersion = 2;

// A record: which of its two copies counts, and the copies, each behind its length.
constexpr off_t kGeneralOffset = 64;
constexpr size_t kGeneralBytes = PATH_MAX + 1024;
constexpr off_t kChangesOffset = 16 << 10;
constexpr off_t kFileOffset = 9 << 20;
constexpr off_t kDevicesOffset = 16 << 20;
constexpr size_t kDeviceStride = 8192;
constexpr size_t kDeviceBytes = kDeviceStride / 2 - 8;
static_assert(kGeneralOffset + 2 * (kGeneralBytes + 8) < kChangesOffset);
static_assert(kChangesOffset + 2 * (MountState::kMaxChangesBytes + 8) < kFileOffset);
static_assert(kFileOffset + 2 * (MountState::kMaxFileBytes + 8) < kDevicesOffset);

absl::Status Damaged(absl::string_view what) {
  return ErrnoToStatus(EPROTO, absl::StrCat("the state of the mount: ", what));
}

absl::Status WriteAt(int fd, const void* data, size_t bytes, off_t offset) {
  const ssize_t written = pwrite(fd, data, bytes, offset);
  if (written == static_cast<ssize_t>(bytes)) return absl::OkStatus();
  return ErrnoToStatus(written < 0 ? errno : EIO, "write down the state of the mount");
}

// False where the file ends before.
bool ReadAt(int fd, void* data, size_t bytes, off_t offset) {
  return pread(fd, data, bytes, offset) == static_cast<ssize_t>(bytes);
}

// Strings and plain values one behind the other.
class Encoder {
 public:
  template <typename T>
  void Value(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    text_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void String(absl::string_view string) {
    Value(static_cast<uint32_t>(string.size()));
    text_.append(string.data(), string.size());
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

class Decoder {
 public:
  explicit Decoder(absl::string_view text) : rest_(text) {}

  template <typename T>
  T Value() {
    T value = {};
    if (rest_.size() < sizeof(value)) {
      ok_ = false;
    } else {
      memcpy(&value, rest_.data(), sizeof(value));
      rest_.remove_prefix(sizeof(value));
    }
    return value;
  }
  std::string String() {
    const auto size = Value<uint32_t>();
    if (size > rest_.size()) ok_ = false;
    if (!ok_) return std::string();
    std::string string(rest_.substr(0, size));
    rest_.remove_prefix(size);
    return string;
  }
  bool ok() const { return ok_; }
  bool at_end() const { return rest_.empty(); }

 private:
  absl::string_view rest_;
  bool ok_ = true;
};

// The first word of a record is 0 while it is empty, otherwise the number of the copy that counts.
struct Record {
  off_t offset;
  size_t capacity;

  off_t CopyOffset(uint32_t copy) const {
    return offset + 8 + static_cast<off_t>((copy - 1) * (capacity + 4));
  }
};

Record GeneralRecord() { return {kGeneralOffset, kGeneralBytes}; }
Record DeviceRecord(size_t slot) {
  return {kDevicesOffset + static_cast<off_t>(slot * kDeviceStride), kDeviceBytes};
}

absl::Status WriteRecord(int fd, const Record& record, const std::string& text) {
  if (text.size() > record.capacity) {
    return ErrnoToStatus(EINVAL, absl::StrCat("write down ", text.size(), " bytes of state"));
  }
  uint32_t active = 0;
  static_cast<void>(ReadAt(fd, &active, sizeof(active), record.offset));
  const uint32_t other = active == 1 ? 2 : 1;
  const auto size = static_cast<uint32_t>(text.size());
  const off_t at = record.CopyOffset(other);
  RETURN_IF_ERROR(WriteAt(fd, &size, sizeof(size), at));
  RETURN_IF_ERROR(WriteAt(fd, text.data(), text.size(), at + static_cast<off_t>(sizeof(size))));
  return WriteAt(fd, &other, sizeof(other), record.offset);
}

// Empty where nothing was written.
absl::StatusOr<std::string> ReadRecord(int fd, const Record& record) {
  uint32_t active = 0;
  if (!ReadAt(fd, &active, sizeof(active), record.offset) || active == 0) return std::string();
  uint32_t size = 0;
  if (active > 2 || !ReadAt(fd, &size, sizeof(size), record.CopyOffset(active)) ||
      size > record.capacity) {
    return Damaged("a record without form");
  }
  std::string text(size, '\0');
  if (!ReadAt(fd, text.data(), size, record.CopyOffset(active) + 4)) {
    return Damaged("a record that was cut off");
  }
  return text;
}

Record ChangesRecord() { return {kChangesOffset, MountState::kMaxChangesBytes}; }
Record FileRecord() { return {kFileOffset, MountState::kMaxFileBytes}; }

std::string EncodeDevice(const MountState::Device& device) {
  Encoder out;
  out.Value(device.inode);
  out.String(device.session);
  out.String(device.path);
  out.String(device.name);
  out.Value(device.access_mode);
  out.Value(device.size);
  out.Value(device.logical_block_size);
  out.Value(device.physical_block_size);
  out.Value(device.identity.disk);
  out.Value(device.identity.host_start);
  out.Value(device.mode);
  out.Value(device.owner);
  out.Value(device.group);
  out.Value(device.accessed);
  out.Value(device.modified);
  out.Value(device.changed);
  const size_t handles = std::min(device.handles.size(), MountState::kMaxHandles);
  out.Value(static_cast<uint32_t>(handles));
  for (size_t i = 0; i < handles; ++i) out.Value(device.handles[i]);
  return out.text();
}

absl::StatusOr<MountState::Device> DecodeDevice(absl::string_view text) {
  Decoder in(text);
  MountState::Device device;
  device.inode = in.Value<uint64_t>();
  device.session = in.String();
  device.path = in.String();
  device.name = in.String();
  device.access_mode = in.Value<AccessMode>();
  device.size = in.Value<uint64_t>();
  device.logical_block_size = in.Value<uint32_t>();
  device.physical_block_size = in.Value<uint32_t>();
  device.identity.disk = in.Value<uint64_t>();
  device.identity.host_start = in.Value<uint32_t>();
  device.mode = in.Value<mode_t>();
  device.owner = in.Value<uid_t>();
  device.group = in.Value<gid_t>();
  device.accessed = in.Value<timespec>();
  device.modified = in.Value<timespec>();
  device.changed = in.Value<timespec>();
  const auto handles = in.Value<uint32_t>();
  for (uint32_t i = 0; i < handles && in.ok(); ++i) device.handles.push_back(in.Value<uint64_t>());
  if (!in.ok()) return Damaged("a device that was cut off");
  return device;
}

std::string EncodeGeneral(const MountState::Contents& general) {
  Encoder out;
  out.String(general.mount_point);
  out.Value(general.mount_id);
  out.String(general.init);
  out.Value(general.last_inode);
  out.Value(general.drained);
  out.Value(general.takeovers);
  return out.text();
}

absl::StatusOr<MountState::Contents> DecodeGeneral(absl::string_view text) {
  MountState::Contents general;
  if (text.empty()) return general;
  Decoder in(text);
  general.mount_point = in.String();
  general.mount_id = in.Value<uint64_t>();
  general.init = in.String();
  general.last_inode = in.Value<uint64_t>();
  general.drained = in.Value<bool>();
  // Programs before it was counted did not write it.
  if (!in.at_end()) general.takeovers = in.Value<uint64_t>();
  if (!in.ok()) return Damaged("a general record that was cut off");
  return general;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MountState>> MountState::Create() {
  UniqueFd fd(memfd_create("rnbd-fuse-state", MFD_CLOEXEC));
  if (!fd.valid()) return ErrnoToStatus(errno, "create a file in memory");
  Header header = {};
  memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  RETURN_IF_ERROR(WriteAt(fd.get(), &header, sizeof(header), 0));
  return std::unique_ptr<MountState>(new MountState(std::move(fd)));
}

absl::StatusOr<std::unique_ptr<MountState>> MountState::Open(UniqueFd fd) {
  Header header = {};
  if (!ReadAt(fd.get(), &header, sizeof(header), 0) ||
      memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) {
    return Damaged("not written by rnbd-fuse");
  }
  if (header.version != kVersion) {
    return Damaged(absl::StrCat("written by another version, as format ", header.version,
                                "; this one knows ", kVersion));
  }
  std::unique_ptr<MountState> state(new MountState(std::move(fd)));
  RETURN_IF_ERROR(state->Read().status());
  return state;
}

absl::StatusOr<MountState::Contents> MountState::Read() const {
  ASSIGN_OR_RETURN(const std::string general, ReadRecord(fd_.get(), GeneralRecord()));
  ASSIGN_OR_RETURN(Contents contents, DecodeGeneral(general));
  struct stat file;
  if (fstat(fd_.get(), &file) != 0) return ErrnoToStatus(errno, "look at the state of the mount");
  ASSIGN_OR_RETURN(contents.changes, ReadRecord(fd_.get(), ChangesRecord()));
  ASSIGN_OR_RETURN(contents.file, ReadRecord(fd_.get(), FileRecord()));
  for (size_t slot = 0; DeviceRecord(slot).offset < file.st_size; ++slot) {
    ASSIGN_OR_RETURN(const std::string text, ReadRecord(fd_.get(), DeviceRecord(slot)));
    if (text.empty()) continue;
    ASSIGN_OR_RETURN(Device device, DecodeDevice(text));
    contents.devices.push_back(std::move(device));
  }
  return contents;
}

// Read again for each change: another process may have written it.
absl::Status MountState::ChangeGeneral(const std::function<void(Contents*)>& change) {
  ASSIGN_OR_RETURN(const std::string text, ReadRecord(fd_.get(), GeneralRecord()));
  ASSIGN_OR_RETURN(Contents general, DecodeGeneral(text));
  change(&general);
  return WriteRecord(fd_.get(), GeneralRecord(), EncodeGeneral(general));
}

absl::Status MountState::SetMount(absl::string_view mount_point, uint64_t mount_id) {
  absl::MutexLock lock(&mutex_);
  return ChangeGeneral([&](Contents* general) {
    general->mount_point = std::string(mount_point);
    general->mount_id = mount_id;
  });
}

absl::Status MountState::SetInit(absl::string_view init) {
  absl::MutexLock lock(&mutex_);
  return ChangeGeneral([&](Contents* general) { general->init = std::string(init); });
}

absl::Status MountState::SetDrained(bool drained) {
  absl::MutexLock lock(&mutex_);
  return ChangeGeneral([&](Contents* general) { general->drained = drained; });
}

absl::Status MountState::CountTakeover() {
  absl::MutexLock lock(&mutex_);
  return ChangeGeneral([&](Contents* general) { ++general->takeovers; });
}

absl::Status MountState::SetChanges(absl::string_view changes) {
  absl::MutexLock lock(&mutex_);
  return WriteRecord(fd_.get(), ChangesRecord(), std::string(changes));
}

absl::Status MountState::SetFile(absl::string_view text) {
  absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(WriteRecord(fd_.get(), FileRecord(), std::string()));
  return WriteRecord(fd_.get(), FileRecord(), std::string(text));
}

absl::Status MountState::PutDevice(size_t slot, const Device& device) {
  if (slot >= kMaxDevices) return ErrnoToStatus(EINVAL, "write down too many devices");
  absl::MutexLock lock(&mutex_);
  // First, so that a number which was ever shown is never given again.
  RETURN_IF_ERROR(ChangeGeneral([&](Contents* general) {
    general->last_inode = std::max(general->last_inode, device.inode);
  }));
  return WriteRecord(fd_.get(), DeviceRecord(slot), EncodeDevice(device));
}

absl::Status MountState::RemoveDevice(size_t slot) {
  if (slot >= kMaxDevices) return ErrnoToStatus(EINVAL, "forget a device");
  absl::MutexLock lock(&mutex_);
  return WriteRecord(fd_.get(), DeviceRecord(slot), std::string());
}

}  // namespace rnbd::client
