#!/usr/bin/env python3
"""Makes lcov tracefiles for `bazel coverage`: stand-in for two of Bazel's remote_coverage_tools.

As lcov_merger, called after each test: reads the counters that the test left in --coverage_dir with
gcov and writes the lines of the sources in --source_file_manifest to --output_file.
As coverage_report_generator, called once: adds up the tracefiles listed in --reports_file.
"""

import argparse
import collections
import json
import os
import subprocess
import sys


class Tracefile:
    """Execution counts: source -> line -> count, and source -> function -> [line, count]."""

    def __init__(self):
        self.lines = collections.defaultdict(collections.Counter)
        self.functions = collections.defaultdict(dict)

    def add_function(self, source, name, line, count):
        entry = self.functions[source].setdefault(name, [line, 0])
        entry[1] += count

    def add_lcov(self, text):
        source = None
        starts = {}
        for row in text.splitlines():
            key, _, value = row.partition(":")
            if key == "SF":
                source, starts = value, {}
                self.lines[source]  # A source without lines is listed too.
            elif key == "DA":
                line, count = value.split(",")[:2]
                self.lines[source][int(line)] += int(count)
            elif key == "FN":
                line, name = value.split(",", 1)
                starts[name] = int(line)
            elif key == "FNDA":
                count, name = value.split(",", 1)
                self.add_function(source, name, starts.get(name, 0), int(count))

    def add_gcov(self, document, keep):
        for entry in document["files"]:
            source = entry["file"]
            if source not in keep:
                continue
            for line in entry["lines"]:
                self.lines[source][line["line_number"]] += line["count"]
            for function in entry["functions"]:
                self.add_function(source, function["name"], function["start_line"],
                                  function["execution_count"])

    def write(self, path):
        with open(path, "w") as out:
            for source in sorted(self.lines):
                out.write("SF:%s\n" % source)
                for name, (line, _) in sorted(self.functions[source].items()):
                    out.write("FN:%d,%s\n" % (line, name))
                for name, (_, count) in sorted(self.functions[source].items()):
                    out.write("FNDA:%d,%s\n" % (count, name))
                lines = sorted(self.lines[source].items())
                for line, count in lines:
                    out.write("DA:%d,%d\n" % (line, count))
                out.write("LH:%d\nLF:%d\nend_of_record\n" %
                          (sum(1 for _, count in lines if count), len(lines)))


def gcov_documents(directory):
    """What gcov says of each .gcda below the directory that has its .gcno beside it.

    The files that collect_cc_coverage.sh has made with gcov before are not used: it puts them all
    into one directory, where objects of the same name (main.o) overwrite each other.
    """
    gcov = os.environ.get("COVERAGE_GCOV_PATH", "gcov")
    for folder, _, names in os.walk(directory):
        for name in names:
            if name.endswith(".gcda") and name[:-len("gcda")] + "gcno" in names:
                result = subprocess.run(
                    [gcov, "--json-format", "--stdout", os.path.join(folder, name)],
                    stdout=subprocess.PIPE, check=True)
                for row in result.stdout.splitlines():
                    yield json.loads(row)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--coverage_dir")
    parser.add_argument("--source_file_manifest")
    parser.add_argument("--reports_file")
    parser.add_argument("--output_file", required=True)
    arguments, _ = parser.parse_known_args()

    result = Tracefile()
    if arguments.reports_file:
        with open(arguments.reports_file) as reports:
            for path in reports.read().split():
                with open(path) as report:
                    result.add_lcov(report.read())
    else:
        with open(arguments.source_file_manifest) as manifest:
            keep = {row for row in manifest.read().split("\n") if not row.endswith(".gcno")}
        for document in gcov_documents(arguments.coverage_dir):
            result.add_gcov(document, keep)
    result.write(arguments.output_file)


if __name__ == "__main__":
    sys.exit(main())
