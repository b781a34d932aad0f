#!/usr/bin/env python3
"""Counts test cases from Bazel's own results and prints `N passed, N failed[, N skipped]` last.

Usage: count_tests.py BUILD_EVENT_JSON_FILE

Bazel reports targets; this counts the cases in each target's test.xml. A case that was skipped or is
disabled counts as skipped. As one failed case counts each target that was to be built or tested and
was not, and each test that did not pass although its report shows no failed case. Every failure is
named on a line of its own first, and so is each test that passed only when it was tried again. Exits
with 1 if there is a failure, or if no case passed or was skipped.
"""

import json
import sys
import urllib.parse
import urllib.request
import xml.etree.ElementTree

# Bazel's exit codes.
_OK = 0
_TESTS_FAILED = 3

# What GoogleTest prints first and last; between them it may have called exit().
_GTEST_BEGIN = b"[==========] Running "
_GTEST_END = b" ran. ("


def read_uri(uri):
    path = urllib.request.url2pathname(urllib.parse.urlparse(uri).path)
    with open(path, "rb") as file:
        return file.read()


def case_name(case):
    return ".".join(part for part in (case.get("classname"), case.get("name")) if part)


def is_skipped(case):
    return (case.find("skipped") is not None or case.get("status") == "notrun" or
            case.get("result") in ("skipped", "suppressed"))


class Counter:

    def __init__(self):
        self.passed = 0
        self.skipped = 0
        self.failures = []
        self.tried_again = []

    def add_cases(self, label, document):
        """Counts the cases of one test.xml and returns how many of them failed."""
        failed = 0
        for case in document.iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                self.failures.append("%s: %s" % (label, case_name(case)))
                failed += 1
            elif is_skipped(case):
                self.skipped += 1
            else:
                self.passed += 1
        return failed

    def add_result(self, label, result):
        outputs = {output["name"]: output["uri"] for output in result.get("testActionOutput", [])}
        status = result.get("status", "NO_STATUS")
        try:
            document = xml.etree.ElementTree.fromstring(read_uri(outputs["test.xml"]))
            log = read_uri(outputs["test.log"])
        except (KeyError, OSError, xml.etree.ElementTree.ParseError) as error:
            self.failures.append("%s: %s, and its report cannot be read: %r" % (label, status, error))
            return
        if _GTEST_BEGIN in log and _GTEST_END not in log and status == "PASSED":
            self.failures.append("%s: ended in the middle of its cases" % label)
            return
        failed = self.add_cases(label, document)
        if status not in ("PASSED", "FLAKY") and not failed:
            self.failures.append("%s: %s" % (label, status))


def count(events):
    """Counts what a list of build events tells."""
    targets = {}  # label -> the payload of targetCompleted, None until it comes.
    results = {}  # (label, run, shard) -> (attempt, result)
    exit_code = None
    for event in events:
        identifier = event["id"]
        if "targetConfigured" in identifier:
            targets.setdefault(identifier["targetConfigured"]["label"], None)
        elif "targetCompleted" in identifier:
            label = identifier["targetCompleted"]["label"]
            targets[label] = event.get("completed", {})
        elif "testResult" in identifier and "testResult" in event:
            key = identifier["testResult"]
            place = (key["label"], key.get("run", 1), key.get("shard", 1))
            attempt = key.get("attempt", 1)
            if attempt >= results.get(place, (0, None))[0]:
                results[place] = (attempt, event["testResult"])
        elif "finished" in event:
            exit_code = event["finished"].get("exitCode", {}).get("code", 0)

    counter = Counter()
    for (label, _, _), (attempt, result) in sorted(results.items()):
        counter.add_result(label, result)
        if attempt > 1 and result.get("status") in ("PASSED", "FLAKY"):
            counter.tried_again.append("%s: attempt %d" % (label, attempt))
    tested = {label for label, _, _ in results}
    unbuilt = 0
    for label, completed in sorted(targets.items()):
        if label in tested:
            continue
        if completed is None or not completed.get("success"):
            counter.failures.append("%s: did not build" % label)
            unbuilt += 1
        elif "testTimeoutSeconds" in completed:  # Only of targets that were to be run.
            counter.failures.append("%s: was not run" % label)
    if exit_code not in (_OK, _TESTS_FAILED) and not unbuilt or exit_code and not counter.failures:
        # No event names a package that does not load.
        counter.failures.append("bazel: ended with exit code %s" % exit_code)
    return counter


def main(arguments):
    if len(arguments) != 2:
        sys.exit(__doc__)
    try:
        with open(arguments[1]) as file:
            counter = count([json.loads(row) for row in file if row.strip()])
    except (OSError, ValueError) as error:
        counter = Counter()
        counter.failures.append("bazel: left no readable events: %s" % error)
    for test in counter.tried_again:
        print("TRIED AGAIN %s" % test)
    for failure in counter.failures:
        print("FAILED %s" % failure)
    print("%d passed, %d failed" % (counter.passed, len(counter.failures)) +
          (", %d skipped" % counter.skipped if counter.skipped else ""))
    return 1 if counter.failures or not counter.passed + counter.skipped else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
