#include "rtrs/address.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/status.h"

namespace rnbd::rtrs {
namespace {

constexpr AddressScheme kAllSchemes[] = {AddressScheme::kIp, AddressScheme::kGid,
                                         AddressScheme::kTcp, AddressScheme::kUnix};
constexpr size_t kMaxSocketPath = sizeof(sockaddr_un::sun_path) - 1;
constexpr size_t kMaxHostName = 253;
constexpr size_t kMaxHostLabel = 63;

absl::Status Invalid(absl::string_view text, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("address \"", text, "\": ", what));
}

absl::Status UnknownScheme(absl::string_view text) {
  absl::Status status = Invalid(text, "expected it to begin with tcp:, unix:, ip: or gid:");
  status.SetPayload(kErrnoPayloadUrl, absl::Cord(absl::StrCat(EPROTONOSUPPORT)));
  return status;
}

// The scheme that `text` begins with, which is then cut off together with its ':'.
absl::optional<AddressScheme> ConsumeScheme(absl::string_view* text) {
  for (const AddressScheme scheme : kAllSchemes) {
    if (absl::ConsumePrefix(text, absl::StrCat(SchemeName(scheme), ":"))) return scheme;
  }
  return absl::nullopt;
}

absl::string_view PrefixOfScheme(absl::string_view text) {
  absl::string_view rest = text;
  return ConsumeScheme(&rest) ? text.substr(0, text.size() - rest.size()) : absl::string_view();
}

struct HostAndPort {
  absl::string_view host;
  absl::optional<absl::string_view> port;
  bool bracketed = false;
};

// Splits "host", "host:port", "[v6]" and "[v6]:port"; anything with more than one ':' and no
// brackets is one bare host. nullopt: brackets that do not match.
absl::optional<HostAndPort> SplitHostAndPort(absl::string_view text) {
  HostAndPort result;
  if (absl::ConsumePrefix(&text, "[")) {
    const size_t end = text.find(']');
    if (end == absl::string_view::npos) return absl::nullopt;
    result.host = text.substr(0, end);
    result.bracketed = true;
    text.remove_prefix(end + 1);
    if (text.empty()) return result;
    if (!absl::ConsumePrefix(&text, ":")) return absl::nullopt;
    result.port = text;
    return result;
  }
  if (std::count(text.begin(), text.end(), ':') != 1) {
    result.host = text;
    return result;
  }
  const size_t colon = text.find(':');
  result.host = text.substr(0, colon);
  result.port = text.substr(colon + 1);
  return result;
}

absl::optional<uint16_t> ParsePort(absl::string_view text) {
  uint32_t port = 0;
  const bool digits = !text.empty() && text.size() <= 5 &&
                      std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
  if (!digits || !absl::SimpleAtoi(text, &port) || port > 65535) return absl::nullopt;
  return static_cast<uint16_t>(port);
}

std::string FormatIpv4(const in_addr& address) {
  char text[INET_ADDRSTRLEN];
  return inet_ntop(AF_INET, &address, text, sizeof(text));
}

std::string FormatIpv6(const in6_addr& address) {
  if (IN6_IS_ADDR_V4MAPPED(&address)) {
    in_addr v4;
    memcpy(&v4, &address.s6_addr[12], sizeof(v4));
    return FormatIpv4(v4);
  }
  char text[INET6_ADDRSTRLEN];
  return inet_ntop(AF_INET6, &address, text, sizeof(text));
}

bool IsZone(absl::string_view zone) {
  return !zone.empty() && zone.size() < IF_NAMESIZE &&
         std::all_of(zone.begin(), zone.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
         });
}

absl::optional<std::string> CanonicalIpv4(absl::string_view text) {
  in_addr address;
  if (inet_pton(AF_INET, std::string(text).c_str(), &address) != 1) return absl::nullopt;
  return FormatIpv4(address);
}

absl::optional<std::string> CanonicalIpv6(absl::string_view text) {
  const size_t percent = text.find('%');
  in6_addr address;
  if (inet_pton(AF_INET6, std::string(text.substr(0, percent)).c_str(), &address) != 1) {
    return absl::nullopt;
  }
  if (percent == absl::string_view::npos) return FormatIpv6(address);
  const absl::string_view zone = text.substr(percent + 1);
  if (!IsZone(zone) || IN6_IS_ADDR_V4MAPPED(&address)) return absl::nullopt;
  return absl::StrCat(FormatIpv6(address), "%", zone);
}

