#include "client/tool/top_rates.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/tool/fields.h"
#include "client/tool/table.h"
#include "common/rnbd_messages.h"

namespace rnbd::client::tool {
namespace {

std::vector<uint64_t> Numbers(absl::string_view text, size_t count) {
  std::vector<uint64_t> numbers;
  for (const absl::string_view word :
       absl::StrSplit(text, absl::ByAnyChar(" \n"), absl::SkipEmpty())) {
    uint64_t number = 0;
    static_cast<void>(absl::SimpleAtoi(word, &number));
    numbers.push_back(number);
  }
  numbers.resize(std::max(numbers.size(), count));
  return numbers;
}

struct Row {
  const TopEntry* entry = nullptr;
  TopCounters difference;
  double seconds = 0;

  uint64_t PerSecond(uint64_t count) const {
    return seconds > 0 ? static_cast<uint64_t>(std::llround(static_cast<double>(count) / seconds))
                       : 0;
  }
  uint64_t requests() const { return difference.reads + difference.writes + difference.others; }
};

bool CountsOn(const TopCounters& before, const TopCounters& now) {
  return now.reads >= before.reads && now.read_bytes >= before.read_bytes &&
         now.writes >= before.writes && now.written_bytes >= before.written_bytes &&
         now.others >= before.others && now.read_ticks >= before.read_ticks &&
         now.write_ticks >= before.write_ticks;
}

TopCounters Difference(const TopCounters& before, const TopCounters& now) {
  return {now.reads - before.reads,
          now.read_bytes - before.read_bytes,
          now.writes - before.writes,
          now.written_bytes - before.written_bytes,
          now.others - before.others,
          now.read_ticks - before.read_ticks,
          now.write_ticks - before.write_ticks};
}

std::vector<Row> Compare(const std::vector<TopEntry>& before, const std::vector<TopEntry>& now,
                         double seconds) {
  std::map<std::string, const TopEntry*> known;
  for (const TopEntry& entry : before) known[entry.key] = &entry;
  std::vector<Row> rows;
  for (const TopEntry& entry : now) {
    Row row{&entry, {}, seconds};
    const auto found = known.find(entry.key);
    if (found != known.end() && CountsOn(found->second->counters, entry.counters)) {
      row.difference = Difference(found->second->counters, entry.counters);
    }
    rows.push_back(row);
  }
  std::stable_sort(rows.begin(), rows.end(), [](const Row& one, const Row& other) {
    return one.requests() > other.requests();
  });
  return rows;
}

using RowField = Field<Row>;

RowField NameField(const std::string& header) {
  return {{"name", header, ""}, [](const Row& row) { return Cell::Of(row.entry->name); }};
}

std::vector<RowField> RateFields() {
  return {
      {{"reads", "READ/s", ""},
       [](const Row& row) { return Cell::Count(row.PerSecond(row.difference.reads)); }},
      {{"writes", "WRITE/s", ""},
       [](const Row& row) { return Cell::Count(row.PerSecond(row.difference.writes)); }},
      {{"read_bytes", "READ B/s", ""},
       [](const Row& row) { return Cell::Bytes(row.PerSecond(row.difference.read_bytes)); }},
      {{"written_bytes", "WRITE B/s", ""},
       [](const Row& row) { return Cell::Bytes(row.PerSecond(row.difference.written_bytes)); }},
  };
}

// Microseconds of a request, on average.
RowField LatencyField(const std::string& header, uint64_t TopCounters::*ticks,
                      uint64_t TopCounters::*count) {
  return {{header, header, ""}, [ticks, count](const Row& row) {
            const uint64_t requests = row.difference.*count;
            return Cell::Count(requests == 0 ? 0 : row.difference.*ticks * 1000 / requests);
          }};
}

void AddTable(const std::vector<RowField>& fields, const std::vector<Row>& rows,
              std::vector<std::string>* lines) {
  if (rows.empty()) return;
  std::vector<const Row*> all;
  for (const Row& row : rows) all.push_back(&row);
  Style style;
  style.totals = false;
  if (!lines->empty()) lines->emplace_back();
  const std::string text = Render(MakeTable("rates", "rate", fields, all), style);
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    lines->emplace_back(line);
  }
}

void AddDevices(const std::vector<Row>& rows, std::vector<std::string>* lines) {
  std::vector<RowField> fields = {
      NameField("DEVICE"),
      {{"session", "SESSION", ""}, [](const Row& row) { return Cell::Of(row.entry->session); }},
      {{"state", "STATE", ""}, [](const Row& row) { return Cell::Of(row.entry->state); }}};
  for (RowField& field : RateFields()) fields.push_back(std::move(field));
  fields.push_back({{"others", "OTHER/s", ""}, [](const Row& row) {
                      return Cell::Count(row.PerSecond(row.difference.others));
                    }});
  const bool has_ticks = std::any_of(rows.begin(), rows.end(), [](const Row& row) {
    return row.entry->counters.read_ticks + row.entry->counters.write_ticks > 0;
  });
  if (has_ticks) {
    fields.push_back(LatencyField("READ us", &TopCounters::read_ticks, &TopCounters::reads));
    fields.push_back(LatencyField("WRITE us", &TopCounters::write_ticks, &TopCounters::writes));
  }
  AddTable(fields, rows, lines);
}

void AddPaths(const std::vector<Row>& rows, std::vector<std::string>* lines) {
  std::vector<RowField> fields = {
      NameField("PATH"),
      {{"session", "SESSION", ""}, [](const Row& row) { return Cell::Of(row.entry->session); }},
      {{"state", "STATE", ""}, [](const Row& row) { return Cell::Of(row.entry->state); }}};
  for (RowField& field : RateFields()) fields.push_back(std::move(field));
  fields.push_back({{"in_flight", "IN FLIGHT", ""},
                    [](const Row& row) { return Cell::Count(row.entry->in_flight); }});
  fields.push_back({{"heartbeat", "HEARTBEAT us", ""},
                    [](const Row& row) { return Cell::Count(row.entry->heartbeat_us); }});
  AddTable(fields, rows, lines);
}

void AddServerSessions(const std::vector<Row>& rows, std::vector<std::string>* lines) {
  std::vector<RowField> fields = {
      NameField("SESSION OF THE SERVER"),
      {{"state", "STATE", ""}, [](const Row& row) { return Cell::Of(row.entry->state); }}};
  for (RowField& field : RateFields()) fields.push_back(std::move(field));
  AddTable(fields, rows, lines);
}

}  // namespace

