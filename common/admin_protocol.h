#ifndef RNBD_COMMON_ADMIN_PROTOCOL_H_
#define RNBD_COMMON_ADMIN_PROTOCOL_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/attribute_tree.h"
#include "common/wire.h"

// What is said over the server's admin socket: files of an attribute tree are listed, read and
// written. The client asks, the server answers, one question at a time; a connection may be used
// for any number of them. Both ends are on one machine, and may be of different versions.
//
//   question: AdminQuestion, path, text     answer: AdminAnswer, body
namespace rnbd {

enum class AdminOperation : uint8_t {
  kList = 1,      // body: entries of a directory, see AppendAdminEntry()
  kRead = 2,      // body: the attribute's text
  kWrite = 3,     // `text` is stored; no body
  kReadLink = 4,  // body: where the link leads
};

inline constexpr uint32_t kAdminMagic = 0x61626e72;  // "rnba"
inline constexpr uint8_t kAdminVersion = 1;
inline constexpr size_t kMaxAdminPath = 4095;
inline constexpr size_t kMaxAdminText = AttributeTree::kMaxText;
inline constexpr size_t kMaxAdminBody = 64 << 10;
// Where rnbd looks for a server that it is not told about.
inline constexpr char kDefaultAdminSocket[] = "/run/rnbd/admin.sock";

struct AdminQuestion {
  Le32 magic = kAdminMagic;
  uint8_t version = kAdminVersion;
  uint8_t operation = 0;
  Le16 path_length;
  Le32 text_length;
  Le64 after;  // kList: entries behind the one with this inode number
};
static_assert(WireMessage<AdminQuestion> && sizeof(AdminQuestion) == 20);

struct AdminAnswer {
  Le32 magic = kAdminMagic;
  Le32 error;  // 0, or a positive errno: then the body says why
  Le32 body_length;
};
static_assert(WireMessage<AdminAnswer> && sizeof(AdminAnswer) == 12);

// OK, or EPROTO for a question that is none: nothing behind it can be understood.
absl::Status CheckAdminQuestion(const AdminQuestion& question);
absl::Status CheckAdminAnswer(const AdminAnswer& answer);

struct AdminEntry {
  uint64_t inode = 0;
  AttributeTree::Kind kind = AttributeTree::Kind::kDirectory;
  mode_t mode = 0;
  std::string name;
  bool operator==(const AdminEntry&) const = default;
};

// False, with `body` as it was, where it would become too long: the rest is for the next question.
bool AppendAdminEntry(const AdminEntry& entry, std::string* body);
// EPROTO where `body` is something else.
absl::StatusOr<std::vector<AdminEntry>> ParseAdminEntries(absl::string_view body);

}  // namespace rnbd

#endif  // RNBD_COMMON_ADMIN_PROTOCOL_H_