absl::optional<std::string> CanonicalGid(absl::string_view text) {
  in6_addr gid;
  if (inet_pton(AF_INET6, std::string(text).c_str(), &gid) != 1) return absl::nullopt;
  std::string result;
  for (int i = 0; i < 16; i += 2) {
    absl::StrAppendFormat(&result, "%s%02x%02x", i == 0 ? "" : ":", gid.s6_addr[i],
                          gid.s6_addr[i + 1]);
  }
  return result;
}

bool IsHostLabel(absl::string_view label) {
  return !label.empty() && label.size() <= kMaxHostLabel && label.front() != '-' &&
         std::all_of(label.begin(), label.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '-' || c == '_';
         });
}

// A last label of digits only would make it a mistyped IPv4 address.
bool IsHostName(absl::string_view text) {
  absl::ConsumeSuffix(&text, ".");
  if (text.empty() || text.size() > kMaxHostName) return false;
  absl::string_view last;
  for (const absl::string_view label : absl::StrSplit(text, '.')) {
    if (!IsHostLabel(label)) return false;
    last = label;
  }
  return !std::all_of(last.begin(), last.end(), absl::ascii_isdigit);
}

// Brings `host` into canonical form, or says what was expected of it.
absl::StatusOr<std::string> CanonicalHost(AddressScheme scheme, const HostAndPort& parts,
                                          absl::string_view text) {
  if (parts.host.empty()) return Invalid(text, "the host is missing");
  if (scheme == AddressScheme::kGid) {
    if (auto gid = CanonicalGid(parts.host)) return *std::move(gid);
    return Invalid(text, "expected a GID of eight groups, as in gid:fe80:0:0:0:202:c9ff:fe39:7c11");
  }
  if (auto v6 = CanonicalIpv6(parts.host)) {
    // Several colons without brackets: only the kernel's own `ip:` form is unambiguous.
    if (parts.bracketed || scheme == AddressScheme::kIp) return *std::move(v6);
    return Invalid(
        text, absl::StrCat("an IPv6 address needs brackets, as in [", *v6, "]:", kDefaultPort));
  }
  if (parts.bracketed) return Invalid(text, "expected an IPv6 address between the brackets");
  if (auto v4 = CanonicalIpv4(parts.host)) return *std::move(v4);
  if (scheme == AddressScheme::kIp) return Invalid(text, "expected an IPv4 or IPv6 address");
  if (IsHostName(parts.host)) return absl::AsciiStrToLower(parts.host);
  return Invalid(text, "expected an IPv4 address, an IPv6 address in brackets, or a host name");
}

absl::StatusOr<Address> ParseHostAddress(AddressScheme scheme, absl::string_view rest,
                                         uint16_t default_port, absl::string_view text) {
  // inet_pton() would not look behind it.
  if (rest.find('\0') != absl::string_view::npos) return Invalid(text, "it contains a NUL");
  const absl::optional<HostAndPort> parts = SplitHostAndPort(rest);
  if (!parts) return Invalid(text, "the brackets do not match, expected [IPv6] or [IPv6]:port");
  Address address;
  address.scheme = scheme;
  ASSIGN_OR_RETURN(address.host, CanonicalHost(scheme, *parts, text));
  address.port = default_port;
  if (!parts->port) return address;
  const absl::optional<uint16_t> port = ParsePort(*parts->port);
  if (!port) {
    return Invalid(text, absl::StrCat("\"", *parts->port, "\" is no port, expected 0 to 65535"));
  }
  address.port = *port;
  return address;
}

absl::StatusOr<Address> ParseUnixAddress(absl::string_view path, absl::string_view text) {
  if (!absl::StartsWith(path, "/")) {
    return Invalid(text, "expected the absolute path of a socket, as in unix:/run/rnbd/rnbd.sock");
  }
  if (path.find('\0') != absl::string_view::npos) return Invalid(text, "the path contains a NUL");
  if (path.size() > kMaxSocketPath) {
    return Invalid(text, absl::StrCat("the path of a socket may have ", kMaxSocketPath,
                                      " bytes, this one has ", path.size()));
  }
  Address address;
  address.scheme = AddressScheme::kUnix;
  address.path = std::string(path);
  return address;
}

