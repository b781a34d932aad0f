#ifndef RNBD_CONFIG_YAML_READER_H_
#define RNBD_CONFIG_YAML_READER_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// YAML as a tree whose nodes know where they were written, and the errors of a file. The only place
// that knows of yaml-cpp and its exceptions.
//
// What makes a configuration file ambiguous or a small file huge is refused: anchors, aliases,
// tags, several documents, keys that are not plain text, duplicate keys, and everything beyond the
// limits below.
namespace rnbd::config {

inline constexpr size_t kMaxFileBytes = 4 << 20;
inline constexpr size_t kMaxNodes = 200'000;
inline constexpr int kMaxDepth = 16;
// Further errors are counted only.
inline constexpr size_t kMaxErrors = 50;

// A place in the file; both count from 1.
struct Mark {
  int line = 1;
  int column = 1;
};

struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  struct Key {
    std::string name;
    Mark mark;
  };

  Kind kind = Kind::kNull;
  Mark mark;
  std::string scalar;           // kScalar: without control characters
  std::vector<Key> keys;        // kMap: of `items`, in the file's order, without duplicates
  std::vector<YamlNode> items;  // kList, kMap
};

// "nothing", "text", "a list", "a map".
absl::string_view KindName(YamlNode::Kind kind);

// Gathers everything that is wrong with one file.
class ErrorList {
 public:
  explicit ErrorList(absl::string_view file) : file_(file) {}

  void Add(Mark mark, absl::string_view what);
  bool empty() const { return errors_.empty(); }
  const std::string& file() const { return file_; }

  // OK, or kInvalidArgument with a line "file:line:column: what" for each error, in the file's
  // order.
  absl::Status ToStatus() const;

 private:
  struct Error {
    Mark mark;
    std::string what;
  };
  const std::string file_;
  std::vector<Error> errors_;
};

// The tree of the text. What cannot be understood is added to `errors` and left out of the tree; if
// nothing can be, the tree is kNull. An empty file is kNull without an error.
YamlNode ParseYaml(absl::string_view text, ErrorList* errors);

// The content of a regular file of at most kMaxFileBytes; errors name the path. Not of a pipe,
// which could not be read again for a reload.
absl::StatusOr<std::string> ReadFile(const std::string& path);

}  // namespace rnbd::config

#endif  // RNBD_CONFIG_YAML_READER_H_
