#ifndef RNBD_CONFIG_SERVER_RELOAD_H_
#define RNBD_CONFIG_SERVER_RELOAD_H_

#include <string>
#include <vector>

#include "config/server_config.h"

namespace rnbd::config {

// What a server that runs makes of a file that has changed.
struct ServerReload {
  // Of the file, but for what takes a restart: that is as it was.
  ServerConfig config;
  // What is different from now on, and what stays as it is until a restart; a line for each, as
  // "limits.max_sessions: 4096 -> 100" or "+ session \"web-*\" ...".
  std::vector<std::string> changes;
  std::vector<std::string> needs_restart;
};

// `running` is what the server acts by, the result of an earlier reload perhaps. Both are valid.
ServerReload PlanReload(const ServerConfig& running, const ServerConfig& file);

// As lines for a person. Says so where nothing is different.
std::string Describe(const ServerReload& reload);

}  // namespace rnbd::config

#endif  // RNBD_CONFIG_SERVER_RELOAD_H_
