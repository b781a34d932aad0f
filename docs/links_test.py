#!/usr/bin/env python3
"""Every link between the project's documents leads to a file, and to a heading where it names one."""

import os
import re
import unittest

DOCUMENTS = ["README.md", "CONTRIBUTING.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def documents():
    return DOCUMENTS + sorted(
        os.path.join("docs", name) for name in os.listdir("docs") if name.endswith(".md"))


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def anchors(text):
    """The headings, as GitHub names them in links."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def problem(document, link):
    """What is wrong with a link, or None."""
    path, _, fragment = link.partition("#")
    target = os.path.normpath(os.path.join(os.path.dirname(document), path)) if path else document
    if not os.path.exists(target):
        return f"{document}: {link}: there is no {target}"
    if fragment and fragment not in anchors(read(target)):
        return f"{document}: {link}: {target} has no such heading"
    return None


class LinksTest(unittest.TestCase):

    def test_links_resolve(self):
        problems = []
        checked = 0
        for document in documents():
            for link in LINK.findall(read(document)):
                if "://" in link:
                    continue
                checked += 1
                problems.append(problem(document, link))
        self.assertEqual([], [text for text in problems if text is not None])
        self.assertGreater(checked, 20)

    def test_a_wrong_link_is_noticed(self):
        self.assertIsNone(problem("README.md", "docs/configuration.md#notation"))
        self.assertIn("there is no", problem("README.md", "docs/nothing.md"))
        self.assertIn("no such heading", problem("README.md", "docs/configuration.md#nothing"))


if __name__ == "__main__":
    unittest.main()
