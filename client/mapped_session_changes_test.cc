// A session whose devices come and go while it is connected.

#include <cerrno>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/mapped_session.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/stream_fabric.h"
#include "testing/device_server.h"
#include "testing/mapped_session_fixture.h"
#include "testing/session_harness.h"

namespace rnbd::client {
namespace {

using rtrs::Eventually;
using rtrs::kPatience;
using testing::MappedClient;
using testing::TestSessionConfig;

class MappedSessionChangesTest : public testing::MappedSessionFixture {
 protected:
  using Done = MappedSession::Done;

  MappedSessionChangesTest() { server_.AddDisk("disk2", &disk2_); }

  int Await(const std::function<void(MappedSession*, Done)>& begin) {
    absl::Notification done;
    int error = -1;
    client_->OnControl([&](MappedSession* session) {
      begin(session, [&](const absl::Status& status) {
        error = StatusToErrno(status);
        done.Notify();
      });
    });
    EXPECT_TRUE(done.WaitForNotificationWithTimeout(kPatience));
    return error;
  }
  int Add(const std::string& name) {
    config::ClientDeviceConfig device;
    device.path = name;
    device.name = name;
    return Await([&](MappedSession* session, Done done) {
      added_ = session->AddDevice(device, std::move(done));
    });
  }
  int Remove(const std::string& name) {
    return Await(
        [&](MappedSession* session, Done done) { session->RemoveDevice(name, std::move(done)); });
  }
  int Remap(const std::string& name) {
    return Await([&](MappedSession* session, Done done) { session->Remap(name, std::move(done)); });
  }
  std::vector<std::string> Names() {
    std::vector<std::string> names;
    client_->OnControl([&](MappedSession* session) {
      for (const auto& device : session->devices()) names.push_back(device.config->name);
    });
    return names;
  }

  RemoteDevice* added_ = nullptr;
};

TEST_F(MappedSessionChangesTest, ADeviceComesAndGoes) {
  server_.Start();
  StartClient();
  client_->WaitOpen("disk0");
  for (int round = 0; round < 3; ++round) {
    ASSERT_EQ(Add("disk2"), 0);
    EXPECT_EQ(Read(added_), 0);
    EXPECT_EQ(client_->Write(added_, 0, absl::MakeSpan(client_->memory(), 4096)), 0);
    EXPECT_EQ(disk2_.opens(), 1);
    EXPECT_THAT(Names(), ::testing::ElementsAre("disk0", "disk1", "disk2"));
    ASSERT_EQ(Remove("disk2"), 0);
    EXPECT_EQ(disk2_.opens(), 0) << "not closed at the server when it is done";
    EXPECT_THAT(Names(), ::testing::ElementsAre("disk0", "disk1"));
  }
  EXPECT_EQ(client_->opened("disk2"), 0);
  EXPECT_EQ(Remove("disk2"), ENODEV);
  EXPECT_EQ(Read(client_->WaitOpen("disk0")), 0);
}

TEST_F(MappedSessionChangesTest, WhatTheServerRefusesIsNotThere) {
  server_.Start();
  StartClient();
  client_->WaitOpen("disk0");
  EXPECT_EQ(Add("missing"), ENOENT);
  EXPECT_THAT(Names(), ::testing::ElementsAre("disk0", "disk1"));
  const int attempts = server_.opens();
  absl::SleepFor(absl::Milliseconds(300));
  EXPECT_EQ(server_.opens(), attempts) << "tried again";
}

TEST_F(MappedSessionChangesTest, ConfiguredDevicesMayGo) {
  server_.Start();
  StartClient();
  client_->WaitOpen("disk0");
  client_->WaitOpen("disk1");
  EXPECT_EQ(Remove("disk0"), 0);
  EXPECT_EQ(Remove("disk1"), 0);
  EXPECT_EQ(disk0_.opens(), 0);
  EXPECT_THAT(Names(), ::testing::ElementsAre());
  EXPECT_EQ(Add("disk0"), 0);
  EXPECT_EQ(Read(added_), 0);
}

TEST_F(MappedSessionChangesTest, WithoutAPathNothingIsMapped) {
  server_.Start();
  StartClient();
  client_->WaitOpen("disk0");
  server_.Stop();
  EXPECT_TRUE(Eventually([&] {
    bool connected = true;
    client_->OnControl(
        [&](MappedSession* session) { connected = session->session()->connected(); });
    return !connected;
  }));
  EXPECT_EQ(Add("disk2"), ECONNABORTED);
  EXPECT_EQ(Remap("disk0"), ECONNABORTED);
  EXPECT_EQ(Remove("disk0"), 0);
  EXPECT_THAT(Names(), ::testing::ElementsAre("disk1"));
}

TEST_F(MappedSessionChangesTest, ASessionThatCannotConnectSaysSo) {
  config_.devices.clear();
  StartClient();
  const int error = Add("disk0");
  EXPECT_TRUE(error == ECONNREFUSED || error == ENOENT) << error;
}

TEST_F(MappedSessionChangesTest, Remaps) {
  config_ = TestSessionConfig(server_.path(), {"missing", "disk0"});
  server_.Start();
  StartClient();
  client_->WaitOpen("disk0");
  EXPECT_EQ(Remap("disk0"), EALREADY);
  EXPECT_EQ(Remap("nothing"), ENODEV);
  EXPECT_EQ(Remap("missing"), ENOENT);
  server_.AddDisk("missing", &disk1_);
  const int error = Remap("missing");
  EXPECT_TRUE(error == 0 || error == EALREADY) << error;
  EXPECT_EQ(Read(client_->WaitOpen("missing")), 0);
}

TEST_F(MappedSessionChangesTest, WhoWaitsIsToldOfTheEnd) {
  client_ = std::make_unique<MappedClient>(&fabric_, config_);
  absl::Notification done;
  int error = -1;
  config::ClientDeviceConfig device;
  device.path = device.name = "disk2";
  client_->OnControl([&](MappedSession* session) {
    session->AddDevice(device, [&](const absl::Status& status) {
      error = StatusToErrno(status);
      done.Notify();
    });
  });
  client_->BeginClose();
  EXPECT_TRUE(done.WaitForNotificationWithTimeout(kPatience));
  EXPECT_EQ(error, ESHUTDOWN);
}

}  // namespace
}  // namespace rnbd::client
