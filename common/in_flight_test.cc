#include "common/in_flight.h"

#include <cerrno>

#include "common/status.h"
#include "gtest/gtest.h"

namespace rnbd {
namespace {

TEST(InFlightTest, TheOldestComesFirst) {
  EXPECT_EQ(InFlightText({{1'999, "server", "read", 4096, 512},
                          {3'000'000'000, "held", "write-zeroes", uint64_t{1} << 40, 1 << 20}}),
            "3000000 held write-zeroes 1099511627776 1048576\n"
            "1 server read 4096 512\n");
  EXPECT_EQ(InFlightText({}), "");
}

TEST(InFlightTest, WhatIsWrittenIsRead) {
  const std::vector<InFlightRequest> requests = {{5000, "permit", "flush", 0, 0},
                                                 {2000, "disk", "read", 512, 4096}};
  const auto list = ParseInFlight(InFlightText(requests));
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(list->requests, requests);
  EXPECT_EQ(list->left_out, 0u);
}

TEST(InFlightTest, OfTooManyTheYoungestAreCounted) {
  std::vector<InFlightRequest> requests;
  for (int i = 0; i < 4000; ++i) requests.push_back({i * 1000, "server", "read", 4096, 4096});
  const std::string text = InFlightText(requests);
  EXPECT_LE(text.size(), kMaxInFlightText + 16);
  const auto list = ParseInFlight(text);
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(list->requests.size() + list->left_out, 4000u);
  EXPECT_GT(list->left_out, 0u);
  EXPECT_EQ(list->requests[0].age_ns, 3'999'000);
}

TEST(InFlightTest, RefusesOtherTexts) {
  for (const char* text : {"1 server read 0\n", "x server read 0 1\n", "1 server read -1 1\n",
                           "many more\n", "1 server read 0 1 2\n"}) {
    EXPECT_EQ(StatusToErrno(ParseInFlight(text).status()), EPROTO) << text;
  }
}

}  // namespace
}  // namespace rnbd
