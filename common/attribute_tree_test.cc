#include "common/attribute_tree.h"

#include <sys/stat.h>

#include <cerrno>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

using Kind = AttributeTree::Kind;

AttributeTree::Attribute Constant(const std::string& text) {
  AttributeTree::Attribute attribute;
  attribute.show = [text] { return text; };
  return attribute;
}

class AttributeTreeTest : public ::testing::Test {
 protected:
  std::vector<std::string> NamesIn(const std::string& directory) {
    std::vector<std::string> names;
    const uint64_t inode = tree_.Find(directory)->inode;
    uint64_t after = 0;
    for (;;) {
      const auto next = tree_.Next(inode, after);
      if (!next.ok()) return names;
      names.push_back(next->name);
      after = next->inode;
    }
  }

  std::string Show(uint64_t inode) {
    std::string shown;
    tree_.Show(inode, [&](const absl::StatusOr<std::string>& text) {
      shown = text.ok() ? *text : std::to_string(StatusToErrno(text.status()));
    });
    return shown;
  }

  int Store(uint64_t inode, const std::string& text) {
    int error = -1;
    tree_.Store(inode, text, [&](const absl::Status& status) { error = StatusToErrno(status); });
    return error;
  }

  int Errno(const absl::Status& status) { return StatusToErrno(status); }

  AttributeTree tree_{[](const std::function<void()>& task) { task(); }};
};

TEST_F(AttributeTreeTest, HasDirectoriesAttributesAndLinks) {
  ASSERT_TRUE(tree_.AddAttribute("class/ctl/map_device", Constant("usage\n")).ok());
  ASSERT_TRUE(tree_.AddLink("class/ctl/devices/disk0", "../../../block/disk0").ok());
  ASSERT_TRUE(tree_.AddDirectory("block").ok());
  ASSERT_TRUE(tree_.AddDirectory("block").ok());
  EXPECT_THAT(NamesIn(""), UnorderedElementsAre("class", "block"));
  EXPECT_THAT(NamesIn("class/ctl"), UnorderedElementsAre("map_device", "devices"));
  EXPECT_EQ(tree_.Find("class/ctl")->kind, Kind::kDirectory);
  EXPECT_EQ(tree_.Find("class/ctl")->directories, 1U);
  EXPECT_EQ(tree_.Find("class/ctl/devices/disk0")->target, "../../../block/disk0");
  EXPECT_EQ(Show(tree_.Find("class/ctl/map_device")->inode), "usage\n");
}

TEST_F(AttributeTreeTest, LooksLikeSysfs) {
  ASSERT_TRUE(tree_.AddAttribute("a/b", Constant("x\n")).ok());
  ASSERT_TRUE(tree_.AddLink("a/link", "../c").ok());
  ASSERT_TRUE(tree_.AddDirectory("a/d").ok());
  const auto stat_of = [&](const char* path) { return AttributeTree::StatOf(*tree_.Find(path)); };
  EXPECT_EQ(stat_of("a").st_mode, S_IFDIR | tree_.Find("a")->mode);
  EXPECT_EQ(stat_of("a").st_nlink, 3U);
  EXPECT_EQ(stat_of("a").st_ino, tree_.Find("a")->inode);
  EXPECT_EQ(stat_of("a/b").st_mode, S_IFREG | tree_.Find("a/b")->mode);
  EXPECT_EQ(stat_of("a/b").st_size, static_cast<off_t>(AttributeTree::kMaxText));
  EXPECT_EQ(stat_of("a/b").st_nlink, 1U);
  EXPECT_EQ(stat_of("a/link").st_mode, S_IFLNK | tree_.Find("a/link")->mode);
  EXPECT_EQ(stat_of("a/link").st_size, 4);
}

TEST_F(AttributeTreeTest, LooksUpStepByStep) {
  ASSERT_TRUE(tree_.AddAttribute("a/b", Constant("x\n")).ok());
  const auto a = tree_.Lookup(tree_.root(), "a");
  ASSERT_TRUE(a.ok());
  EXPECT_EQ(a->parent, tree_.root());
  const auto b = tree_.Lookup(a->inode, "b");
  ASSERT_TRUE(b.ok());
  EXPECT_EQ(tree_.Get(b->inode)->name, "b");
  EXPECT_EQ(Errno(tree_.Lookup(a->inode, "c").status()), ENOENT);
  EXPECT_EQ(Errno(tree_.Lookup(b->inode, "c").status()), ENOTDIR);
  EXPECT_EQ(Errno(tree_.Lookup(1, "c").status()), ENOENT);
  EXPECT_EQ(Errno(tree_.Next(b->inode, 0).status()), ENOTDIR);
}

TEST_F(AttributeTreeTest, InodeNumbersComeFromThePath) {
  AttributeTree other([](const std::function<void()>& task) { task(); });
  ASSERT_TRUE(tree_.AddAttribute("a/b", Constant("x\n")).ok());
  ASSERT_TRUE(other.AddDirectory("c").ok());
  ASSERT_TRUE(other.AddAttribute("a/b", Constant("y\n")).ok());
  EXPECT_EQ(other.root(), tree_.root());
  EXPECT_EQ(other.Find("a/b")->inode, tree_.Find("a/b")->inode);
  EXPECT_NE(tree_.Find("a/b")->inode, tree_.Find("a")->inode);
  EXPECT_TRUE(AttributeTree::IsInode(tree_.root()));
  EXPECT_TRUE(AttributeTree::IsInode(tree_.Find("a/b")->inode));
}

