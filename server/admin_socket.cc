#include "server/admin_socket.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/types/span.h"
#include "common/logging.h"
#include "common/status.h"
#include "common/timed_io.h"
#include "rtrs/address.h"

namespace rnbd::server {
namespace {

// How often somebody who waits for an attribute looks whether anybody waits for them.
constexpr absl::Duration kLook = absl::Milliseconds(100);

template <typename Message>
absl::Span<uint8_t> BytesOf(Message* message) {
  return absl::MakeSpan(reinterpret_cast<uint8_t*>(message), sizeof(*message));
}

absl::Span<uint8_t> BytesOf(std::string* text) {
  return absl::MakeSpan(reinterpret_cast<uint8_t*>(text->data()), text->size());
}

absl::Status MakeDirectoryOf(const std::string& path) {
  const std::string directory = path.substr(0, path.rfind('/'));
  if (directory.empty() || mkdir(directory.c_str(), 0755) == 0 || errno == EEXIST) {
    return absl::OkStatus();
  }
  return ErrnoToStatus(errno, absl::StrCat("make the directory of ", path));
}

}  // namespace

absl::StatusOr<std::unique_ptr<AdminSocket>> AdminSocket::Start(const std::string& path,
                                                                AttributeTree* tree,
                                                                const Options& options) {
  RETURN_IF_ERROR(MakeDirectoryOf(path));
  ASSIGN_OR_RETURN(const rtrs::Address address,
                   rtrs::ParseServerAddress(rtrs::AddressScheme::kUnix, path));
  ASSIGN_OR_RETURN(rtrs::ListeningSocket socket, rtrs::ListeningSocket::Open(address, 0600));
  UniqueFd stop(eventfd(0, EFD_CLOEXEC));
  if (!stop.valid()) return ErrnoToStatus(errno, "make an eventfd");
  std::unique_ptr<AdminSocket> admin(
      new AdminSocket(std::move(socket), std::move(stop), tree, options));
  admin->threads_.Run([admin = admin.get()] { admin->Accept(); });
  return admin;
}

AdminSocket::AdminSocket(rtrs::ListeningSocket socket, UniqueFd stop, AttributeTree* tree,
                         const Options& options)
    : options_(options),
      tree_(tree),
      socket_(std::move(socket)),
      stop_(std::move(stop)),
      threads_(options.max_connections + 1) {}

// The threads are waited for by the member's destructor, the first to run.
AdminSocket::~AdminSocket() { eventfd_write(stop_.get(), 1); }

void AdminSocket::Accept() {
  LogEvery log_failures(std::chrono::seconds(5));
  const WaitLimits until_stop = {absl::InfiniteFuture(), stop_.get()};
  while (WaitFor(socket_.get(), POLLIN, until_stop).ok()) {
    UniqueFd connection(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!connection.valid()) {
      if (log_failures.Allow()) {
        spdlog::warn("the admin socket: {}", ErrnoToStatus(errno, "accept"));
      }
      // Out of descriptors, perhaps: not again at once.
      static_cast<void>(WaitFor(-1, 0, {absl::Now() + kLook, stop_.get()}));
      continue;
    }
    if (connections_.load() == options_.max_connections) {
      static_cast<void>(
          Send(connection.get(), {EBUSY, "too many ask the server at the same time"}));
      continue;
    }
    ++connections_;
    threads_.Run([this, fd = connection.release()] {
      const UniqueFd owner(fd);
      Serve(owner.get());
      --connections_;
    });
  }
}

void AdminSocket::Serve(int connection) {
  while (ServeOne(connection).ok()) {
  }
}

absl::Status AdminSocket::ServeOne(int connection) {
  const WaitLimits limits = {absl::Now() + options_.patience, stop_.get()};
  AdminQuestion question;
  RETURN_IF_ERROR(ReceiveAll(connection, BytesOf(&question), limits));
  if (absl::Status good = CheckAdminQuestion(question); !good.ok()) {
    static_cast<void>(Send(connection, {StatusToErrno(good), std::string(good.message())}));
    return good;
  }
  std::string path(question.path_length, '\0');
  std::string text(question.text_length, '\0');
  RETURN_IF_ERROR(ReceiveAll(connection, BytesOf(&path), limits));
  RETURN_IF_ERROR(ReceiveAll(connection, BytesOf(&text), limits));
  return Send(connection, Execute(connection, question, path, text));
}

AdminSocket::Answer AdminSocket::Execute(int connection, const AdminQuestion& question,
                                         const std::string& path, const std::string& text) {
  switch (static_cast<AdminOperation>(question.operation)) {
    case AdminOperation::kList:
      return List(path, question.after);
    case AdminOperation::kReadLink:
      return ReadLink(path);
    case AdminOperation::kRead:
    case AdminOperation::kWrite:
      break;
  }
  return Use(connection, question, path, text);
}

AdminSocket::Answer AdminSocket::List(const std::string& path, uint64_t after) const {
  Answer answer;
  const absl::StatusOr<AttributeTree::Node> directory = tree_->Find(path);
  absl::StatusOr<AttributeTree::Node> next =
      directory.ok() ? tree_->Next(directory->inode, after) : directory.status();
  const bool is_directory = directory.ok() && directory->kind == AttributeTree::Kind::kDirectory;
  if (!is_directory) {
    return {StatusToErrno(next.status()), std::string(next.status().message())};
  }
  while (next.ok() &&
         AppendAdminEntry({next->inode, next->kind, next->mode, next->name}, &answer.body)) {
    next = tree_->Next(directory->inode, next->inode);
  }
  return answer;
}

AdminSocket::Answer AdminSocket::ReadLink(const std::string& path) const {
  const absl::StatusOr<AttributeTree::Node> node = tree_->Find(path);
  if (!node.ok()) return {StatusToErrno(node.status()), std::string(node.status().message())};
  if (node->kind != AttributeTree::Kind::kLink) {
    return {EINVAL, absl::StrCat(path, " is no link")};
  }
  return {0, node->target};
}

// The answer may come when nobody is here any more.
AdminSocket::Answer AdminSocket::Use(int connection, const AdminQuestion& question,
                                     const std::string& path, const std::string& text) {
  const absl::StatusOr<AttributeTree::Node> node = tree_->Find(path);
  if (!node.ok()) return {StatusToErrno(node.status()), std::string(node.status().message())};
  const bool write = question.operation == static_cast<uint8_t>(AdminOperation::kWrite);
  if (node->kind == AttributeTree::Kind::kAttribute && (node->mode & (write ? 0222 : 0444)) == 0) {
    return {EACCES, absl::StrCat(path, write ? " is only read" : " is only written")};
  }
  struct Pending {
    absl::Notification done;
    Answer answer;
    void Finish(const absl::Status& status, const std::string& body) {
      answer = {StatusToErrno(status), status.ok() ? body : std::string(status.message())};
      done.Notify();
    }
  };
  const auto pending = std::make_shared<Pending>();
  if (write) {
    tree_->Store(node->inode, text,
                 [pending](const absl::Status& status) { pending->Finish(status, ""); });
  } else {
    tree_->Show(node->inode, [pending](const absl::StatusOr<std::string>& shown) {
      pending->Finish(shown.status(), shown.ok() ? *shown : "");
    });
  }
  while (!pending->done.WaitForNotificationWithTimeout(kLook)) {
    if (PeerHasLeft(connection)) return {ECANCELED, "nobody waits for the answer"};
  }
  return pending->answer;
}

// Or the end has come.
bool AdminSocket::PeerHasLeft(int connection) const {
  pollfd files[] = {{connection, POLLRDHUP, 0}, {stop_.get(), POLLIN, 0}};
  return poll(files, 2, 0) > 0;
}

absl::Status AdminSocket::Send(int connection, const Answer& answer) const {
  const std::string body = answer.body.substr(0, kMaxAdminBody);
  AdminAnswer header;
  header.error = static_cast<uint32_t>(answer.error);
  header.body_length = static_cast<uint32_t>(body.size());
  std::string message(reinterpret_cast<const char*>(&header), sizeof(header));
  message += body;
  return SendAll(connection, BytesOf(&message), {absl::Now() + options_.patience, stop_.get()});
}

}  // namespace rnbd::server
