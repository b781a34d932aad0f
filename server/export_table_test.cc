#include "server/export_table.h"

#include <atomic>
#include <cerrno>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using Lease = ExportTable::Lease;

const ExportKey kDisk = {.disk = "disk 8:0"};
const ExportKey kFirstHalf = {.disk = "disk 8:0", .begin = 4096, .end = 8192};
const ExportKey kSecondHalf = {.disk = "disk 8:0", .begin = 8192, .end = 12288};
const ExportKey kOtherDisk = {.disk = "disk 8:16"};

absl::StatusOr<Lease> Acquire(ExportTable* table, const ExportKey& key, AccessMode mode,
                              const std::string& session = "s") {
  return table->Acquire(
      {.key = key, .mode = mode, .session_name = session, .device_name = key.disk});
}

TEST(ExportKeyTest, RangesOfOneDiskOverlapWhereTheyShareBytes) {
  EXPECT_TRUE(kDisk.Overlaps(kDisk));
  EXPECT_TRUE(kDisk.Overlaps(kFirstHalf));
  EXPECT_TRUE(kFirstHalf.Overlaps(kDisk));
  EXPECT_FALSE(kFirstHalf.Overlaps(kSecondHalf));
  EXPECT_FALSE(kSecondHalf.Overlaps(kFirstHalf));
  EXPECT_FALSE(kDisk.Overlaps(kOtherDisk));
}

// Opens those before in their order, then one more.
struct Sharing {
  std::vector<AccessMode> before;
  AccessMode wanted;
  bool allowed;
};

class SharingTest : public ::testing::TestWithParam<Sharing> {};

TEST_P(SharingTest, FollowsTheTable) {
  ExportTable table;
  std::vector<Lease> leases;
  for (AccessMode mode : GetParam().before) {
    absl::StatusOr<Lease> lease = Acquire(&table, kDisk, mode);
    ASSERT_TRUE(lease.ok()) << lease.status();
    leases.push_back(*std::move(lease));
  }
  absl::StatusOr<Lease> lease = Acquire(&table, kDisk, GetParam().wanted);
  EXPECT_EQ(StatusToErrno(lease.status()), GetParam().allowed ? 0 : EPERM);
  EXPECT_THAT(table.Holders(), SizeIs(GetParam().before.size() + (GetParam().allowed ? 1 : 0)));
}

constexpr AccessMode kRo = AccessMode::kReadOnly;
constexpr AccessMode kRw = AccessMode::kReadWrite;
constexpr AccessMode kMig = AccessMode::kMigration;

INSTANTIATE_TEST_SUITE_P(
    All, SharingTest,
    ::testing::Values(Sharing{{}, kRo, true}, Sharing{{}, kRw, true}, Sharing{{}, kMig, true},
                      Sharing{{kRo}, kRo, true}, Sharing{{kRo}, kRw, true},
                      Sharing{{kRo}, kMig, true}, Sharing{{kRo, kRo, kRo}, kRw, true},
                      Sharing{{kRw}, kRo, true}, Sharing{{kRw}, kRw, false},
                      Sharing{{kRw}, kMig, true}, Sharing{{kMig}, kRo, true},
                      Sharing{{kMig}, kRw, false}, Sharing{{kMig}, kMig, true},
                      Sharing{{kRw, kMig}, kRo, true}, Sharing{{kRw, kMig}, kRw, false},
                      Sharing{{kRw, kMig}, kMig, false}, Sharing{{kMig, kMig}, kMig, false},
                      Sharing{{kMig, kMig}, kRw, false}, Sharing{{kMig, kMig, kRo}, kRo, true}));

TEST(ExportTableTest, AnEndedLeaseMakesRoom) {
  ExportTable table;
  absl::StatusOr<Lease> first = Acquire(&table, kDisk, kRw);
  EXPECT_FALSE(Acquire(&table, kDisk, kRw).ok());
  first = Lease();
  EXPECT_THAT(table.Holders(), IsEmpty());
  EXPECT_TRUE(Acquire(&table, kDisk, kRw).ok());
}

TEST(ExportTableTest, ARefusedOpenLeavesNothingBehind) {
  ExportTable table;
  absl::StatusOr<Lease> first = Acquire(&table, kDisk, kRw);
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(Acquire(&table, kDisk, kRw).ok());
  EXPECT_THAT(table.Holders(), SizeIs(1));
  EXPECT_TRUE(Acquire(&table, kDisk, kMig).ok());
}

TEST(ExportTableTest, ALeaseMayBeMovedAndReleasedTwice) {
  ExportTable table;
  Lease lease = *Acquire(&table, kDisk, kRw);
  Lease moved = std::move(lease);
  EXPECT_FALSE(Acquire(&table, kDisk, kRw).ok());
  moved.Release();
  moved.Release();
  EXPECT_TRUE(Acquire(&table, kDisk, kRw).ok());
}

TEST(ExportTableTest, AWriterOfAPartitionIsOneOfTheWholeDisk) {
  ExportTable table;
  absl::StatusOr<Lease> partition = Acquire(&table, kFirstHalf, kRw);
  EXPECT_EQ(StatusToErrno(Acquire(&table, kDisk, kRw).status()), EPERM);
  EXPECT_TRUE(Acquire(&table, kSecondHalf, kRw).ok());
  EXPECT_TRUE(Acquire(&table, kOtherDisk, kRw).ok());
  partition->Release();
  absl::StatusOr<Lease> disk = Acquire(&table, kDisk, kRw);
  EXPECT_TRUE(disk.ok());
  EXPECT_EQ(StatusToErrno(Acquire(&table, kFirstHalf, kRw).status()), EPERM);
  EXPECT_TRUE(Acquire(&table, kFirstHalf, kRo).ok());
}