TEST_F(AttributeTreeTest, RefusesWhatCannotBe) {
  ASSERT_TRUE(tree_.AddAttribute("a", Constant("x\n")).ok());
  EXPECT_EQ(Errno(tree_.AddAttribute("a", Constant("x\n"))), EEXIST);
  EXPECT_EQ(Errno(tree_.AddDirectory("a")), EEXIST);
  EXPECT_EQ(Errno(tree_.AddAttribute("a/b", Constant("x\n"))), ENOTDIR);
  EXPECT_EQ(Errno(tree_.AddLink("b/..", "x")), EINVAL);
  EXPECT_EQ(Errno(tree_.AddLink("b//c", "x")), EINVAL);
  EXPECT_EQ(Errno(tree_.Remove("")), EINVAL);
  EXPECT_EQ(Errno(tree_.Remove("nothing")), ENOENT);
  EXPECT_EQ(Errno(tree_.Find("a/b").status()), ENOENT);
}

TEST_F(AttributeTreeTest, RemovesWithAllBelow) {
  ASSERT_TRUE(tree_.AddAttribute("a/b/c", Constant("x\n")).ok());
  ASSERT_TRUE(tree_.AddAttribute("a/d", Constant("x\n")).ok());
  const uint64_t c = tree_.Find("a/b/c")->inode;
  ASSERT_TRUE(tree_.Remove("a/b").ok());
  EXPECT_THAT(NamesIn("a"), ElementsAre("d"));
  EXPECT_EQ(tree_.Find("a")->directories, 0U);
  EXPECT_EQ(Errno(tree_.Get(c).status()), ENOENT);
  EXPECT_EQ(Show(c), std::to_string(ENODEV));
  ASSERT_TRUE(tree_.AddAttribute("a/b/c", Constant("y\n")).ok());
  EXPECT_EQ(tree_.Find("a/b/c")->inode, c) << "another number for the same path";
}

TEST_F(AttributeTreeTest, StoresTextAsItComes) {
  std::string stored;
  AttributeTree::Attribute attribute;
  attribute.mode = 0644;
  attribute.store = [&stored](const std::string& text, const AttributeTree::StoreDone& done) {
    stored = text;
    done(text == "1\n" ? absl::OkStatus() : ErrnoToStatus(EINVAL, "store"));
  };
  ASSERT_TRUE(tree_.AddAttribute("a", std::move(attribute)).ok());
  const uint64_t inode = tree_.Find("a")->inode;
  EXPECT_EQ(tree_.Get(inode)->mode, 0644U);
  EXPECT_EQ(Store(inode, "1\n"), 0);
  EXPECT_EQ(stored, "1\n");
  EXPECT_EQ(Store(inode, "2"), EINVAL);
  EXPECT_EQ(Store(inode, std::string(AttributeTree::kMaxText + 1, 'x')), EMSGSIZE);
  EXPECT_EQ(Show(inode), std::to_string(EIO));
  EXPECT_EQ(Store(tree_.root(), "1"), EISDIR);
}

TEST_F(AttributeTreeTest, AnAttributeMayRemoveItself) {
  AttributeTree::Attribute attribute;
  attribute.store = [this, alive = std::string("alive")](const std::string&,
                                                         const AttributeTree::StoreDone& done) {
    EXPECT_TRUE(tree_.Remove("a").ok());
    EXPECT_EQ(alive, "alive");
    done(absl::OkStatus());
  };
  ASSERT_TRUE(tree_.AddAttribute("a", std::move(attribute)).ok());
  const uint64_t inode = tree_.Find("a")->inode;
  EXPECT_EQ(Store(inode, "1"), 0);
  EXPECT_EQ(Store(inode, "1"), ENODEV);
}

TEST(AttributeTree, WorksOnTheOwnersThreadOnly) {
  std::vector<std::function<void()>> posted;
  AttributeTree tree([&posted](std::function<void()> task) { posted.push_back(std::move(task)); });
  int shown = 0;
  AttributeTree::Attribute attribute;
  attribute.show = [&shown] {
    ++shown;
    return std::string("x\n");
  };
  ASSERT_TRUE(tree.AddAttribute("a", std::move(attribute)).ok());
  int answers = 0;
  tree.Show(tree.Find("a")->inode, [&](const absl::StatusOr<std::string>&) { ++answers; });
  EXPECT_EQ(shown, 0);
  posted[0]();
  EXPECT_EQ(shown, 1);
  EXPECT_EQ(answers, 1);
  tree.Show(tree.Find("a")->inode, [&](const absl::StatusOr<std::string>& text) {
    EXPECT_EQ(StatusToErrno(text.status()), ENODEV);
    ++answers;
  });
  ASSERT_TRUE(tree.Remove("a").ok());
  posted[1]();
  EXPECT_EQ(shown, 1);
  EXPECT_EQ(answers, 2);
}

TEST_F(AttributeTreeTest, ATextMayComeLater) {
  std::vector<AttributeTree::ShowDone> asked;
  AttributeTree::Attribute attribute;
  attribute.show_later = [&asked](AttributeTree::ShowDone done) {
    asked.push_back(std::move(done));
  };
  ASSERT_TRUE(tree_.AddAttribute("slow", attribute).ok());
  std::string shown;
  tree_.Show(tree_.Find("slow")->inode,
             [&shown](const absl::StatusOr<std::string>& text) { shown = text.value(); });
  ASSERT_EQ(asked.size(), 1u);
  EXPECT_EQ(shown, "");
  asked[0]("x\n");
  EXPECT_EQ(shown, "x\n");
}

}  // namespace
}  // namespace rnbd
