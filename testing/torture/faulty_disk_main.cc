// A file system with one file, "disk.img", which is VolatileImage: a disk that is slow, fails,
// hangs, and loses its power, for a server that is to be tested as it is.
//
// Usage: faulty-disk MOUNT IMAGE SEED
//
// Commands on standard input, each answered by one line:
//
//   slow PERCENT MS     so many of the requests take up to MS longer; what they do is done at the
//   end of that fail PERCENT        so many of the requests fail with EIO, undone hang, go_on
//   requests wait, until they may go on power_loss          what waits is not done, and
//   VolatileImage::LosePower(): "ok SECTORS" clear               slow 0 0, fail 0, go_on count
//   requests so far: "ok REQUESTS"
//
// It prints "ready" when it has mounted, and unmounts at the end of its input.

#define FUSE_USE_VERSION 314

#include <fuse_lowlevel.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "testing/torture/volatile_image.h"

namespace rnbd::testing {
namespace {

constexpr fuse_ino_t kDisk = 2;
constexpr char kName[] = "disk.img";

// Answers a request, with an error (then nothing is done) or 0.
using Work = std::function<void(int error)>;

class FaultyDisk {
 public:
  FaultyDisk(std::unique_ptr<VolatileImage> image, uint32_t seed)
      : image_(std::move(image)), random_(seed), thread_([this] { RunWaiting(); }) {}

  ~FaultyDisk() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      end_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  VolatileImage* image() { return image_.get(); }

  void Take(bool may_hang, Work work) {
    std::unique_lock<std::mutex> lock(mutex_);
    ++requests_;
    if (static_cast<int>(random_() % 100) < fail_percent_) {
      lock.unlock();
      return work(EIO);
    }
    const bool slow = static_cast<int>(random_() % 100) < slow_percent_;
    if (!slow && !(may_hang && hang_ && !pass_)) {
      lock.unlock();
      return work(0);
    }
    const auto wait = absl::Milliseconds(slow ? random_() % (slow_ms_ + 1) : 0);
    (may_hang ? waiting_ : waiting_flushes_).emplace(absl::Now() + wait, std::move(work));
    changed_.notify_all();
  }

  std::string Command(const std::string& line) {
    std::istringstream words(line);
    std::string command;
    int first = 0;
    int second = 0;
    words >> command >> first >> second;
    std::lock_guard<std::mutex> lock(mutex_);
    changed_.notify_all();
    if (command == "slow") {
      slow_percent_ = first;
      slow_ms_ = second;
    } else if (command == "fail") {
      fail_percent_ = first;
    } else if (command == "hang" || command == "go_on") {
      hang_ = command == "hang";
      pass_ = false;
    } else if (command == "pass") {
      pass_ = true;
    } else if (command == "clear") {
      slow_percent_ = fail_percent_ = 0;
      hang_ = pass_ = false;
    } else if (command == "power_loss") {
      FailAll();
      return "ok " + std::to_string(image_->LosePower());
    } else if (command == "count") {
      return "ok " + std::to_string(requests_);
    } else {
      return "unknown command";
    }
    return "ok";
  }

 private:
  using Waiting = std::multimap<absl::Time, Work>;

  void FailAll() {
    for (Waiting* waiting : {&waiting_, &waiting_flushes_}) {
      for (auto& [due, work] : *waiting) work(EIO);
      waiting->clear();
    }
  }

  void RunWaiting() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!end_) {
      absl::Time next = absl::Now() + absl::Seconds(1);
      for (Waiting* waiting : {&waiting_, &waiting_flushes_}) {
        if (hang_ && waiting == &waiting_) continue;
        // Under the lock, so that a loss of power falls before or after it.
        while (!waiting->empty() && waiting->begin()->first <= absl::Now()) {
          waiting->begin()->second(0);
          waiting->erase(waiting->begin());
        }
        if (!waiting->empty()) next = std::min(next, waiting->begin()->first);
      }
      changed_.wait_for(lock, absl::ToChronoNanoseconds(next - absl::Now()));
    }
    FailAll();
  }

  const std::unique_ptr<VolatileImage> image_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::minstd_rand random_;
  Waiting waiting_;
  Waiting waiting_flushes_;
  int64_t requests_ = 0;
  int slow_percent_ = 0;
  uint32_t slow_ms_ = 0;
  int fail_percent_ = 0;
  bool hang_ = false;
  bool pass_ = false;
  bool end_ = false;
  std::thread thread_;
};

FaultyDisk* DiskOf(fuse_req_t request) {
  return static_cast<FaultyDisk*>(fuse_req_userdata(request));
}

