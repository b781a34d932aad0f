#include "config/yaml_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/types/optional.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "config/units.h"
#include "yaml-cpp/depthguard.h"
#include "yaml-cpp/eventhandler.h"
#include "yaml-cpp/exceptions.h"
#include "yaml-cpp/mark.h"
#include "yaml-cpp/parser.h"

namespace rnbd::config {
namespace {

constexpr absl::string_view kByteOrderMark = "\xEF\xBB\xBF";

Mark FromYaml(const YAML::Mark& mark) {
  if (mark.is_null()) return Mark();
  return {mark.line + 1, mark.column + 1};
}

bool IsControl(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

// Builds the tree from the parser's events. Throws nothing of its own: what is refused is noted and
// dropped.
class TreeBuilder final : public YAML::EventHandler {
 public:
  TreeBuilder(absl::string_view text, ErrorList* errors) : text_(text), errors_(errors) {}

  YamlNode TakeRoot() { return std::move(root_); }

  // Where the list or map begins that is not complete yet.
  Mark open_mark() const { return open_.empty() ? Mark() : open_.back().node.mark; }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    CheckAnchor(mark, anchor);
    YamlNode node;
    node.mark = FromYaml(mark);
    node.scalar = WrittenNull(mark);
    node.kind = node.scalar.empty() ? YamlNode::Kind::kNull : YamlNode::Kind::kScalar;
    Attach(std::move(node));
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    AddAnchorError(mark);
    YamlNode node;
    node.mark = FromYaml(mark);
    Attach(std::move(node));
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    YamlNode node;
    node.kind = YamlNode::Kind::kScalar;
    node.mark = FromYaml(mark);
    node.scalar = value;
    if (anchor != YAML::NullAnchor || !IsImplicitTag(tag)) {
      CheckAnchor(mark, anchor);
      CheckTag(mark, tag);
    } else if (!StandsOnOneLine(mark, value)) {
      errors_->Add(node.mark, "a value must begin and end on one line, with its quotes");
      node.scalar.clear();
    }
    if (std::any_of(value.begin(), value.end(), IsControl)) {
      errors_->Add(node.mark, "line breaks and control characters are not allowed in a value");
      node.scalar.erase(std::remove_if(node.scalar.begin(), node.scalar.end(), IsControl),
                        node.scalar.end());
    }
    Attach(std::move(node));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    Open(YamlNode::Kind::kList, mark, tag, anchor);
  }
  void OnSequenceEnd() override { Close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    Open(YamlNode::Kind::kMap, mark, tag, anchor);
  }
  void OnMapEnd() override { Close(); }

 private:
  // A list or map that is not complete yet.
  struct Frame {
    YamlNode node;
    bool has_key = false;     // kMap: the next node is the value of `key`
    bool drop_value = false;  // kMap: because its key was refused
    YamlNode::Key key;
  };

  // "null" where that word stands in the file, which is a name like any other to us; "" for an
  // absent value.
  std::string WrittenNull(const YAML::Mark& mark) const {
    if (mark.is_null() || static_cast<size_t>(mark.pos) >= text_.size()) return "";
    const absl::string_view rest = text_.substr(mark.pos);
    const absl::string_view word = rest.substr(0, rest.find_first_of(" \t\r\n,]}"));
    return absl::EqualsIgnoreCase(word, "null") ? std::string(word) : "";
  }

  // YAML folds lines into one value, and yaml-cpp takes the end of the file for a missing quote: a
  // forgotten one would swallow the keys behind it, `access` for instance.
  bool StandsOnOneLine(const YAML::Mark& mark, const std::string& value) const {
    if (mark.is_null() || static_cast<size_t>(mark.pos) >= text_.size()) return false;
    const absl::string_view rest = text_.substr(mark.pos);
    if (rest[0] == '"' || rest[0] == '\'') return ClosesQuote(rest);
    // Of the other forms only the plain one stands in the file as it is.
    return absl::StartsWith(rest, value);
  }

  // Whether the quote that `text` begins with is closed on its line.
  static bool ClosesQuote(absl::string_view text) {
    const char quote = text[0];
    for (size_t i = 1; i < text.size() && text[i] != '\n'; ++i) {
      if (quote == '"' && text[i] == '\\') {
        ++i;
      } else if (text[i] == quote) {
        // In single quotes a doubled one stands for itself.
        const bool doubled = quote == '\'' && i + 1 < text.size() && text[i + 1] == quote;
        if (!doubled) return true;
        ++i;
      }
    }
    return false;
  }

  void AddAnchorError(const YAML::Mark& mark) {
    errors_->Add(FromYaml(mark), "anchors (&) and aliases (*) are not supported: write it out");
  }
  void CheckAnchor(const YAML::Mark& mark, YAML::anchor_t anchor) {
    if (anchor != YAML::NullAnchor) AddAnchorError(mark);
  }
  // "?" stands for a plain scalar, "!" for a quoted one.
  static bool IsImplicitTag(const std::string& tag) {
    return tag.empty() || tag == "?" || tag == "!";
  }
  void CheckTag(const YAML::Mark& mark, const std::string& tag) {
    if (IsImplicitTag(tag)) return;
    errors_->Add(FromYaml(mark), "tags (!) are not supported: leave it out");
  }

  void Open(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag,
            YAML::anchor_t anchor) {
    CheckAnchor(mark, anchor);
    CheckTag(mark, tag);
    Frame frame;
    frame.node.kind = kind;
    frame.node.mark = FromYaml(mark);
    open_.push_back(std::move(frame));
    if (open_.size() == kMaxDepth + 1) {
      errors_->Add(FromYaml(mark),
                   absl::StrCat("nested too deeply: expected at most ", kMaxDepth, " levels"));
    }
  }

  void Close() {
    YamlNode node = std::move(open_.back().node);
    open_.pop_back();
    Attach(std::move(node));
  }

  bool CountNode(Mark mark) {
    if (++nodes_ == kMaxNodes + 1) {
      errors_->Add(mark, absl::StrCat("too many values in one file: expected at most ", kMaxNodes));
    }
    return nodes_ <= kMaxNodes;
  }

  void Attach(YamlNode node) {
    if (!CountNode(node.mark)) return;
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Frame& frame = open_.back();
    if (frame.node.kind == YamlNode::Kind::kList) {
      frame.node.items.push_back(std::move(node));
    } else if (!frame.has_key) {
      TakeKey(&frame, std::move(node));
    } else {
      TakeValue(&frame, std::move(node));
    }
  }

  void TakeKey(Frame* frame, YamlNode node) {
    frame->has_key = true;
    frame->drop_value = node.kind != YamlNode::Kind::kScalar;
    if (frame->drop_value) {
      errors_->Add(node.mark, absl::StrCat("expected a key, found ", KindName(node.kind)));
    }
    frame->key = {std::move(node.scalar), node.mark};
  }

  void TakeValue(Frame* frame, YamlNode node) {
    frame->has_key = false;
    if (frame->drop_value) return;
    frame->node.keys.push_back(std::move(frame->key));
    frame->node.items.push_back(std::move(node));
  }

  const absl::string_view text_;  // what marks count in
  ErrorList* const errors_;
  std::vector<Frame> open_;
  size_t nodes_ = 0;
  YamlNode root_;
};

// Reports and removes every later entry of a map that has the key of an earlier one.
void RemoveDuplicateKeys(YamlNode* node, ErrorList* errors) {
  std::vector<size_t> order(node->keys.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [node](size_t a, size_t b) { return node->keys[a].name < node->keys[b].name; });
  std::vector<bool> duplicate(order.size(), false);
  size_t first = 0;  // of those with the same name
  for (size_t i = 1; i < order.size(); ++i) {
    const YamlNode::Key& key = node->keys[order[i]];
    if (key.name != node->keys[order[first]].name) {
      first = i;
      continue;
    }
    duplicate[order[i]] = true;
    errors->Add(key.mark, absl::StrCat("duplicate key \"", key.name, "\", first on line ",
                                       node->keys[order[first]].mark.line));
  }
  size_t kept = 0;
  for (size_t i = 0; i < duplicate.size(); ++i) {
    if (duplicate[i]) continue;
    if (kept != i) {
      node->keys[kept] = std::move(node->keys[i]);
      node->items[kept] = std::move(node->items[i]);
    }
    ++kept;
  }
  node->keys.resize(kept);
  if (node->kind == YamlNode::Kind::kMap) node->items.resize(kept);
  for (YamlNode& item : node->items) RemoveDuplicateKeys(&item, errors);
}

// yaml-cpp takes some of them for the end of the file, silently.
bool CheckBytes(absl::string_view text, ErrorList* errors) {
  Mark mark;
  for (const char c : text) {
    if (c == '\n') {
      ++mark.line;
      mark.column = 1;
      continue;
    }
    if (IsControl(c) && c != '\t' && c != '\r') {
      errors->Add(mark, absl::StrFormat("byte 0x%02x is not allowed: expected text in UTF-8",
                                        static_cast<unsigned char>(c)));
      return false;
    }
    ++mark.column;
  }
  return true;
}

void ParseDocuments(absl::string_view text, TreeBuilder* builder, ErrorList* errors) {
  std::istringstream stream{std::string(text)};
  YAML::Parser parser(stream);
  parser.HandleNextDocument(*builder);
  // What a second one holds does not matter; that it is there does.
  struct Finder final : public YAML::EventHandler {
    absl::optional<Mark> found;
    void OnDocumentStart(const YAML::Mark& mark) override { found = FromYaml(mark); }
    void OnDocumentEnd() override {}
    void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
    void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
    void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  const std::string&) override {}
    void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                         YAML::EmitterStyle::value) override {}
    void OnSequenceEnd() override {}
    void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                    YAML::EmitterStyle::value) override {}
    void OnMapEnd() override {}
  } finder;
  parser.HandleNextDocument(finder);
  if (finder.found) {
    errors->Add(*finder.found, "this belongs to nothing above: expected one list or map in a file");
  }
}

}  // namespace

