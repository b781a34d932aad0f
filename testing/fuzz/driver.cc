#include "testing/fuzz/driver.h"

#include <algorithm>
#include <csignal>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"

// Only there in sanitizer builds.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace rnbd {
namespace {

using Input = std::vector<uint8_t>;

constexpr uint64_t kDefaultRuns = 100'000;
constexpr size_t kMaxInputSize = 16 * 1024;
constexpr int kMaxMutationsAtOnce = 6;
// Lengths and counters go wrong at the ends of their range and around powers of two.
constexpr uint64_t kInteresting[] = {
    0,          1,        2,          3,          4,          7,      8,      16,
    25,         26,       31,         32,         255,        256,    511,    512,
    4095,       4096,     8191,       8192,       0x7FFF,     0x8000, 0xFFFF, 0x10000,
    0x7FFFFFFF, 1u << 31, 0xFFFFFFFF, 1ull << 32, ~0ull >> 1, ~0ull};

// The input at work, for the report of a crash.
const Input* current_input = nullptr;

void ReportCurrentInput() {
  if (current_input == nullptr) return;
  const absl::string_view bytes(reinterpret_cast<const char*>(current_input->data()),
                                current_input->size());
  std::fprintf(stderr, "input of %zu bytes: %s\n", bytes.size(),
               absl::BytesToHexString(bytes).c_str());
  current_input = nullptr;
}

// Not async-signal-safe, which is good enough for a process that is about to die.
void OnFatalSignal(int signal_number) {
  std::signal(signal_number, SIG_DFL);
  ReportCurrentInput();
  std::raise(signal_number);
}

void Run(const Input& input) {
  // A copy of exact size, so that a sanitizer sees any step beyond its end.
  const Input exact(input.begin(), input.end());
  current_input = &exact;
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
  current_input = nullptr;
}

class Mutator {
 public:
  Mutator(absl::Span<const Input> seeds, uint64_t random_seed)
      : seeds_(seeds), random_(random_seed) {}

  Input Next() {
    Input input = seeds_[Below(seeds_.size())];
    for (uint64_t n = 1 + Below(kMaxMutationsAtOnce); n > 0; --n) MutateOnce(&input);
    input.resize(std::min(input.size(), kMaxInputSize));
    return input;
  }

 private:
  // `bound` > 0.
  uint64_t Below(uint64_t bound) { return random_() % bound; }

  void MutateOnce(Input* input) {
    if (input->empty()) {
      input->push_back(static_cast<uint8_t>(random_()));
      return;
    }
    const size_t at = Below(input->size());
    switch (Below(8)) {
      case 0:
        (*input)[at] ^= static_cast<uint8_t>(1u << Below(8));
        return;
      case 1:
        (*input)[at] = static_cast<uint8_t>(random_());
        return;
      case 2:
      case 3:
        StoreInteresting(input, at);
        return;
      case 4:
        AddSmall(input, at);
        return;
      case 5:
        input->resize(at);
        return;
      case 6:
        input->insert(input->begin() + at, 1 + Below(32), static_cast<uint8_t>(random_()));
        return;
      case 7:
        Splice(input, at);
        return;
    }
  }

  void StoreInteresting(Input* input, size_t at) {
    uint64_t value = kInteresting[Below(std::size(kInteresting))];
    const size_t width = size_t{1} << Below(4);
    for (size_t i = at; i < std::min(at + width, input->size()); ++i, value >>= 8) {
      (*input)[i] = static_cast<uint8_t>(value);
    }
  }

  // To a little-endian number of 16 bits: lengths that are nearly right.
  void AddSmall(Input* input, size_t at) {
    const size_t high = std::min(at + 1, input->size() - 1);
    uint32_t value = (*input)[at] | (*input)[high] << 8;
    value += static_cast<uint32_t>(Below(17)) - 8;
    (*input)[high] = static_cast<uint8_t>(value >> 8);
    (*input)[at] = static_cast<uint8_t>(value);
  }

  void Splice(Input* input, size_t at) {
    const Input& other = seeds_[Below(seeds_.size())];
    const size_t from = Below(other.size() + 1);
    input->erase(input->begin() + at, input->end());
    input->insert(input->end(), other.begin() + from, other.end());
  }

  absl::Span<const Input> seeds_;
  std::mt19937_64 random_;
};

Input ReadFile(const std::string& name) {
  std::ifstream file(name, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", name.c_str());
    std::exit(2);
  }
  return Input(std::istreambuf_iterator<char>(file), {});
}

void WriteSeeds(absl::Span<const Input> seeds, absl::string_view directory) {
  for (size_t i = 0; i < seeds.size(); ++i) {
    const std::string name = absl::StrCat(directory, "/seed-", i);
    std::ofstream file(name, std::ios::binary);
    file.write(reinterpret_cast<const char*>(seeds[i].data()), seeds[i].size());
    if (!file.flush()) {
      std::fprintf(stderr, "cannot write %s\n", name.c_str());
      std::exit(2);
    }
  }
}

int Main(absl::Span<char* const> arguments) {
  for (int signal_number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
    std::signal(signal_number, OnFatalSignal);
  }
  if (__sanitizer_set_death_callback != nullptr) {
    __sanitizer_set_death_callback(ReportCurrentInput);
  }

  const std::vector<Input> seeds = FuzzSeeds();
  FUZZ_CHECK(!seeds.empty());
  uint64_t runs = kDefaultRuns;
  uint64_t random_seed = 1;
  std::vector<Input> inputs;
  for (absl::string_view argument : arguments) {
    if (absl::ConsumePrefix(&argument, "--runs=")) {
      FUZZ_CHECK(absl::SimpleAtoi(argument, &runs));
    } else if (absl::ConsumePrefix(&argument, "--random_seed=")) {
      FUZZ_CHECK(absl::SimpleAtoi(argument, &random_seed));
    } else if (absl::ConsumePrefix(&argument, "--write_seeds=")) {
      WriteSeeds(seeds, argument);
      return 0;
    } else {
      inputs.push_back(ReadFile(std::string(argument)));
    }
  }

  if (!inputs.empty()) {
    for (const Input& input : inputs) Run(input);
    return 0;
  }
  for (const Input& seed : seeds) Run(seed);
  Mutator mutator(seeds, random_seed);
  for (uint64_t i = 0; i < runs; ++i) Run(mutator.Next());
  std::printf("%zu seeds and %llu mutations\n", seeds.size(),
              static_cast<unsigned long long>(runs));
  return 0;
}

}  // namespace
}  // namespace rnbd

int main(int argc, char** argv) {
  return rnbd::Main(absl::MakeConstSpan(argv + 1, static_cast<size_t>(argc - 1)));
}
