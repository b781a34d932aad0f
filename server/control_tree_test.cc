// The tree by itself, with devices that nobody has; and on a server with a session of a client.

#include "server/control_tree.h"

#include <cerrno>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/synchronization/notification.h"
#include "common/attribute_tree.h"
#include "common/ring.h"
#include "common/rnbd_messages.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/stream_fabric.h"
#include "testing/device_server.h"
#include "testing/session_harness.h"

namespace rnbd::server {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr char kDisks[] = "class/rnbd-server/ctl/devices";

class ControlTreeTest : public ::testing::Test {
 protected:
  ControlTreeTest() { control_tree_.set_control(control()->ring()); }

  RingThread* control() { return control_.get(); }

  std::vector<std::string> NamesIn(const std::string& directory) {
    std::vector<std::string> names;
    const auto node = tree_.Find(directory);
    if (!node.ok()) return names;
    uint64_t after = 0;
    for (auto next = tree_.Next(node->inode, after); next.ok();
         next = tree_.Next(node->inode, after)) {
      names.push_back(next->name);
      after = next->inode;
    }
    return names;
  }

  std::string Show(const std::string& path) {
    const auto node = tree_.Find(path);
    if (!node.ok()) return "not there";
    absl::Notification shown;
    std::string text;
    tree_.Show(node->inode, [&](const absl::StatusOr<std::string>& found) {
      text = found.ok() ? *found : absl::StrCat("errno ", StatusToErrno(found.status()));
      shown.Notify();
    });
    EXPECT_TRUE(shown.WaitForNotificationWithTimeout(rtrs::kPatience));
    return text;
  }

  // The errno.
  int Store(const std::string& path, const std::string& text) {
    const auto node = tree_.Find(path);
    if (!node.ok()) return StatusToErrno(node.status());
    absl::Notification stored;
    int error = -1;
    tree_.Store(node->inode, text, [&](const absl::Status& status) {
      error = StatusToErrno(status);
      stored.Notify();
    });
    EXPECT_TRUE(stored.WaitForNotificationWithTimeout(rtrs::kPatience));
    return error;
  }

  mode_t ModeOf(const std::string& path) { return tree_.Find(path)->mode; }

  // As the device thread would.
  uint64_t Open(const std::string& session, const std::string& path, const ExportName& disk,
                AccessMode mode = AccessMode::kReadWrite) {
    const uint64_t number = control_tree_.OnDeviceOpened(
        {session, path, mode, mode == AccessMode::kReadOnly, disk, [this] { return in_flight_; }},
        {.force_close =
             [this, path](const DeviceObserver::Done& done) {
               forced_.push_back(path);
               done(force_result_);
             },
         .resize =
             [this, path](const DeviceObserver::Done& done) {
               resized_.push_back(path);
               done(absl::OkStatus());
             },
         .limit = limit_});
    control()->RunAndWait([] {});
    return number;
  }
  void Close(uint64_t number) {
    control_tree_.OnDeviceClosed(number);
    control()->RunAndWait([] {});
  }

  static constexpr char kSda[] = "class/rnbd-server/ctl/devices/sda1";

