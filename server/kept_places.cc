#include "server/kept_places.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "common/status.h"
#include "common/unique_fd.h"

namespace rnbd::server {
namespace {

constexpr absl::string_view kHeader = "rnbd-server writers 1";

// Fields with tabs between them, escaped as in C.
std::string Line(const ExportTable::Holder& holder) {
  return absl::StrCat(AccessModeName(holder.mode), "\t", absl::CHexEscape(holder.session_name),
                      "\t", absl::CHexEscape(holder.device_name), "\t",
                      absl::CHexEscape(holder.key.disk), "\t", holder.key.begin, "\t",
                      holder.key.end, "\n");
}

bool ParseMode(absl::string_view text, AccessMode* mode) {
  for (AccessMode each : {AccessMode::kReadOnly, AccessMode::kReadWrite, AccessMode::kMigration}) {
    if (AccessModeName(each) != text) continue;
    *mode = each;
    return true;
  }
  return false;
}

bool ParseLine(absl::string_view line, ExportTable::Holder* holder) {
  const std::vector<absl::string_view> fields = absl::StrSplit(line, '\t');
  return fields.size() == 6 && ParseMode(fields[0], &holder->mode) &&
         absl::CUnescape(fields[1], &holder->session_name) &&
         absl::CUnescape(fields[2], &holder->device_name) &&
         absl::CUnescape(fields[3], &holder->key.disk) &&
         absl::SimpleAtoi(fields[4], &holder->key.begin) &&
         absl::SimpleAtoi(fields[5], &holder->key.end);
}

absl::Status WriteDurably(const std::string& path, absl::string_view text) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoToStatus(errno, absl::StrCat("create ", path));
  while (!text.empty()) {
    const ssize_t written = write(fd.get(), text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoToStatus(errno, absl::StrCat("write ", path));
    text.remove_prefix(static_cast<size_t>(written));
  }
  if (fdatasync(fd.get()) != 0) return ErrnoToStatus(errno, absl::StrCat("write ", path));
  return absl::OkStatus();
}

}  // namespace

absl::Status SavePlaces(const std::string& path, const std::vector<ExportTable::Holder>& writers) {
  std::string text = absl::StrCat(kHeader, "\n");
  for (const ExportTable::Holder& holder : writers) absl::StrAppend(&text, Line(holder));
  const std::string next = absl::StrCat(path, ".new");
  RETURN_IF_ERROR(WriteDurably(next, text));
  if (std::rename(next.c_str(), path.c_str()) == 0) return absl::OkStatus();
  return ErrnoToStatus(errno, absl::StrCat("replace ", path));
}

absl::StatusOr<std::vector<ExportTable::Holder>> LoadPlaces(const std::string& path) {
  std::ifstream file(path);
  std::vector<ExportTable::Holder> writers;
  if (!file.is_open()) {
    if (errno == ENOENT) return writers;
    return ErrnoToStatus(errno, absl::StrCat("read ", path));
  }
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    if (number == 1 && line == kHeader) continue;
    ExportTable::Holder holder;
    if (number == 1 || !ParseLine(line, &holder)) {
      return ErrnoToStatus(
          EINVAL, absl::StrCat(path, ":", number, ": not written by this version of rnbd-server"));
    }
    writers.push_back(std::move(holder));
  }
  return writers;
}

}  // namespace rnbd::server