absl::string_view KindName(YamlNode::Kind kind) {
  switch (kind) {
    case YamlNode::Kind::kNull:
      return "nothing";
    case YamlNode::Kind::kScalar:
      return "text";
    case YamlNode::Kind::kList:
      return "a list";
    case YamlNode::Kind::kMap:
      return "a map";
  }
  return "";
}

void ErrorList::Add(Mark mark, absl::string_view what) {
  errors_.push_back({mark, std::string(what)});
}

absl::Status ErrorList::ToStatus() const {
  if (errors_.empty()) return absl::OkStatus();
  std::vector<Error> sorted = errors_;
  std::stable_sort(sorted.begin(), sorted.end(), [](const Error& a, const Error& b) {
    return std::pair(a.mark.line, a.mark.column) < std::pair(b.mark.line, b.mark.column);
  });
  std::string text;
  for (size_t i = 0; i < sorted.size() && i < kMaxErrors; ++i) {
    const Error& error = sorted[i];
    absl::StrAppend(&text, i == 0 ? "" : "\n", file_, ":", error.mark.line, ":", error.mark.column,
                    ": ", error.what);
  }
  if (sorted.size() > kMaxErrors) {
    absl::StrAppend(&text, "\n", file_, ": ", sorted.size() - kMaxErrors, " more errors");
  }
  return absl::InvalidArgumentError(text);
}