  std::unique_ptr<RingThread> control_ = *RingThread::Start("control", {});
  AttributeTree tree_{[this](std::function<void()> task) { control()->ring()->Post(task); }};
  ControlTree control_tree_{&tree_};
  absl::Status force_result_;
  std::vector<std::string> forced_;   // control thread
  std::vector<std::string> resized_;  // control thread
  std::shared_ptr<RateLimit> limit_ = std::make_shared<RateLimit>();
  std::vector<InFlightRequest> in_flight_;
};

TEST_F(ControlTreeTest, WithoutSessionsTheDirectoriesAreThere) {
  EXPECT_THAT(NamesIn("class"), UnorderedElementsAre("rnbd-server", "rtrs-server"));
  EXPECT_THAT(NamesIn(kDisks), IsEmpty());
  EXPECT_THAT(NamesIn("class/rtrs-server"), IsEmpty());
}

TEST_F(ControlTreeTest, EveryLinkLeadsSomewhere) {
  Open("blya", "disk", {"!srv!disk.img", "/srv/disk.img"});
  Open("blya", "scratch", {"memory:a!b", "memory:a/b"});
  EXPECT_EQ(tree_.Find(absl::StrCat(kDisks, "/!srv!disk.img/block_dev"))->target, "/srv/disk.img");
  EXPECT_EQ(tree_.Find(absl::StrCat(kDisks, "/memory:a!b/block_dev"))->target, "../memory:a!b");
}

TEST_F(ControlTreeTest, ADeviceHasTheKernelsFiles) {
  Open("blya", "disks/a", {"sda1", "/sys/block/sda"}, AccessMode::kMigration);
  EXPECT_EQ(tree_.Find(absl::StrCat(kSda, "/block_dev"))->target, "/sys/block/sda");
  const std::string session = absl::StrCat(kSda, "/sessions/blya");
  EXPECT_THAT(NamesIn(session),
              UnorderedElementsAre("mapping_path", "access_mode", "read_only", "force_close",
                                   "resize", "limits", "inflight"));
  EXPECT_EQ(Show(absl::StrCat(session, "/inflight")), "");
  in_flight_ = {{5'000'000, "disk", "write", 4096, 512}};
  EXPECT_EQ(Show(absl::StrCat(session, "/inflight")), "5000 disk write 4096 512\n");
  EXPECT_EQ(tree_.Find(absl::StrCat(session, "/inflight"))->mode, 0444u);
  EXPECT_EQ(Show(absl::StrCat(session, "/mapping_path")), "disks/a\n");
  EXPECT_EQ(Show(absl::StrCat(session, "/access_mode")), "migration\n");
  EXPECT_EQ(Show(absl::StrCat(session, "/read_only")), "0\n");
  EXPECT_EQ(Show(absl::StrCat(session, "/force_close")), "Write: 1\n");
  for (const char* file : {"/mapping_path", "/access_mode", "/read_only"}) {
    EXPECT_EQ(ModeOf(absl::StrCat(session, file)), mode_t{0444}) << file;
    EXPECT_EQ(Store(absl::StrCat(session, file), "1"), EIO) << file;
  }
  EXPECT_EQ(ModeOf(absl::StrCat(session, "/force_close")), mode_t{0644});
  EXPECT_EQ(ModeOf(absl::StrCat(session, "/resize")), mode_t{0644});
}

TEST_F(ControlTreeTest, ADiskIsThereWhileASessionHasItOpen) {
  const uint64_t writer = Open("blya", "a", {"sda1", "/sys/block/sda"});
  const uint64_t reader = Open("other", "b", {"sda1", "/sys/block/sda"}, AccessMode::kReadOnly);
  EXPECT_THAT(NamesIn(absl::StrCat(kSda, "/sessions")), UnorderedElementsAre("blya", "other"));
  EXPECT_EQ(Show(absl::StrCat(kSda, "/sessions/other/read_only")), "1\n");
  Close(writer);
  EXPECT_THAT(NamesIn(absl::StrCat(kSda, "/sessions")), ElementsAre("other"));
  Close(reader);
  EXPECT_THAT(NamesIn(kDisks), IsEmpty());
}

TEST_F(ControlTreeTest, ASessionMayHaveADiskOpenUnderTwoNames) {
  const uint64_t first = Open("blya", "a", {"sda1", "/sys/block/sda"}, AccessMode::kReadOnly);
  const uint64_t second = Open("blya", "b", {"sda1", "/sys/block/sda"}, AccessMode::kReadOnly);
  EXPECT_EQ(Show(absl::StrCat(kSda, "/sessions/blya/mapping_path")), "a\n");
  EXPECT_EQ(Show(absl::StrCat(kSda, "/sessions/blya~2/mapping_path")), "b\n");
  Close(first);
  EXPECT_THAT(NamesIn(absl::StrCat(kSda, "/sessions")), ElementsAre("blya~2"));
  Close(second);
}

TEST_F(ControlTreeTest, ForceCloseTakesOneAndNothingElse) {
  Open("blya", "a", {"sda1", "/sys/block/sda"});
  const std::string file = absl::StrCat(kSda, "/sessions/blya/force_close");
  for (const char* bad : {"", "0", "2", "1 ", "yes"}) EXPECT_EQ(Store(file, bad), EINVAL) << bad;
  EXPECT_THAT(forced_, IsEmpty());
  EXPECT_EQ(Store(file, "1\n"), 0);
  EXPECT_THAT(forced_, ElementsAre("a"));
  force_result_ = ErrnoToStatus(EALREADY, "close it");
  EXPECT_EQ(Store(file, "1"), EALREADY);
}

TEST_F(ControlTreeTest, ResizeLooksAtOneDisk) {
  Open("blya", "a", {"sda1", "/sys/block/sda"});
  const std::string file = absl::StrCat(kSda, "/sessions/blya/resize");
  EXPECT_EQ(Show(file), "Write: 1\n");
  EXPECT_EQ(Store(file, "2048"), EINVAL);
  EXPECT_THAT(resized_, IsEmpty());
  EXPECT_EQ(Store(file, "1"), 0);
  EXPECT_THAT(resized_, ElementsAre("a"));
}

TEST_F(ControlTreeTest, LimitsOfADeviceAndASession) {
  Open("blya", "a", {"sda1", "/sys/block/sda"});
  const auto session_limit = std::make_shared<RateLimit>();
  control()->RunAndWait([&] {
    control_tree_.OnSessionLimit("blya", session_limit);
    control_tree_.OnSession("blya");
  });
  const std::string of_device = absl::StrCat(kSda, "/sessions/blya/limits");
  const std::string of_session = "class/rnbd-server/ctl/sessions/blya/limits";
  EXPECT_EQ(Show(of_device), "none\n");
  EXPECT_EQ(Store(of_device, "iops=10\n"), 0);
  EXPECT_EQ(Show(of_device), "iops=10 burst=100ms (set by hand)\n");
  EXPECT_TRUE(limit_->any());
  EXPECT_EQ(Store(of_device, "iops=x"), EINVAL);
  EXPECT_EQ(Store(of_session, "bandwidth=1MiB burst=1s"), 0);
  EXPECT_TRUE(session_limit->any());
  EXPECT_EQ(Store(of_session, "file"), 0);
  EXPECT_EQ(Show(of_session), "none\n");
  control()->RunAndWait([&] { control_tree_.OnSessionGone("blya"); });
  EXPECT_THAT(NamesIn("class/rnbd-server/ctl/sessions"), IsEmpty());
}

// Sessions and paths, of a real server.
class ControlTreeOfServerTest : public ControlTreeTest {
 protected:
  ControlTreeOfServerTest() : server_(&fabric_, Options()) {
    server_.AddDisk("disk0", &disk_);
    server_.Start();
  }
  ~ControlTreeOfServerTest() override { server_.Stop(); }

