#include "testing/torture/packet_weather.h"

#include <algorithm>
#include <utility>

namespace rnbd::testing {

void PacketWeather::Offer(Packet packet, absl::Time now) {
  if (settings_.cut || Happens(settings_.loss) || under_way_.size() >= kMostUnderWay) return;
  if (settings_.bytes_per_second > 0) {
    line_free_ =
        std::max(line_free_, now) + absl::Seconds(static_cast<double>(packet.size()) /
                                                  static_cast<double>(settings_.bytes_per_second));
    now = line_free_;
  }
  absl::Time due = now + settings_.delay;
  if (Happens(settings_.reorder)) due += absl::Microseconds(500 + random_() % 10000);
  if (Happens(settings_.duplicate)) {
    under_way_.emplace(due + absl::Microseconds(random_() % 5000), packet);
  }
  under_way_.emplace(due, std::move(packet));
}

bool PacketWeather::Take(absl::Time now, Packet* packet) {
  // Those under way are lost with the line.
  if (settings_.cut) under_way_.clear();
  if (NextDue() > now) return false;
  *packet = std::move(under_way_.begin()->second);
  under_way_.erase(under_way_.begin());
  return true;
}

absl::Time PacketWeather::NextDue() const {
  return under_way_.empty() ? absl::InfiniteFuture() : under_way_.begin()->first;
}

}  // namespace rnbd::testing
