#include "common/libfuse_log.h"

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include <cstdarg>
#include <cstdio>
#include <string>

#include "common/logging.h"

namespace rnbd {
namespace {

void Log(fuse_log_level level, const char* format, va_list arguments) {
  char text[512];
  vsnprintf(text, sizeof(text), format, arguments);
  std::string line = text;
  while (!line.empty() && line.back() == '\n') line.pop_back();
  if (level <= FUSE_LOG_ERR) {
    spdlog::error("libfuse: {}", line);
  } else if (level <= FUSE_LOG_NOTICE) {
    spdlog::warn("libfuse: {}", line);
  } else {
    spdlog::debug("libfuse: {}", line);
  }
}

}  // namespace

void LogLibfuse() { fuse_set_log_func(Log); }

}  // namespace rnbd
