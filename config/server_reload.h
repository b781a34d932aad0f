#ifndef RNBD_CONFIG_SERVER_RELOAD_H_
#define RNBD_CONFIG_SERVER_RELOAD_H_

#include "config/config_difference.h"
#include "config/server_config.h"

namespace rnbd::config {

// What a server that runs makes of a file that has changed.
struct ServerReload : ConfigDifference {
  // Of the file, but for what takes a restart: that is as it was.
  ServerConfig config;
};

// `running` is what the server acts by, the result of an earlier reload perhaps. Both are valid.
ServerReload PlanReload(const ServerConfig& running, const ServerConfig& file);

}  // namespace rnbd::config

#endif  // RNBD_CONFIG_SERVER_RELOAD_H_
