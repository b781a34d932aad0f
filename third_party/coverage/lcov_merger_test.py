#!/usr/bin/env python3
"""Runs lcov_merger.py as Bazel does, with a gcov that prints what lies in the .gcda file."""

import json
import os
import subprocess
import tempfile
import unittest

MERGER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lcov_merger.py")


def gcov_document(source, counts):
    return json.dumps({"files": [{
        "file": source,
        "lines": [{"line_number": line, "count": count} for line, count in counts.items()],
        "functions": [{"name": "f", "start_line": min(counts),
                       "execution_count": counts[min(counts)]}],
    }]})


class LcovMergerTest(unittest.TestCase):

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        gcov = self.write("gcov", '#!/bin/sh\nshift 2\nexec cat "$1"\n')
        os.chmod(gcov, 0o755)
        self.environment = dict(os.environ, COVERAGE_GCOV_PATH=gcov)

    def write(self, name, text):
        path = os.path.join(self.directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
        return path

    def run_merger(self, *arguments):
        output = os.path.join(self.directory, "output")
        subprocess.run([MERGER, "--output_file=" + output, *arguments], env=self.environment,
                       check=True)
        with open(output) as file:
            return file.read().splitlines()

    def merge(self, *sources):
        manifest = self.write("manifest", "\n".join(sources + ("bin/x.gcno",)))
        return self.run_merger("--coverage_dir=" + os.path.join(self.directory, "coverage"),
                               "--source_file_manifest=" + manifest,
                               "--filter_sources=/usr/include.+")

    def add_object(self, name, document):
        self.write("coverage/%s.gcda" % name, document)
        self.write("coverage/%s.gcno" % name, "")

    def test_writes_lines_and_functions(self):
        self.add_object("rtrs/permits", gcov_document("rtrs/permits.cc", {3: 2, 4: 0, 9: 1}))
        self.assertEqual(self.merge("rtrs/permits.cc"), [
            "SF:rtrs/permits.cc", "FN:3,f", "FNDA:2,f", "DA:3,2", "DA:4,0", "DA:9,1", "LH:2",
            "LF:3", "end_of_record"])

    def test_objects_of_one_name_do_not_hide_each_other(self):
        self.add_object("rtrs/messages", gcov_document("rtrs/messages.cc", {1: 1}))
        self.add_object("server/messages", gcov_document("server/messages.cc", {1: 1}))
        rows = self.merge("rtrs/messages.cc", "server/messages.cc")
        self.assertEqual([row for row in rows if row.startswith("SF")],
                         ["SF:rtrs/messages.cc", "SF:server/messages.cc"])

    def test_a_header_adds_up_over_objects(self):
        self.add_object("rtrs/a", gcov_document("rtrs/x.h", {1: 1, 2: 0}))
        self.add_object("rtrs/b", gcov_document("rtrs/x.h", {1: 2, 2: 0}))
        rows = self.merge("rtrs/x.h")
        self.assertIn("DA:1,3", rows)
        self.assertIn("DA:2,0", rows)
        self.assertIn("FNDA:3,f", rows)

    def test_leaves_other_sources_out(self):
        self.add_object("rtrs/a", gcov_document("/usr/include/c++/vector", {1: 1}))
        self.assertEqual(self.merge("rtrs/a.cc"), [])

    def test_ignores_counters_without_notes(self):
        self.write("coverage/rtrs/a.gcda", gcov_document("rtrs/a.cc", {1: 1}))
        self.assertEqual(self.merge("rtrs/a.cc"), [])

    def test_report_adds_up_tests(self):
        first = self.write("1.dat", "SF:a.cc\nFN:1,f\nFNDA:1,f\nDA:1,1\nDA:2,0\nend_of_record\n")
        second = self.write("2.dat", "SF:a.cc\nFN:1,f\nFNDA:0,f\nDA:1,0\nDA:2,5\nend_of_record\n"
                                     "SF:b.cc\nDA:7,0\nend_of_record\n")
        reports = self.write("reports", "%s\n%s\n" % (first, second))
        self.assertEqual(self.run_merger("--reports_file=" + reports), [
            "SF:a.cc", "FN:1,f", "FNDA:1,f", "DA:1,1", "DA:2,5", "LH:2", "LF:2", "end_of_record",
            "SF:b.cc", "DA:7,0", "LH:0", "LF:1", "end_of_record"])


if __name__ == "__main__":
    unittest.main()