YamlNode ParseYaml(absl::string_view text, ErrorList* errors) {
  if (text.size() > kMaxFileBytes) {
    errors->Add(Mark(), absl::StrCat("the file is too large: expected at most ",
                                     SizeToString(kMaxFileBytes)));
    return YamlNode();
  }
  if (!CheckBytes(text, errors)) return YamlNode();
  absl::ConsumePrefix(&text, kByteOrderMark);
  TreeBuilder builder(text, errors);
  try {
    ParseDocuments(text, &builder, errors);
  } catch (const YAML::DeepRecursion&) {
    // Far behind kMaxDepth, which the builder has reported.
    return YamlNode();
  } catch (const YAML::Exception& e) {
    const bool unclosed =
        e.msg == YAML::ErrorMsg::END_OF_SEQ_FLOW || e.msg == YAML::ErrorMsg::END_OF_MAP_FLOW;
    errors->Add(unclosed ? builder.open_mark() : FromYaml(e.mark),
                absl::StrCat("not valid YAML: ", e.msg));
    return YamlNode();
  } catch (const std::exception& e) {
    errors->Add(Mark(), absl::StrCat("cannot be read as YAML: ", e.what()));
    return YamlNode();
  }
  YamlNode root = builder.TakeRoot();
  RemoveDuplicateKeys(&root, errors);
  return root;
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  const std::string what = absl::StrCat("read the configuration file ", path);
  // Without O_NONBLOCK a pipe that nobody writes to would hold us up.
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  struct stat status;
  if (!fd.valid() || fstat(fd.get(), &status) != 0) return ErrnoToStatus(errno, what);
  if (S_ISDIR(status.st_mode)) return ErrnoToStatus(EISDIR, what);
  if (!S_ISREG(status.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": expected a regular file"));
  }
  std::string text;
  std::string buffer(64 << 10, '\0');
  while (text.size() <= kMaxFileBytes) {
    const ssize_t count = read(fd.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoToStatus(errno, what);
    if (count == 0) return text;
    text.append(buffer, 0, count);
  }
  return absl::InvalidArgumentError(absl::StrCat(path, ": the file is too large: expected at most ",
                                                 SizeToString(kMaxFileBytes)));
}

}  // namespace rnbd::config