absl::StatusOr<Address> ParseAnyAddress(absl::string_view text, uint16_t default_port) {
  absl::string_view rest = text;
  const absl::optional<AddressScheme> scheme = ConsumeScheme(&rest);
  if (!scheme) return UnknownScheme(text);
  if (*scheme == AddressScheme::kUnix) return ParseUnixAddress(rest, text);
  return ParseHostAddress(*scheme, rest, default_port, text);
}

// Where the source ends, or npos. A separator in front of a scheme counts before any other, since
// the path of a socket may contain both characters.
size_t FindPathSeparator(absl::string_view text) {
  constexpr absl::string_view kSeparators = ",@";
  const size_t first = text.find_first_of(kSeparators);
  for (size_t at = first; at != absl::string_view::npos;
       at = text.find_first_of(kSeparators, at + 1)) {
    if (!PrefixOfScheme(text.substr(at + 1)).empty()) return at;
  }
  return absl::StartsWith(text, "unix:") ? absl::string_view::npos : first;
}

// What is behind "unix:@" in front of another "unix:": the name of a path's directory, with its
// '!', or its two addresses.
absl::optional<std::string> DestinationOfUnnamedSource(absl::string_view text) {
  if (!absl::ConsumePrefix(&text, "unix:@") && !absl::ConsumePrefix(&text, "unix:,")) {
    return absl::nullopt;
  }
  if (absl::StartsWith(text, "unix:!")) return absl::StrReplaceAll(text, {{"!", "/"}});
  if (absl::StartsWith(text, "unix:")) return std::string(text);
  return absl::nullopt;
}

absl::optional<int> FamilyOf(const Address& address) {
  if (!address.is_numeric()) return absl::nullopt;
  return absl::StrContains(address.host, ':') ? AF_INET6 : AF_INET;
}

absl::Status CheckSourceFits(const Address& source, const Address& destination,
                             absl::string_view text) {
  if (source.scheme == AddressScheme::kUnix || source.scheme != destination.scheme) {
    return Invalid(text, source.scheme == AddressScheme::kUnix
                             ? "a unix path has no source address"
                             : "source and destination must have the same scheme");
  }
  const absl::optional<int> from = FamilyOf(source);
  const absl::optional<int> to = FamilyOf(destination);
  if (from && to && *from != *to) {
    return Invalid(text, "source and destination must both be IPv4 or both be IPv6");
  }
  return absl::OkStatus();
}

std::string HostWithPort(const Address& address) {
  if (address.port == 0) {
    // tcp: needs its brackets always, the others only in front of a port.
    const bool bracket =
        address.scheme == AddressScheme::kTcp && absl::StrContains(address.host, ':');
    return bracket ? absl::StrCat("[", address.host, "]") : address.host;
  }
  if (absl::StrContains(address.host, ':')) {
    return absl::StrCat("[", address.host, "]:", address.port);
  }
  return absl::StrCat(address.host, ":", address.port);
}

std::string EndName(Address end) {
  if (end.scheme == AddressScheme::kIp || end.scheme == AddressScheme::kGid) end.port = 0;
  return absl::StrReplaceAll(end.ToString(), {{"/", "!"}});
}

absl::StatusOr<uint32_t> ZoneIndex(const std::string& zone) {
  if (const uint32_t index = if_nametoindex(zone.c_str()); index != 0) return index;
  uint32_t number = 0;
  if (absl::SimpleAtoi(zone, &number) && number != 0) return number;
  return ErrnoToStatus(ENODEV, absl::StrCat("find the network interface ", zone));
}

SocketAddress UnixSocketAddress(const std::string& path) {
  SocketAddress result;
  sockaddr_un un = {};
  un.sun_family = AF_UNIX;
  memcpy(un.sun_path, path.data(), std::min(path.size(), kMaxSocketPath));
  memcpy(&result.storage, &un, sizeof(un));
  result.length = path.empty() ? offsetof(sockaddr_un, sun_path)
                               : offsetof(sockaddr_un, sun_path) + path.size() + 1;
  return result;
}

SocketAddress Ipv4SocketAddress(const in_addr& address, uint16_t port) {
  SocketAddress result;
  sockaddr_in in = {};
  in.sin_family = AF_INET;
  in.sin_port = htons(port);
  in.sin_addr = address;
  memcpy(&result.storage, &in, sizeof(in));
  result.length = sizeof(in);
  return result;
}