TopCounters ParseStat(absl::string_view text) {
  const std::vector<uint64_t> numbers = Numbers(text, 17);
  TopCounters counters;
  counters.reads = numbers[0];
  counters.read_bytes = numbers[2] * kSectorSize;
  counters.read_ticks = numbers[3];
  counters.writes = numbers[4];
  counters.written_bytes = numbers[6] * kSectorSize;
  counters.write_ticks = numbers[7];
  counters.others = numbers[11] + numbers[15];
  return counters;
}

TopCounters ParsePathTraffic(absl::string_view text, uint64_t* in_flight) {
  const std::vector<uint64_t> numbers = Numbers(text, 5);
  TopCounters counters;
  counters.reads = numbers[0];
  counters.read_bytes = numbers[1];
  counters.writes = numbers[2];
  counters.written_bytes = numbers[3];
  *in_flight = numbers[4];
  return counters;
}

std::vector<std::string> TopLines(const TopSample& before, const TopSample& now) {
  const double seconds = absl::ToDoubleSeconds(now.time - before.time);
  std::vector<std::string> lines;
  AddDevices(Compare(before.devices, now.devices, seconds), &lines);
  AddPaths(Compare(before.paths, now.paths, seconds), &lines);
  AddServerSessions(Compare(before.server_sessions, now.server_sessions, seconds), &lines);
  return lines;
}

std::vector<std::string> FitToScreen(std::vector<std::string> lines, size_t columns, size_t rows) {
  if (lines.size() > rows && rows > 0) {
    const size_t left_out = lines.size() - rows + 1;
    lines.resize(rows - 1);
    lines.push_back(absl::StrCat("... ", left_out, " more lines"));
  }
  for (std::string& line : lines) {
    if (line.size() > columns) line.resize(columns);
  }
  return lines;
}

}  // namespace rnbd::client::tool
