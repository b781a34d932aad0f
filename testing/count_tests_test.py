#!/usr/bin/env python3
"""Tests count_tests.py with build events and reports of the form that Bazel 4.2.3 writes."""

import contextlib
import io
import json
import os
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import count_tests  # pylint: disable=wrong-import-position

LABEL = "//rtrs:permits_test"
GTEST_LOG = "[==========] Running 3 tests from 1 test suite.\n%s[==========] 3 tests from 1 test suite ran. (1 ms total)\n"
PASSED_CASE = '<testcase name="Takes" status="run" result="completed" classname="Permits" />'
FAILED_CASE = ('<testcase name="Gives" status="run" result="completed" classname="Permits">'
               '<failure message="x"/></testcase>')
SKIPPED_CASE = ('<testcase name="Waits" status="run" result="skipped" classname="Permits">'
                '<skipped message="no device"/></testcase>')
DISABLED_CASE = ('<testcase name="DISABLED_Old" status="notrun" result="suppressed" '
                 'classname="Permits" />')
SHELL_CASE = '<testcase name="mount_test" status="run" time="1"></testcase>'
SHELL_ERROR = ('<testcase name="mount_test" status="run" time="1">'
               '<error message="exited with error code 1"></error></testcase>')


class CountTestsTest(unittest.TestCase):

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        self.events = []
        self.files = 0

    def write(self, text):
        self.files += 1
        path = os.path.join(self.directory, "file %d" % self.files)
        with open(path, "w") as file:
            file.write(text)
        return "file://" + path.replace(" ", "%20")

    def configured(self, label=LABEL):
        self.events.append({"id": {"targetConfigured": {"label": label}},
                            "configured": {"targetKind": "cc_test rule"}})

    def completed(self, label=LABEL, **payload):
        self.events.append({"id": {"targetCompleted": {"label": label}}, "completed": payload})

    def built(self, label=LABEL):
        self.configured(label)
        self.completed(label, success=True, testTimeoutSeconds="300")

    def result(self, status, cases, label=LABEL, log="", **identifier):
        document = "<testsuites><testsuite>%s</testsuite></testsuites>" % "".join(cases)
        self.events.append({
            "id": {"testResult": dict({"label": label, "run": 1, "shard": 1, "attempt": 1},
                                      **identifier)},
            "testResult": {"status": status, "testActionOutput": [
                {"name": "test.log", "uri": self.write(log)},
                {"name": "test.xml", "uri": self.write(document)}]}})

    def finished(self, code):
        self.events.append({"id": {"buildFinished": {}}, "finished": {"exitCode": {"code": code}}})

    def run_main(self, text=None):
        path = os.path.join(self.directory, "events")
        with open(path, "w") as file:
            file.write(text if text is not None else
                       "".join(json.dumps(event) + "\n" for event in self.events))
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            status = count_tests.main(["count_tests", path])
        return output.getvalue().splitlines(), status

    def assert_counts(self, line, failures=(), status=None):
        rows, actual_status = self.run_main()
        self.assertEqual(rows[-1], line)
        self.assertEqual(rows[:-1], ["FAILED " + failure for failure in failures])
        self.assertEqual(actual_status, (1 if failures else 0) if status is None else status)

    def test_counts_cases_and_not_targets(self):
        self.built()
        self.result("PASSED", [PASSED_CASE, PASSED_CASE], log=GTEST_LOG % "")
        self.built("//testing:mount_test")
        self.result("PASSED", [SHELL_CASE], label="//testing:mount_test")
        self.finished(0)
        self.assert_counts("3 passed, 0 failed")

    def test_skipped_and_disabled_cases_did_not_pass(self):
        self.built()
        self.result("PASSED", [PASSED_CASE, SKIPPED_CASE, DISABLED_CASE])
        self.finished(0)
        self.assert_counts("1 passed, 0 failed, 2 skipped")

    def test_names_each_failed_case(self):
        self.built()
        self.result("FAILED", [PASSED_CASE, FAILED_CASE], log=GTEST_LOG % "")
        self.finished(3)
        self.assert_counts("1 passed, 1 failed", [LABEL + ": Permits.Gives"])

    def test_a_script_that_fails(self):
        self.built()
        self.result("FAILED", [SHELL_ERROR])
        self.finished(3)
        self.assert_counts("0 passed, 1 failed", [LABEL + ": mount_test"])

    def test_failing_without_a_failed_case_is_a_failure(self):
        self.built()
        self.result("TIMEOUT", [PASSED_CASE])
        self.finished(3)
        self.assert_counts("1 passed, 1 failed", [LABEL + ": TIMEOUT"])

    def test_a_failed_case_counts_even_if_the_program_ended_well(self):
        self.built()
        self.result("PASSED", [FAILED_CASE])
        self.finished(0)
        self.assert_counts("0 passed, 1 failed", [LABEL + ": Permits.Gives"])

    def test_exit_in_the_middle_of_a_gtest_is_a_failure(self):
        self.built()
        self.result("PASSED", [SHELL_CASE],
                    log="[==========] Running 3 tests from 1 test suite.\n[ RUN      ] A.Exit\n")
        self.finished(0)
        self.assert_counts("0 passed, 1 failed", [LABEL + ": ended in the middle of its cases"])

    def test_a_missing_report_is_a_failure(self):
        self.built()
        self.events.append({"id": {"testResult": {"label": LABEL}},
                            "testResult": {"status": "PASSED", "testActionOutput": []}})
        self.finished(0)
        rows, status = self.run_main()
        self.assertEqual(rows[-1], "0 passed, 1 failed")
        self.assertEqual(status, 1)

    def test_the_last_attempt_counts(self):
        self.built()
        self.result("FAILED", [FAILED_CASE], attempt=1)
        self.result("PASSED", [PASSED_CASE], attempt=2)
        self.finished(0)
        rows, status = self.run_main()
        self.assertEqual(rows, ["TRIED AGAIN %s: attempt 2" % LABEL, "1 passed, 0 failed"])
        self.assertEqual(status, 0)

    def test_every_shard_and_run_counts(self):
        self.built()
        self.result("PASSED", [PASSED_CASE], shard=1)
        self.result("PASSED", [PASSED_CASE], shard=2)
        self.result("PASSED", [PASSED_CASE], run=2)
        self.finished(0)
        self.assert_counts("3 passed, 0 failed")

    def test_what_did_not_build_failed(self):
        self.configured("//rtrs:absent_test")  # Not even completed: analysis ended before.
        self.configured("//rtrs:broken")
        self.completed("//rtrs:broken", failureDetail={})
        self.configured("//rtrs:broken_test")
        self.events.append({"id": {"targetCompleted": {"label": "//rtrs:broken_test"}},
                            "aborted": {"reason": "ANALYSIS_FAILURE"}})
        self.finished(1)
        self.assert_counts("0 passed, 3 failed", [
            "//rtrs:absent_test: did not build", "//rtrs:broken: did not build",
            "//rtrs:broken_test: did not build"])

    def test_a_test_that_was_built_and_not_run_failed(self):
        self.built()
        self.finished(8)
        self.assert_counts("0 passed, 2 failed", [
            LABEL + ": was not run", "bazel: ended with exit code 8"])

    def test_what_was_filtered_out_does_not_count(self):
        self.built()
        self.result("PASSED", [PASSED_CASE])
        self.configured("//testing:benchmark")
        self.completed("//testing:benchmark", success=True)
        self.finished(0)
        self.assert_counts("1 passed, 0 failed")

    def test_a_failure_that_no_event_names(self):
        self.built()
        self.result("FAILED", [FAILED_CASE])
        self.finished(1)
        self.assert_counts("0 passed, 2 failed", [
            LABEL + ": Permits.Gives", "bazel: ended with exit code 1"])

    def test_an_unfinished_run_is_a_failure(self):
        self.built()
        self.result("PASSED", [PASSED_CASE])
        self.assert_counts("1 passed, 1 failed", ["bazel: ended with exit code None"])

    def test_no_test_at_all_is_no_success(self):
        self.finished(0)
        self.assert_counts("0 passed, 0 failed", status=1)

    def test_unreadable_events_are_a_failure(self):
        rows, status = self.run_main("{\n")
        self.assertEqual(rows[-1], "0 passed, 1 failed")
        self.assertEqual(status, 1)


if __name__ == "__main__":
    unittest.main()
