#include "client/unflushed_writes.h"

#include "gtest/gtest.h"

namespace rnbd::client {
namespace {

TEST(UnflushedWritesTest, AFlushAfterALossFailsOnce) {
  UnflushedWrites writes;
  writes.OnWritten();
  writes.OnCacheLost();
  EXPECT_FALSE(writes.BeginFlush());
  EXPECT_TRUE(writes.BeginFlush());
}

TEST(UnflushedWritesTest, FlushedWritesAreNotLost) {
  UnflushedWrites writes;
  writes.OnWritten();
  EXPECT_TRUE(writes.BeginFlush());
  writes.OnCacheLost();
  EXPECT_TRUE(writes.BeginFlush());
}

TEST(UnflushedWritesTest, WritesDuringAFlushAreNotCoveredByIt) {
  UnflushedWrites writes;
  EXPECT_TRUE(writes.BeginFlush());
  writes.OnWritten();
  writes.OnCacheLost();
  EXPECT_FALSE(writes.BeginFlush());
}

TEST(UnflushedWritesTest, AFailedFlushCoversNothing) {
  UnflushedWrites writes;
  writes.OnWritten();
  EXPECT_TRUE(writes.BeginFlush());
  writes.OnFlushFailed();
  writes.OnCacheLost();
  EXPECT_FALSE(writes.BeginFlush());
}

TEST(UnflushedWritesTest, TellsWhetherThereAreAny) {
  UnflushedWrites writes;
  EXPECT_FALSE(writes.any());
  writes.OnWritten();
  EXPECT_TRUE(writes.any());
  writes.OnCacheLost();
  EXPECT_TRUE(writes.any());
  EXPECT_FALSE(writes.BeginFlush());
  EXPECT_FALSE(writes.any());
}

TEST(UnflushedWritesTest, TheLossIsRememberedOverFurtherSessions) {
  UnflushedWrites writes;
  writes.OnWritten();
  writes.OnCacheLost();
  writes.OnCacheLost();
  EXPECT_FALSE(writes.BeginFlush());
}

}  // namespace
}  // namespace rnbd::client
