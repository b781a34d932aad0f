#include "testing/torture/volatile_image.h"

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "testing/temporary_directory.h"

namespace rnbd::testing {
namespace {

constexpr uint64_t kSectors = 200;

class VolatileImageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string path = directory_.path() + "/image";
    std::FILE* file = std::fopen(path.c_str(), "w");
    ASSERT_NE(file, nullptr);
    std::fclose(file);
    std::filesystem::resize_file(path, kSectors * VolatileImage::kSector);
    auto image = VolatileImage::Open(path, 5);
    ASSERT_TRUE(image.ok()) << image.status();
    image_ = *std::move(image);
  }

  void WriteAll(uint8_t byte, bool fua = false) {
    const std::vector<uint8_t> data(kSectors * VolatileImage::kSector, byte);
    ASSERT_EQ(image_->Write(0, data, fua), 0);
  }
  // How many sectors are filled with it.
  uint64_t Count(uint8_t byte) {
    std::vector<uint8_t> data(VolatileImage::kSector);
    uint64_t count = 0;
    for (uint64_t i = 0; i < kSectors; ++i) {
      size_t done = 0;
      EXPECT_EQ(image_->Read(i * data.size(), absl::MakeSpan(data), &done), 0);
      EXPECT_EQ(done, data.size());
      if (data == std::vector<uint8_t>(data.size(), byte)) ++count;
    }
    return count;
  }

  TemporaryDirectory directory_;
  std::unique_ptr<VolatileImage> image_;
};

TEST_F(VolatileImageTest, ShowsWhatIsInTheCache) {
  WriteAll(1);
  EXPECT_EQ(Count(1), kSectors);
}

TEST_F(VolatileImageTest, LosesSomeOfWhatWasNotFlushed) {
  WriteAll(1);
  image_->Flush();
  WriteAll(2);
  WriteAll(3);
  const size_t lost = image_->LosePower();
  EXPECT_GT(lost, kSectors / 4);
  EXPECT_LT(lost, kSectors * 3 / 4);
  EXPECT_EQ(Count(1), lost);
  EXPECT_EQ(Count(3), kSectors - lost);
}

TEST_F(VolatileImageTest, KeepsWhatWasFlushedOrWrittenWithFua) {
  WriteAll(1);
  image_->Flush();
  EXPECT_EQ(image_->LosePower(), 0);
  WriteAll(2);
  WriteAll(3, /*fua=*/true);
  EXPECT_EQ(image_->LosePower(), 0);
  EXPECT_EQ(Count(3), kSectors);
}

TEST_F(VolatileImageTest, RefusesWhatIsNoDiskRequest) {
  EXPECT_EQ(image_->Write(1, std::vector<uint8_t>(512), false), EINVAL);
  EXPECT_EQ(image_->Write(0, std::vector<uint8_t>(100), false), EINVAL);
  EXPECT_EQ(image_->Write(image_->bytes(), std::vector<uint8_t>(512), false), ENOSPC);
}

}  // namespace
}  // namespace rnbd::testing