struct stat AttributesOf(fuse_ino_t inode, FaultyDisk* disk) {
  struct stat attributes = {};
  attributes.st_ino = inode;
  attributes.st_mode = inode == kDisk ? S_IFREG | 0600 : S_IFDIR | 0700;
  attributes.st_nlink = 1;
  if (inode == kDisk) attributes.st_size = static_cast<off_t>(disk->image()->bytes());
  attributes.st_blocks = attributes.st_size / 512;
  attributes.st_blksize = 4096;
  return attributes;
}

// A disk has room for all that a server may have in flight. With less, the kernel would have the
// server's threads wait where they hand requests over.
void Init(void* /*disk*/, fuse_conn_info* connection) {
  connection->max_background = connection->congestion_threshold = 4096;
}

void Lookup(fuse_req_t request, fuse_ino_t /*parent*/, const char* name) {
  if (std::strcmp(name, kName) != 0) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  fuse_entry_param entry = {};
  entry.ino = kDisk;
  entry.attr = AttributesOf(kDisk, DiskOf(request));
  entry.attr_timeout = entry.entry_timeout = 60;
  fuse_reply_entry(request, &entry);
}

void GetAttributes(fuse_req_t request, fuse_ino_t inode, fuse_file_info* /*file*/) {
  const struct stat attributes = AttributesOf(inode, DiskOf(request));
  fuse_reply_attr(request, &attributes, 60);
}

void Open(fuse_req_t request, fuse_ino_t /*inode*/, fuse_file_info* file) {
  file->direct_io = 1;
  fuse_reply_open(request, file);
}

void Read(fuse_req_t request, fuse_ino_t /*inode*/, size_t size, off_t offset,
          fuse_file_info* /*file*/) {
  FaultyDisk* disk = DiskOf(request);
  disk->Take(true, [=](int error) {
    std::vector<uint8_t> data(size);
    size_t done = 0;
    if (error == 0) {
      error = disk->image()->Read(static_cast<uint64_t>(offset), absl::MakeSpan(data), &done);
    }
    if (error != 0) {
      fuse_reply_err(request, error);
    } else {
      fuse_reply_buf(request, reinterpret_cast<const char*>(data.data()), done);
    }
  });
}

void Write(fuse_req_t request, fuse_ino_t /*inode*/, const char* bytes, size_t size, off_t offset,
           fuse_file_info* file) {
  FaultyDisk* disk = DiskOf(request);
  const auto* first = reinterpret_cast<const uint8_t*>(bytes);
  const bool fua = (file->flags & (O_DSYNC | O_SYNC)) != 0;
  disk->Take(true, [=, data = std::vector<uint8_t>(first, first + size)](int error) {
    if (error == 0) error = disk->image()->Write(static_cast<uint64_t>(offset), data, fua);
    if (error != 0) {
      fuse_reply_err(request, error);
    } else {
      fuse_reply_write(request, size);
    }
  });
}

void Sync(fuse_req_t request, fuse_ino_t /*inode*/, int /*datasync*/, fuse_file_info* /*file*/) {
  FaultyDisk* disk = DiskOf(request);
  disk->Take(false, [=](int error) {
    if (error == 0) disk->image()->Flush();
    fuse_reply_err(request, error);
  });
}

int Serve(const char* mount, FaultyDisk* disk) {
  fuse_lowlevel_ops operations = {};
  operations.init = Init;
  operations.lookup = Lookup;
  operations.getattr = GetAttributes;
  operations.open = Open;
  operations.read = Read;
  operations.write = Write;
  operations.fsync = Sync;
  char program[] = "faulty-disk";
  char* arguments[] = {program, nullptr};
  fuse_args args = FUSE_ARGS_INIT(1, arguments);
  fuse_session* session = fuse_session_new(&args, &operations, sizeof(operations), disk);
  if (session == nullptr || fuse_session_mount(session, mount) != 0) return 1;
  std::thread control([&] {
    std::cout << "ready" << std::endl;
    for (std::string line; std::getline(std::cin, line);) {
      std::cout << disk->Command(line) << std::endl;
    }
    disk->Command("clear");
    // Ends the loop.
    fuse_session_exit(session);
    fuse_session_unmount(session);
  });
  const int result = fuse_session_loop(session);
  control.join();
  fuse_session_destroy(session);
  return result < 0 ? 1 : 0;
}

int Main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: faulty-disk MOUNT IMAGE SEED" << std::endl;
    return 2;
  }
  const auto seed = static_cast<uint32_t>(std::stoul(argv[3]));
  auto image = VolatileImage::Open(argv[2], seed);
  if (!image.ok()) {
    std::cerr << image.status().message() << std::endl;
    return 1;
  }
  FaultyDisk disk(*std::move(image), seed);
  return Serve(argv[1], &disk);
}

}  // namespace
}  // namespace rnbd::testing

int main(int argc, char** argv) { return rnbd::testing::Main(argc, argv); }
