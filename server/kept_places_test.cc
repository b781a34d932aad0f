#include "server/kept_places.h"

#include <cerrno>
#include <fstream>
#include <string>
#include <vector>

#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/export_table.h"
#include "testing/temporary_directory.h"

namespace rnbd::server {
namespace {

using ::testing::HasSubstr;
using Holder = ExportTable::Holder;

class KeptPlacesTest : public ::testing::Test {
 protected:
  testing::TemporaryDirectory directory_;
  const std::string path_ = directory_ / "state";
};

TEST_F(KeptPlacesTest, WhatIsSavedIsLoaded) {
  const std::vector<Holder> writers = {
      {{"file 8:1/1234", 0, UINT64_MAX}, AccessMode::kReadWrite, "blya", "disk0.img"},
      {{"disk 8:0", 512, 1 << 20}, AccessMode::kMigration, "tab\tand\nline", "\xff\\\"'"}};
  ASSERT_TRUE(SavePlaces(path_, writers).ok());
  EXPECT_EQ(*LoadPlaces(path_), writers);
  ASSERT_TRUE(SavePlaces(path_, {}).ok());
  EXPECT_EQ(LoadPlaces(path_)->size(), 0u);
}

TEST_F(KeptPlacesTest, NoFileIsNobody) {
  absl::StatusOr<std::vector<Holder>> loaded = LoadPlaces(path_);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_TRUE(loaded->empty());
}

TEST_F(KeptPlacesTest, AnythingElseIsRefusedWithItsLine) {
  for (const char* text : {"something\n", "rnbd-server writers 1\nrw\tblya\n",
                           "rnbd-server writers 1\nrx\ta\tb\tc\t0\t1\n",
                           "rnbd-server writers 1\nrw\ta\tb\tc\t0\tx\n"}) {
    std::ofstream(path_) << text;
    absl::StatusOr<std::vector<Holder>> loaded = LoadPlaces(path_);
    EXPECT_EQ(StatusToErrno(loaded.status()), EINVAL) << text;
    EXPECT_THAT(loaded.status().ToString(), HasSubstr(path_ + ":"));
  }
}

TEST_F(KeptPlacesTest, APlaceThatCannotBeWrittenIsAnError) {
  EXPECT_EQ(StatusToErrno(SavePlaces(directory_ / "missing/state", {})), ENOENT);
}

}  // namespace
}  // namespace rnbd::server
