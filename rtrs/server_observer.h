#ifndef RNBD_RTRS_SERVER_OBSERVER_H_
#define RNBD_RTRS_SERVER_OBSERVER_H_

#include <string>

namespace rnbd::rtrs {

class ServerPath;

// Learns which sessions and paths a server has; on its control thread.
class ServerObserver {
 public:
  // A session from when its first path says its name to when its last request is done.
  virtual void OnSession(const std::string& session) = 0;
  virtual void OnSessionGone(const std::string& session) = 0;
  // A path of it while it is connected. The path stays where it is in between.
  virtual void OnPath(const std::string& session, ServerPath* path) = 0;
  virtual void OnPathGone(const std::string& session, ServerPath* path) = 0;

 protected:
  ~ServerObserver() = default;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_SERVER_OBSERVER_H_
