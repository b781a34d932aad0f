#include "common/admin_protocol.h"

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace rnbd {
namespace {

// In front of an entry's name.
struct EntryHeader {
  Le64 inode;
  uint8_t kind = 0;
  Le16 mode;
  Le16 name_length;
};
static_assert(WireMessage<EntryHeader> && sizeof(EntryHeader) == 13);

absl::Status NotUnderstood(absl::string_view what) { return rnbd::ErrnoToStatus(EPROTO, what); }

absl::Span<const uint8_t> Bytes(absl::string_view text) {
  return absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

}  // namespace

absl::Status CheckAdminQuestion(const AdminQuestion& question) {
  if (question.magic != kAdminMagic) return NotUnderstood("the admin socket: this is no question");
  if (question.version != kAdminVersion) {
    return NotUnderstood(absl::StrCat("the admin socket: version ", int{question.version},
                                      ", this server speaks ", int{kAdminVersion}));
  }
  if (question.path_length > kMaxAdminPath || question.text_length > kMaxAdminText) {
    return NotUnderstood("the admin socket: the question is too long");
  }
  if (question.operation < static_cast<uint8_t>(AdminOperation::kList) ||
      question.operation > static_cast<uint8_t>(AdminOperation::kReadLink)) {
    return NotUnderstood(
        absl::StrCat("the admin socket: no operation ", int{question.operation}, " is known"));
  }
  return absl::OkStatus();
}

absl::Status CheckAdminAnswer(const AdminAnswer& answer) {
  if (answer.magic != kAdminMagic || answer.body_length > kMaxAdminBody) {
    return NotUnderstood("what answers is no admin socket of rnbd-server");
  }
  return absl::OkStatus();
}

bool AppendAdminEntry(const AdminEntry& entry, std::string* body) {
  if (body->size() + sizeof(EntryHeader) + entry.name.size() > kMaxAdminBody) return false;
  EntryHeader header;
  header.inode = entry.inode;
  header.kind = static_cast<uint8_t>(entry.kind);
  header.mode = static_cast<uint16_t>(entry.mode);
  header.name_length = static_cast<uint16_t>(entry.name.size());
  body->append(reinterpret_cast<const char*>(&header), sizeof(header));
  body->append(entry.name);
  return true;
}

absl::StatusOr<std::vector<AdminEntry>> ParseAdminEntries(absl::string_view body) {
  std::vector<AdminEntry> entries;
  while (!body.empty()) {
    EntryHeader header;
    if (!CopyMessage(Bytes(body), 0, &header)) return NotUnderstood("an entry that is cut off");
    body.remove_prefix(sizeof(header));
    if (header.name_length > body.size() ||
        header.kind > static_cast<uint8_t>(AttributeTree::Kind::kLink)) {
      return NotUnderstood("an entry that is none");
    }
    entries.push_back({header.inode, static_cast<AttributeTree::Kind>(header.kind), header.mode,
                       std::string(body.substr(0, header.name_length))});
    body.remove_prefix(header.name_length);
  }
  return entries;
}

}  // namespace rnbd
