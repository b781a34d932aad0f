// DiskWriter for a file or block device, driven by lines on standard input:
//
//   resume, host_lost         done: "ok"
//   pause SECONDS             no new requests: "ok", or "busy" if some are still in flight then
//   check SECONDS             after a pause, reads all: "ok" or "busy"
//   report                    DiskWriter::Report as one line of JSON, times in seconds
//
// Each is answered by one line. It ends with its input.

#include <gflags/gflags.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/time/time.h"
#include "testing/torture/disk.h"
#include "testing/torture/disk_writer.h"

DEFINE_string(file, "", "the disk; its size, or the part of it that --blocks says, is written to");
DEFINE_uint64(first_block, 0, "where to begin");
DEFINE_uint64(blocks, 0, "how many blocks; 0: up to the end");
DEFINE_uint32(block_bytes, 512, "of a block");
DEFINE_uint32(depth, 16, "requests in flight");
DEFINE_uint32(longest, 64, "blocks of the longest request");
DEFINE_uint32(seed, 1, "of the choice of requests");
DEFINE_uint64(writer, 1, "in the stamps");

namespace rnbd::testing {
namespace {

std::string Quote(const std::string& text) {
  return absl::StrCat(
      "\"", absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}}), "\"");
}

std::string ToJson(const DiskWriter::Report& report) {
  return absl::StrCat(
      "{\"writes\": ", report.writes, ", \"reads\": ", report.reads,
      ", \"flushes\": ", report.flushes, ", \"blocks_verified\": ", report.blocks_verified,
      ", \"errors\": ", report.errors, ", \"flush_errors\": ", report.flush_errors,
      ", \"violations\": ", report.violations, ", \"in_flight\": ", report.in_flight,
      ", \"longest_request\": ", absl::ToDoubleSeconds(report.longest_request),
      ", \"longest_pause\": ", absl::ToDoubleSeconds(report.longest_pause), ", \"messages\": [",
      absl::StrJoin(report.messages, ", ",
                    [](std::string* out, const std::string& message) {
                      absl::StrAppend(out, Quote(message));
                    }),
      "]}");
}

std::string Answer(DiskWriter* writer, const std::string& line) {
  std::istringstream words(line);
  std::string command;
  double seconds = 0;
  words >> command >> seconds;
  if (command == "resume") {
    writer->Resume();
  } else if (command == "host_lost") {
    writer->HostLost();
  } else if (command == "pause") {
    if (!writer->Pause(absl::Seconds(seconds))) return "busy";
  } else if (command == "check") {
    if (!writer->CheckAll(absl::Seconds(seconds))) return "busy";
  } else if (command == "report") {
    return ToJson(writer->TakeReport());
  } else {
    return "unknown command";
  }
  return "ok";
}

int Main() {
  auto disk = FileDisk::Open(FLAGS_file.c_str());
  if (!disk.ok()) {
    std::cerr << disk.status().message() << std::endl;
    return 1;
  }
  DiskWriter::Options options;
  options.writer = FLAGS_writer;
  options.first_block = FLAGS_first_block;
  options.blocks = FLAGS_blocks;
  if (options.blocks == 0) options.blocks = disk->bytes() / FLAGS_block_bytes - FLAGS_first_block;
  options.block_bytes = FLAGS_block_bytes;
  options.depth = FLAGS_depth;
  options.longest = FLAGS_longest;
  options.seed = FLAGS_seed;
  auto writer = DiskWriter::Create(options, &*disk);
  if (!writer.ok()) {
    std::cerr << writer.status().message() << std::endl;
    return 1;
  }
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << Answer(writer->get(), line) << std::endl;
  }
  // Not the destructors: requests may stand for ever, and with them the ring.
  std::cout.flush();
  _exit(0);
}

}  // namespace
}  // namespace rnbd::testing

int main(int argc, char** argv) {
  gflags::ParseCommandLineFlags(&argc, &argv, /*remove_flags=*/true);
  return rnbd::testing::Main();
}