absl::StatusOr<SocketAddress> Ipv6SocketAddress(const std::string& host, uint16_t port) {
  const size_t percent = host.find('%');
  sockaddr_in6 in6 = {};
  in6.sin6_family = AF_INET6;
  in6.sin6_port = htons(port);
  if (inet_pton(AF_INET6, host.substr(0, percent).c_str(), &in6.sin6_addr) != 1) {
    return Invalid(host, "this is a host name, not an address");
  }
  if (percent != std::string::npos) {
    ASSIGN_OR_RETURN(in6.sin6_scope_id, ZoneIndex(host.substr(percent + 1)));
  }
  SocketAddress result;
  memcpy(&result.storage, &in6, sizeof(in6));
  result.length = sizeof(in6);
  return result;
}

std::string ZoneName(uint32_t index) {
  char name[IF_NAMESIZE];
  return if_indextoname(index, name) != nullptr ? std::string(name) : absl::StrCat(index);
}

std::string UnixPath(const SocketAddress& socket_address) {
  sockaddr_un un = {};
  const size_t length = std::min<size_t>(socket_address.length, sizeof(un));
  memcpy(&un, &socket_address.storage, length);
  if (length <= offsetof(sockaddr_un, sun_path)) return "";
  const size_t bytes = length - offsetof(sockaddr_un, sun_path);
  return std::string(un.sun_path, strnlen(un.sun_path, bytes));
}

absl::Status ResolverError(int error, int system_error, const std::string& host) {
  const std::string what =
      absl::StrCat("resolve the host name ", host, " (", gai_strerror(error), ")");
  switch (error) {
    case EAI_AGAIN:
      return ErrnoToStatus(EAGAIN, what);
    case EAI_MEMORY:
      return ErrnoToStatus(ENOMEM, what);
    case EAI_SYSTEM:
      return ErrnoToStatus(system_error, what);
    default:
      return ErrnoToStatus(EHOSTUNREACH, what);
  }
}

}  // namespace

absl::string_view SchemeName(AddressScheme scheme) {
  switch (scheme) {
    case AddressScheme::kIp:
      return "ip";
    case AddressScheme::kGid:
      return "gid";
    case AddressScheme::kTcp:
      return "tcp";
    case AddressScheme::kUnix:
      return "unix";
  }
  return "unknown";
}

bool Address::is_numeric() const {
  return scheme != AddressScheme::kTcp || CanonicalIpv4(host) || CanonicalIpv6(host);
}

std::string Address::ToString() const {
  if (scheme == AddressScheme::kUnix) return absl::StrCat("unix:", path);
  if (scheme != AddressScheme::kTcp && port == kDefaultPort) {
    return absl::StrCat(SchemeName(scheme), ":", host);
  }
  return absl::StrCat(SchemeName(scheme), ":", HostWithPort(*this));
}

std::ostream& operator<<(std::ostream& out, const Address& address) {
  return out << address.ToString();
}

absl::StatusOr<Address> ParseAddress(absl::string_view text, uint16_t default_port) {
  return ParseAnyAddress(text, default_port);
}

absl::StatusOr<Address> ParseServerAddress(AddressScheme scheme, absl::string_view text,
                                           uint16_t default_port) {
  if (scheme == AddressScheme::kUnix) return ParseUnixAddress(text, text);
  if (scheme == AddressScheme::kGid) return Invalid(text, "a server does not listen on a GID");
  // A lone number is a port; every other host would need a dot, a colon or a letter.
  absl::string_view digits = text;
  absl::ConsumePrefix(&digits, ":");
  if (const absl::optional<uint16_t> port = ParsePort(digits)) {
    Address address;
    address.scheme = scheme;
    address.host = "::";
    address.port = *port;
    return address;
  }
  return ParseHostAddress(scheme, text, default_port, text);
}

std::string PathAddress::ToString() const {
  if (!source) return destination.ToString();
  // Not ToString(): a source's port is 0 by default, so kDefaultPort must be written.
  const std::string from = absl::StrCat(SchemeName(source->scheme), ":", HostWithPort(*source));
  return absl::StrCat(from, "@", destination.ToString());
}

std::ostream& operator<<(std::ostream& out, const PathAddress& address) {
  return out << address.ToString();
}

