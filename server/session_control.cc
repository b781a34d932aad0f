#include "server/session_control.h"

#include <cerrno>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "common/logging.h"
#include "common/status.h"
#include "config/units.h"
#include "rtrs/messages.h"

namespace rnbd::server {
namespace {

constexpr char kDrain[] = "class/rnbd-server/ctl/drain";
constexpr char kDrainDisk[] = "class/rnbd-server/ctl/drain_disk";
constexpr char kUndrainDisk[] = "class/rnbd-server/ctl/undrain_disk";
constexpr char kFence[] = "class/rnbd-server/ctl/fence";
constexpr char kUnfence[] = "class/rnbd-server/ctl/unfence";

// Beyond what a drained path takes by itself.
constexpr absl::Duration kGrace = absl::Seconds(1);

struct FenceOrder {
  std::string name;
  absl::Duration time = absl::InfiniteDuration();
};

// "NAME", or "NAME for TIME".
absl::StatusOr<FenceOrder> ParseFence(absl::string_view text) {
  constexpr char kFor[] = " for ";
  FenceOrder order;
  order.name = std::string(absl::StripAsciiWhitespace(text));
  if (const size_t at = order.name.rfind(kFor); at != std::string::npos) {
    const auto time = config::ParseDuration(order.name.substr(at + sizeof(kFor) - 1));
    if (!time.ok()) return rnbd::ErrnoToStatus(EINVAL, time.status().message());
    order.time = *time;
    order.name.resize(at);
  }
  if (!rtrs::ValidateSessionName(order.name).ok() || order.time <= absl::ZeroDuration()) {
    return ErrnoToStatus(EINVAL, "expected SESSION, or SESSION for TIME");
  }
  return order;
}

}  // namespace

absl::Status SessionControl::AddCommand(
    AttributeTree* tree, const char* path, std::function<std::string()> show,
    std::function<void(const std::string&, AttributeTree::StoreDone)> store) {
  AttributeTree::Attribute attribute;
  attribute.mode = 0644;
  attribute.show = [show = std::move(show)] { return show().substr(0, AttributeTree::kMaxText); };
  attribute.store = std::move(store);
  return tree->AddAttribute(path, std::move(attribute));
}

absl::Status SessionControl::AddTo(AttributeTree* tree) {
  using Done = AttributeTree::StoreDone;
  RETURN_IF_ERROR(AddCommand(
      tree, kDrain,
      [this] {
        const rtrs::Server* const server = environment_.server();
        return std::string(server != nullptr && server->drained() ? "1\n" : "0\n");
      },
      [this](const std::string& text, Done done) { Drain(text, std::move(done)); }));
  RETURN_IF_ERROR(AddCommand(
      tree, kDrainDisk,
      [this] { return environment_.service->drained_disks()->Text("undrain", absl::Now()); },
      [this](const std::string& text, Done done) { DrainDisk(text, std::move(done)); }));
  RETURN_IF_ERROR(AddCommand(
      tree, kUndrainDisk, [] { return std::string("Write: the name of a disk\n"); },
      [this](const std::string& text, const Done& done) { UndrainDisk(text, done); }));
  RETURN_IF_ERROR(AddCommand(
      tree, kFence, [this] { return environment_.service->fenced()->Text("unfence", absl::Now()); },
      [this](const std::string& text, Done done) { Fence(text, std::move(done)); }));
  return AddCommand(
      tree, kUnfence, [] { return std::string("Write: the name of a session\n"); },
      [this](const std::string& text, const Done& done) { Unfence(text, done); });
}

// To be called on the control thread, once; it tells ETIMEDOUT when that takes too long.
std::function<void()> SessionControl::Bounded(AttributeTree::StoreDone done,
                                              absl::Duration bound) const {
  struct Waiting {
    AttributeTree::StoreDone done;
    std::unique_ptr<Ring::Timer> timer;
  };
  auto waiting = std::make_shared<Waiting>();
  waiting->done = std::move(done);
  waiting->timer =
      std::make_unique<Ring::Timer>(environment_.control, [own = waiting.get(), bound] {
        const AttributeTree::StoreDone late = std::exchange(own->done, nullptr);
        late(ErrnoToStatus(ETIMEDOUT,
                           absl::StrCat("requests are still at work at their disks after ",
                                        absl::FormatDuration(bound), "; it goes on without this")));
      });
  waiting->timer->Arm(bound);
  return [waiting] {
    waiting->timer->Cancel();
    if (const auto told = std::exchange(waiting->done, nullptr)) told(absl::OkStatus());
  };
}

void SessionControl::Drain(const std::string& text, AttributeTree::StoreDone done) {
  const absl::string_view word = absl::StripAsciiWhitespace(text);
  rtrs::Server* const server = environment_.server();
  if (server == nullptr) return done(ErrnoToStatus(ESHUTDOWN, "the server ends"));
  if (word == "0") {
    if (server->drained()) spdlog::info("sessions are taken again");
    server->Undrain();
    return done(absl::OkStatus());
  }
  if (word != "1") return done(ErrnoToStatus(EINVAL, "expected 1 or 0"));
  const absl::Duration bound = drain_timeout();
  spdlog::info("the server is drained: it takes no sessions, and ends {}", server->session_count());
  server->Drain(ErrnoToStatus(ESHUTDOWN, "the server is drained"), bound,
                Bounded(std::move(done), bound + kGrace));
}

void SessionControl::DrainSession(const std::string& name, AttributeTree::StoreDone done) {
  rtrs::Server* const server = environment_.server();
  if (server == nullptr) return done(ErrnoToStatus(ESHUTDOWN, "the server ends"));
  const absl::Duration bound = drain_timeout();
  server->DrainSession(name, ErrnoToStatus(ESHUTDOWN, "drained by a command"), bound,
                       Bounded(std::move(done), bound + kGrace));
}

// Behind what was posted to the device thread before, and what that posts here.
void SessionControl::BehindDevices(std::function<void()> task) const {
  environment_.devices->Post(
      [control = environment_.control, task = std::move(task)] { control->Post(task); });
}

// From the word on nobody opens the disk; who has it open by then is in the tree one round later.
// Their sessions are drained, for a device alone cannot be taken from a client without an error.
void SessionControl::DrainDisk(const std::string& text, AttributeTree::StoreDone done) {
  const std::string disk(absl::StripAsciiWhitespace(text));
  if (disk.empty() || absl::StrContains(disk, '/')) {
    return done(ErrnoToStatus(EINVAL, "expected the name of a disk in the control tree"));
  }
  if (!environment_.service->drained_disks()->Add(disk, absl::InfiniteFuture(), absl::Now())) {
    return done(ErrnoToStatus(ENOSPC, "too many disks are drained"));
  }
  spdlog::info("disk {} is drained", disk);
  const absl::Duration bound = drain_timeout();
  const std::function<void()> finish = Bounded(std::move(done), bound + kGrace);
  BehindDevices([this, disk, bound, finish] {
    rtrs::Server* const server = environment_.server();
    const std::set<std::string> sessions = environment_.sessions_with(disk);
    if (server == nullptr || sessions.empty()) return finish();
    auto left = std::make_shared<size_t>(sessions.size());
    for (const std::string& session : sessions) {
      server->DrainSession(session, ErrnoToStatus(ESHUTDOWN, "one of its disks is drained"), bound,
                           [this, left, finish] {
                             if (--*left == 0) BehindDevices(finish);
                           });
    }
  });
}

void SessionControl::UndrainDisk(const std::string& text, const AttributeTree::StoreDone& done) {
  const std::string disk(absl::StripAsciiWhitespace(text));
  if (!environment_.service->drained_disks()->Remove(disk, absl::Now())) {
    return done(ErrnoToStatus(ENOENT, absl::StrCat("disk ", disk, " is not drained")));
  }
  spdlog::info("disk {} is not drained any more", disk);
  done(absl::OkStatus());
}

// The devices are closed, and the places of writers kept, on the device thread behind the session's
// end; from then on nobody is in anybody's way.
void SessionControl::Fence(const std::string& text, AttributeTree::StoreDone done) {
  const absl::StatusOr<FenceOrder> order = ParseFence(text);
  if (!order.ok()) return done(order.status());
  rtrs::Server* const server = environment_.server();
  if (server == nullptr) return done(ErrnoToStatus(ESHUTDOWN, "the server ends"));
  const absl::Time now = absl::Now();
  if (!environment_.service->fenced()->Add(order->name, now + order->time, now)) {
    return done(ErrnoToStatus(ENOSPC, "too many sessions are fenced"));
  }
  spdlog::warn("session {} is fenced, {}", order->name,
               order->time == absl::InfiniteDuration()
                   ? "until it is unfenced"
                   : absl::StrCat("for ", absl::FormatDuration(order->time)));
  const std::function<void()> finish = Bounded(std::move(done), drain_timeout() + kGrace);
  server->EndSession(order->name, ErrnoToStatus(EACCES, "the session is fenced by a command"),
                     [to = environment_, name = order->name, finish] {
                       to.devices->Post([to, name, finish] {
                         to.service->ForgetPlaces(name);
                         to.control->Post(finish);
                       });
                     });
}

void SessionControl::Unfence(const std::string& text, const AttributeTree::StoreDone& done) {
  const std::string name(absl::StripAsciiWhitespace(text));
  if (!environment_.service->fenced()->Remove(name, absl::Now())) {
    return done(ErrnoToStatus(ENOENT, absl::StrCat("session \"", name, "\" is not fenced")));
  }
  spdlog::info("session {} is not fenced any more", name);
  done(absl::OkStatus());
}

}  // namespace rnbd::server
