#ifndef RNBD_TESTING_TORTURE_PACKET_WEATHER_H_
#define RNBD_TESTING_TORTURE_PACKET_WEATHER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include "absl/time/time.h"

namespace rnbd::testing {

using Packet = std::vector<uint8_t>;

// What becomes of packets on the way in one direction: the order in which they arrive, and which.
// One thread.
class PacketWeather {
 public:
  struct Settings {
    bool cut = false;      // nothing arrives
    double loss = 0;       // the share of packets that do not
    double duplicate = 0;  // that arrive twice
    double reorder = 0;    // that are overtaken by those of the next milliseconds
    absl::Duration delay = absl::ZeroDuration();  // of each
    int64_t bytes_per_second = 0;                 // 0: no limit
  };

  explicit PacketWeather(uint32_t seed) : random_(seed) {}

  void set(const Settings& settings) { settings_ = settings; }

  void Offer(Packet packet, absl::Time now);
  // The next that has arrived; false if none has.
  bool Take(absl::Time now, Packet* packet);
  // When the next one arrives; far in the future if none is on its way.
  absl::Time NextDue() const;

 private:
  // As a network's queue: what does not fit is lost.
  static constexpr size_t kMostUnderWay = 1000;

  bool Happens(double share) { return std::uniform_real_distribution<double>()(random_) < share; }

  Settings settings_;
  std::minstd_rand random_;
  std::multimap<absl::Time, Packet> under_way_;
  absl::Time line_free_ = absl::InfinitePast();  // by the limit of bytes per second
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_TORTURE_PACKET_WEATHER_H_
