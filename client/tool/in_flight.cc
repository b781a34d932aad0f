#include "client/tool/in_flight.h"

#include <algorithm>
#include <cerrno>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/tool/fields.h"
#include "client/tool/table.h"
#include "common/in_flight.h"
#include "common/status.h"

namespace rnbd::client::tool {
namespace {

struct Facts {
  std::string session;
  std::string device;
  std::string mount;
  InFlightRequest request;
};

const std::vector<Field<Facts>>& Fields() {
  using F = Facts;
  static const std::vector<Field<F>> fields = {
      {{"devname", "Device", "the device"}, [](const F& f) { return Cell::Of(f.device); }},
      {{"sessname", "Session", "the session that it belongs to"},
       [](const F& f) { return Cell::Of(f.session); }},
      {{"age", "Age", "since when it waits for its answer"},
       [](const F& f) {
         const absl::Duration age = absl::Nanoseconds(f.request.age_ns);
         const absl::Duration unit =
             age < absl::Seconds(1) ? absl::Microseconds(1) : absl::Milliseconds(1);
         return Cell::Of(absl::FormatDuration(absl::Trunc(age, unit)));
       }},
      {{"age_us", "Age us", "the same in microseconds"},
       [](const F& f) { return Cell::Count(static_cast<uint64_t>(f.request.age_ns / 1000)); }},
      {{"place", "Place", "where it is: buffer, share, permit, block, held, server, overdue; disk"},
       [](const F& f) { return Cell::Of(f.request.place); }},
      {{"operation", "Operation", "what it does"},
       [](const F& f) { return Cell::Of(f.request.operation); }},
      {{"offset", "Offset", "where on the device, in bytes"},
       [](const F& f) { return Cell::Count(f.request.offset); }},
      {{"length", "Length", "how many bytes"},
       [](const F& f) { return Cell::Count(f.request.length); }},
      {{"mount", "Mount", "the mount that the device is in"},
       [](const F& f) { return Cell::Of(f.mount); }},
  };
  return fields;
}

std::vector<std::string> StandardFields() {
  return {"devname", "sessname", "age", "place", "operation", "offset", "length"};
}

// What several devices have, gathered.
class Requests {
 public:
  // `text` is what the device's attribute has; `of` says whose it is.
  absl::Status Add(const absl::StatusOr<std::string>& text, const Facts& of) {
    const int error = StatusToErrno(text.status());
    if (error == ENOENT || error == ENODEV) return absl::OkStatus();
    RETURN_IF_ERROR(text.status());
    ASSIGN_OR_RETURN(const InFlightList list, ParseInFlight(*text));
    left_out_ += list.left_out;
    for (const InFlightRequest& request : list.requests) {
      all_.push_back(of);
      all_.back().request = request;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Rendered(const Request& request) {
    std::stable_sort(all_.begin(), all_.end(), [](const Facts& one, const Facts& other) {
      return one.request.age_ns > other.request.age_ns;
    });
    std::vector<const Facts*> rows;
    for (const Facts& facts : all_) rows.push_back(&facts);
    ASSIGN_OR_RETURN(const Table chosen, Choose(MakeTable("requests", "request", Fields(), rows),
                                                StandardFields(), request.fields));
    Style style = request.style;
    style.totals = false;  // of ages and places there is no sum
    std::string text = Render(chosen, style);
    if (left_out_ > 0 && style.format == Format::kTerminal) {
      absl::StrAppend(&text, "and ", left_out_, " younger ones\n");
    }
    return text;
  }

 private:
  std::vector<Facts> all_;
  uint64_t left_out_ = 0;
};

}  // namespace

absl::StatusOr<std::string> ShowInFlight(const Request& request,
                                         const std::vector<const DeviceFacts*>& devices) {
  Requests requests;
  for (const DeviceFacts* device : devices) {
    RETURN_IF_ERROR(requests.Add(ReadControl(absl::StrCat(device->directory, "/rnbd/inflight")),
                                 {device->session, device->name, device->mount, {}}));
  }
  return requests.Rendered(request);
}

absl::StatusOr<std::string> ShowInFlight(const Request& request, AdminClient* client,
                                         const std::vector<const ExportFacts*>& devices) {
  Requests requests;
  for (const ExportFacts* device : devices) {
    RETURN_IF_ERROR(requests.Add(client->Read(absl::StrCat(device->directory, "/inflight")),
                                 {device->session, device->name, "", {}}));
  }
  return requests.Rendered(request);
}

std::string InFlightFieldsText() { return FieldsHelp(DescribeFields(Fields()), StandardFields()); }

}  // namespace rnbd::client::tool
