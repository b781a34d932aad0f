#include "client/tool/session_fields.h"

namespace rnbd::client::tool {

uint64_t Sum(const SessionFacts& session, uint64_t PathFacts::*number) {
  uint64_t sum = 0;
  for (const PathFacts& path : session.paths) sum += path.*number;
  return sum;
}

std::vector<Field<PathFacts>> PathFieldsWith(const std::vector<Field<PathFacts>>& more) {
  using F = PathFacts;
  std::vector<Field<F>> fields = {
      {{"sessname", "Sessname", "the session"}, [](const F& f) { return Cell::Of(f.session); }},
      {{"pathname", "Path name", "both addresses"}, [](const F& f) { return Cell::Of(f.name); }},
      {{"src_addr", "Client Addr", "the client's address"},
       [](const F& f) { return Cell::Of(f.source); }},
      {{"dst_addr", "Server Addr", "the server's address"},
       [](const F& f) { return Cell::Of(f.destination); }},
      {{"hca_name", "HCA", "the RDMA device; tcp or unix without one"},
       [](const F& f) { return Cell::Of(f.device); }},
      {{"hca_port", "Port", "its port"}, [](const F& f) { return Cell::Of(f.port); }},
  };
  fields.insert(fields.end(), more.begin(), more.end());
  return fields;
}

}  // namespace rnbd::client::tool
