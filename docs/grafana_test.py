#!/usr/bin/env python3
"""The dashboard for Grafana asks for metrics that there are, by labels that they have. What there is says
docs/metrics.md, whose tables are held against both programs by their own tests."""

import json
import re
import unittest

DASHBOARD = "docs/grafana-dashboard.json"
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
GIVEN_BY_PROMETHEUS = {"instance", "job", "le"}


def metrics():
    """The names as they are asked for, with the labels of each."""
    with open("docs/metrics.md", encoding="utf-8") as file:
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", file.read(), re.MULTILINE)
    return {name + suffix: set(re.findall(r"\w+", labels))
            for name, kind, labels in rows for suffix in SUFFIXES[kind]}


def expressions():
    with open(DASHBOARD, encoding="utf-8") as file:
        dashboard = json.load(file)
    return [(panel["title"], target["expr"], target["legendFormat"])
            for panel in dashboard["panels"] for target in panel.get("targets", [])]


def named(expression):
    return set(re.findall(r"\b(?:rnbd|process)_\w+", expression))


class GrafanaDashboard(unittest.TestCase):
    def test_each_metric_is_there(self):
        there = metrics()
        self.assertGreater(len(there), 30)
        for title, expression, _ in expressions():
            self.assertTrue(named(expression), f"{title}: {expression}")
            self.assertLessEqual(named(expression), set(there), title)
        with open(DASHBOARD, encoding="utf-8") as file:
            anywhere = set(re.findall(r"\brnbd_(?:client|server)_\w+", file.read()))
        self.assertLessEqual(anywhere, set(there))

    def test_each_label_is_there(self):
        there = metrics()
        for title, expression, legend in expressions():
            labels = set(re.findall(r"{{(\w+)}}", legend))
            for group in re.findall(r"\bby \(([^)]*)\)", expression):
                labels.update(re.findall(r"\w+", group))
            for name in named(expression):
                self.assertLessEqual(labels - GIVEN_BY_PROMETHEUS, there[name], f"{title}: {expression}")

    def test_what_both_programs_have_is_shown(self):
        shown = {name for _, expression, _ in expressions() for name in named(expression)}
        for program in ("rnbd_client_", "rnbd_server_"):
            self.assertIn(f"{program}request_seconds_bucket", shown)
            self.assertIn(f"{program}request_errors_total", shown)

    def test_panels_lie_beside_each_other(self):
        with open(DASHBOARD, encoding="utf-8") as file:
            panels = json.load(file)["panels"]
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
        places = set()
        for panel in panels:
            at = panel["gridPos"]
            self.assertLessEqual(at["x"] + at["w"], 24, panel["title"])
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            self.assertFalse(cells & places, panel["title"])
            places |= cells


if __name__ == "__main__":
    unittest.main()
