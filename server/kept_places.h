#ifndef RNBD_SERVER_KEPT_PLACES_H_
#define RNBD_SERVER_KEPT_PLACES_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/export_table.h"

// The writers of a server in a file (state_file), so that the next process keeps their places.
namespace rnbd::server {

// Replaces the file as a whole: it holds the old list or the new one, whatever happens meanwhile.
// Blocks.
absl::Status SavePlaces(const std::string& path, const std::vector<ExportTable::Holder>& writers);

// Empty if there is no file. EINVAL, with the line, for one that SavePlaces() has not written.
absl::StatusOr<std::vector<ExportTable::Holder>> LoadPlaces(const std::string& path);

}  // namespace rnbd::server

#endif  // RNBD_SERVER_KEPT_PLACES_H_