absl::StatusOr<PathAddress> ParsePathAddress(absl::string_view text, uint16_t default_port) {
  PathAddress result;
  if (const absl::optional<std::string> socket = DestinationOfUnnamedSource(text)) {
    ASSIGN_OR_RETURN(result.destination, ParseAnyAddress(*socket, default_port));
    return result;
  }
  const size_t separator = FindPathSeparator(text);
  if (separator == absl::string_view::npos) {
    ASSIGN_OR_RETURN(result.destination, ParseAnyAddress(text, default_port));
  } else {
    absl::StatusOr<Address> source = ParseAnyAddress(text.substr(0, separator), 0);
    if (!source.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("source ", source.status().message()));
    }
    ASSIGN_OR_RETURN(result.destination, ParseAnyAddress(text.substr(separator + 1), default_port));
    RETURN_IF_ERROR(CheckSourceFits(*source, result.destination, text));
    result.source = *std::move(source);
  }
  if (result.destination.scheme != AddressScheme::kUnix && result.destination.port == 0) {
    return Invalid(text, "a destination needs a port, expected 1 to 65535");
  }
  return result;
}

std::string PathDirectoryName(const Address& source, const Address& destination) {
  return absl::StrCat(EndName(source), "@", EndName(destination));
}

absl::StatusOr<SocketAddress> ToSocketAddress(const Address& address) {
  if (address.scheme == AddressScheme::kUnix) {
    if (address.path.size() > kMaxSocketPath) {
      return Invalid(address.ToString(), "the path of a socket is too long");
    }
    return UnixSocketAddress(address.path);
  }
  if (address.scheme == AddressScheme::kGid) {
    return ErrnoToStatus(EAFNOSUPPORT, absl::StrCat("use ", address.ToString(), " as IP address"));
  }
  in_addr v4;
  if (inet_pton(AF_INET, address.host.c_str(), &v4) == 1) {
    return Ipv4SocketAddress(v4, address.port);
  }
  return Ipv6SocketAddress(address.host, address.port);
}

absl::StatusOr<Address> FromSocketAddress(AddressScheme scheme,
                                          const SocketAddress& socket_address) {
  Address address;
  address.scheme = scheme;
  const bool is_unix = socket_address.family() == AF_UNIX;
  const bool is_ip = socket_address.family() == AF_INET || socket_address.family() == AF_INET6;
  const bool wants_unix = scheme == AddressScheme::kUnix;
  if ((wants_unix && !is_unix) || (!wants_unix && !is_ip) || scheme == AddressScheme::kGid) {
    return ErrnoToStatus(EAFNOSUPPORT,
                         absl::StrCat("read a socket address of family ", socket_address.family(),
                                      " as ", SchemeName(scheme)));
  }
  if (is_unix) {
    address.path = UnixPath(socket_address);
    return address;
  }
  if (socket_address.family() == AF_INET) {
    sockaddr_in in;
    memcpy(&in, &socket_address.storage, sizeof(in));
    address.host = FormatIpv4(in.sin_addr);
    address.port = ntohs(in.sin_port);
    return address;
  }
  sockaddr_in6 in6;
  memcpy(&in6, &socket_address.storage, sizeof(in6));
  address.host = FormatIpv6(in6.sin6_addr);
  if (in6.sin6_scope_id != 0) {
    absl::StrAppend(&address.host, "%", ZoneName(in6.sin6_scope_id));
  }
  address.port = ntohs(in6.sin6_port);
  return address;
}

absl::StatusOr<std::vector<SocketAddress>> Resolve(const Address& address) {
  if (address.is_numeric()) {
    ASSIGN_OR_RETURN(SocketAddress only, ToSocketAddress(address));
    return std::vector<SocketAddress>{only};
  }
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int error =
      getaddrinfo(address.host.c_str(), absl::StrCat(address.port).c_str(), &hints, &list);
  if (error != 0) return ResolverError(error, errno, address.host);
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(list, &freeaddrinfo);

  std::vector<SocketAddress> result;
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    if (entry->ai_family != AF_INET && entry->ai_family != AF_INET6) continue;
    SocketAddress socket_address;
    memcpy(&socket_address.storage, entry->ai_addr, entry->ai_addrlen);
    socket_address.length = entry->ai_addrlen;
    result.push_back(socket_address);
  }
  if (result.empty()) return ResolverError(EAI_NONAME, 0, address.host);
  return result;
}

}  // namespace rnbd::rtrs