  testing::DeviceServer::Options Options() {
    testing::DeviceServer::Options options;
    options.control = control();
    options.observer = &control_tree_;
    options.device_observer = &control_tree_;
    return options;
  }

  std::string PathDirectory() {
    return absl::StrCat("class/rtrs-server/blya/paths/unix:@",
                        absl::StrReplaceAll(server_.path().destination.ToString(), {{"/", "!"}}));
  }

  rtrs::StreamFabric fabric_{rtrs::StreamOptions()};
  testing::TestDisk disk_;
  testing::DeviceServer server_;
};

TEST_F(ControlTreeOfServerTest, APathHasTheKernelsFilesAndCountsWhatComes) {
  rtrs::TestClient client(&fabric_, "blya", {server_.path()});
  client.Start();
  ASSERT_TRUE(client.WaitUp(1));
  const std::string path = PathDirectory();
  EXPECT_THAT(NamesIn("class/rtrs-server/blya"), ElementsAre("paths"));
  EXPECT_THAT(NamesIn(path), UnorderedElementsAre("hca_name", "hca_port", "src_addr", "dst_addr",
                                                  "disconnect", "stats"));
  EXPECT_EQ(Show(absl::StrCat(path, "/hca_name")), "unix\n");
  EXPECT_EQ(Show(absl::StrCat(path, "/hca_port")), "0\n");
  EXPECT_EQ(Show(absl::StrCat(path, "/src_addr")), "unix:\n");
  EXPECT_EQ(Show(absl::StrCat(path, "/dst_addr")),
            absl::StrCat(server_.path().destination.ToString(), "\n"));
  const std::string rdma = absl::StrCat(path, "/stats/rdma");
  EXPECT_EQ(ModeOf(rdma), mode_t{0644});
  EXPECT_EQ(Show(rdma), "0 0 0 0\n");
  // The server does not know such messages, but they have come.
  EXPECT_EQ(client.Write(0, 1, 512), EINVAL);
  EXPECT_EQ(client.Write(1, 1, 512), EINVAL);
  EXPECT_EQ(client.Read(0, 1, 1024), EINVAL);
  constexpr size_t kMessage = sizeof(rtrs::EchoMessage);
  EXPECT_EQ(Show(rdma), absl::StrCat("1 ", 1024 + kMessage, " 2 ", 2 * (512 + kMessage), "\n"));
  EXPECT_EQ(Store(rdma, "0"), EINVAL);
  EXPECT_EQ(Store(rdma, "1"), 0);
  EXPECT_EQ(Show(rdma), "0 0 0 0\n");
  client.Close();
  EXPECT_TRUE(rtrs::Eventually([&] { return NamesIn("class/rtrs-server").empty(); }));
}

TEST_F(ControlTreeOfServerTest, DisconnectTakesThePathDownAtOnce) {
  rtrs::TestClient client(&fabric_, "blya", {server_.path()});
  client.Start();
  ASSERT_TRUE(client.WaitUp(1));
  const std::string path = PathDirectory();
  EXPECT_EQ(Store(absl::StrCat(path, "/disconnect"), "now"), EINVAL);
  EXPECT_EQ(Store(absl::StrCat(path, "/disconnect"), "1"), 0);
  EXPECT_TRUE(client.WaitDown(1));
  // It connects again by itself, as a kernel's client does.
  EXPECT_TRUE(client.WaitUp(2));
  EXPECT_TRUE(rtrs::Eventually([&] { return !NamesIn(path).empty(); }));
  client.Close();
}

}  // namespace
}  // namespace rnbd::server