TEST(ExportTableTest, ARefusalSaysWhoHoldsTheDiskAndWhatWouldBePossible) {
  ExportTable table;
  absl::StatusOr<Lease> first = Acquire(&table, kDisk, kRw, "web-1");
  absl::Status status = Acquire(&table, kDisk, kRw, "web-2").status();
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("web-1"), HasSubstr("rw"), HasSubstr("ro or migration")));
  absl::StatusOr<Lease> second = Acquire(&table, kDisk, kMig, "web-2");
  status = Acquire(&table, kDisk, kMig, "web-3").status();
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("web-1"), HasSubstr("web-2")));
}

TEST(ExportTableTest, HoldersAreListedInTheOrderOfOpening) {
  ExportTable table;
  Lease a = *Acquire(&table, kDisk, kRw, "a");
  Lease b = *Acquire(&table, kOtherDisk, kRo, "b");
  std::vector<ExportTable::Holder> holders = table.Holders();
  ASSERT_THAT(holders, SizeIs(2));
  EXPECT_EQ(holders[0].session_name, "a");
  EXPECT_EQ(holders[0].mode, kRw);
  EXPECT_EQ(holders[1].session_name, "b");
  EXPECT_EQ(holders[1].key.disk, kOtherDisk.disk);
}

TEST(ExportTableTest, OneOfManyThreadsGetsToWrite) {
  ExportTable table;
  std::atomic<int> inside{0};
  std::atomic<int> won{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 2000; ++round) {
        absl::StatusOr<Lease> lease = Acquire(&table, kDisk, kRw);
        if (!lease.ok()) continue;
        EXPECT_EQ(inside.fetch_add(1), 0);
        ++won;
        inside.fetch_sub(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(won, 0);
  EXPECT_THAT(table.Holders(), IsEmpty());
}

class GracePeriodTest : public ::testing::Test {
 protected:
  absl::StatusOr<Lease> Acquire(const std::string& session, AccessMode mode) {
    return table_.Acquire({kDisk, mode, session, "disk0"});
  }

  absl::Time now_ = absl::UnixEpoch();
  std::vector<ExportTable::Holder> writers_;
  ExportTable table_{{.grace_period = absl::Seconds(30),
                      .on_writers = [this](const auto& writers) { writers_ = writers; },
                      .now = [this] { return now_; }}};
};

TEST_F(GracePeriodTest, ALostWritersPlaceIsKeptForItsSession) {
  absl::StatusOr<Lease> owner = Acquire("blya", kRw);
  ASSERT_TRUE(owner.ok());
  EXPECT_TRUE(owner->first_writer());
  owner->Abandon();
  EXPECT_THAT(writers_, SizeIs(1));
  EXPECT_TRUE(table_.Holders().empty());
  now_ += absl::Seconds(20);
  absl::StatusOr<Lease> thief = Acquire("other", kRw);
  EXPECT_EQ(StatusToErrno(thief.status()), EPERM);
  EXPECT_THAT(thief.status().ToString(), HasSubstr("which was lost and may come back for 10s"));
  EXPECT_TRUE(Acquire("other", kRo).ok());
  absl::StatusOr<Lease> back = Acquire("blya", kRw);
  ASSERT_TRUE(back.ok());
  EXPECT_TRUE(back->first_writer());
  EXPECT_THAT(writers_, SizeIs(1));
  back->Release();
  EXPECT_TRUE(writers_.empty());
  EXPECT_TRUE(Acquire("other", kRw).ok());
}

TEST_F(GracePeriodTest, EndsInTime) {
  absl::StatusOr<Lease> owner = Acquire("blya", kRw);
  owner->Abandon();
  now_ += absl::Seconds(30);
  EXPECT_TRUE(Acquire("other", kRw).ok());
}

TEST_F(GracePeriodTest, IsForWritersThatWereLost) {
  absl::StatusOr<Lease> reader = Acquire("blya", kRo);
  reader->Abandon();
  absl::StatusOr<Lease> writer = Acquire("blya", kRw);
  writer->Release();
  EXPECT_TRUE(Acquire("other", kRw).ok());
}

TEST_F(GracePeriodTest, AMigrationKeepsBothPlaces) {
  absl::StatusOr<Lease> from = Acquire("from", kRw);
  absl::StatusOr<Lease> to = Acquire("to", kMig);
  ASSERT_TRUE(to.ok());
  EXPECT_FALSE(to->first_writer());
  from->Abandon();
  to->Abandon();
  EXPECT_THAT(writers_, SizeIs(2));
  EXPECT_FALSE(Acquire("other", kMig).ok());
  absl::StatusOr<Lease> back = Acquire("to", kMig);
  ASSERT_TRUE(back.ok());
  EXPECT_TRUE(back->first_writer()) << "the other place is kept, but nobody writes";
  EXPECT_FALSE(Acquire("other", kMig).ok());
}

TEST_F(GracePeriodTest, PlacesOfAnEarlierProcessAreKeptToo) {
  table_.Keep({kDisk, kRw, "blya", "disk0"});
  EXPECT_FALSE(Acquire("other", kRw).ok());
  EXPECT_TRUE(Acquire("blya", kRw).ok());
}

}  // namespace
}  // namespace rnbd::server
