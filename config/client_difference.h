#ifndef RNBD_CONFIG_CLIENT_DIFFERENCE_H_
#define RNBD_CONFIG_CLIENT_DIFFERENCE_H_

#include "config/client_config.h"
#include "config/config_difference.h"

namespace rnbd::config {

// What comes into force with another file. `running` is what is in force and `next` what would be,
// each with what was changed at run time (config/client_changes.h). What a session has from the
// settings for all of them, and a device from those of its session, is named once, above. A device
// of another session, path or access is another device, though it has the same name.
//
// What belongs to the mount takes a restart, all else does not.
ConfigDifference Compare(const ClientConfig& running, const ClientConfig& next);

}  // namespace rnbd::config

#endif  // RNBD_CONFIG_CLIENT_DIFFERENCE_H_
