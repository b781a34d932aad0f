#!/usr/bin/env python3
"""Holds the manual pages to the programs: every option, key, command and attribute that there is has its
place in a page, and no page has one that there is not. Lints the pages where mandoc is installed."""

import os
import re
import shutil
import subprocess
import tempfile
import unittest

PAGES = "docs/man"
EXPECTED_PAGES = {
    "rnbd-server.8", "rnbd-server.yaml.5", "rnbd-fuse.8", "rnbd-fuse.yaml.5", "rnbd.8",
    "rnbd-protocol.7", "rnbd-security.7",
}
UNKNOWN = "zzzzzzzz"

# Each map of a file with a key that nobody knows: the program then says those that it knows.
SERVER_FILE = f"""
{UNKNOWN}: 1
heartbeat: {{{UNKNOWN}: 1}}
limits: {{{UNKNOWN}: 1}}
log: {{{UNKNOWN}: 1}}
listen:
  - {UNKNOWN}: 1
sessions:
  - {UNKNOWN}: 1
    limits: {{{UNKNOWN}: 1}}
"""
CLIENT_FILE = f"""
{UNKNOWN}: 1
heartbeat: {{{UNKNOWN}: 1}}
reconnect: {{{UNKNOWN}: 1}}
request_memory: {{{UNKNOWN}: 1}}
mount: {{{UNKNOWN}: 1}}
log: {{{UNKNOWN}: 1}}
sessions:
  - {UNKNOWN}: 1
    devices:
      - {UNKNOWN}: 1
"""
# Maps with a section of their own in the page; the keys of others stand there as MAP.KEY.
SECTIONS = {"the file", "a listen entry", "a session entry", "a rate limit", "a session", "a device"}


def program(path):
    built = os.path.join("bazel-bin", path)
    return built if os.path.exists(built) else path


SERVER, FUSE, RNBD = program("server/rnbd-server"), program("client/rnbd-fuse"), program("client/rnbd")


def read(page):
    with open(os.path.join(PAGES, page), encoding="utf-8") as file:
        return file.read()


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def items(text, macro):
    """What stands behind `macro` at the heads of list items."""
    found = set()
    for line in re.findall(r"^\.It (.*)$", text, re.MULTILINE):
        found.update(re.findall(rf"\b{macro} ((?:Fl )?[^\s,]+)", line))
    return found


def section(text, title, kind="Ss"):
    begin = re.search(rf"^\.{kind} {re.escape(title)}$", text, re.MULTILINE | re.IGNORECASE)
    if begin is None:
        return ""
    rest = text[begin.end():]
    end = re.search(r"^\.(Sh|Ss) " if kind == "Ss" else r"^\.Sh ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def flags_of(path):
    """The program's own, from its --help: those of gflags itself come from other files."""
    text = run(path, "--help").stdout
    own = [part for part in text.split("  Flags from ") if "main.cc" in part.splitlines()[0]]
    return {flag for part in own for flag in re.findall(r"^    -(\w+) \(", part, re.MULTILINE)}


class ManualPages(unittest.TestCase):
    def test_there_is_a_page_for_each(self):
        pages = {name for name in os.listdir(PAGES) if re.search(r"\.[1-8]$", name)}
        self.assertEqual(pages, EXPECTED_PAGES)

    def test_each_page_says_what_it_is(self):
        for page in EXPECTED_PAGES:
            name, number = page.rsplit(".", 1)
            self.assertIn(f".Dt {name.upper()} {number}\n", read(page), page)
            self.assertIn(f".Sh NAME\n.Nm {name}\n.Nd ", read(page), page)

    def test_pages_refer_to_pages_that_there_are(self):
        for page in EXPECTED_PAGES:
            for name, number in re.findall(r"^\.Xr (rnbd\S*) (\d)", read(page), re.MULTILINE):
                self.assertIn(f"{name}.{number}", EXPECTED_PAGES, page)

    def check_flags(self, path, page):
        there = flags_of(path)
        self.assertTrue(there, f"{path} --help names no options")
        options = section(read(page), "OPTIONS", "Sh")
        described = {flag.split()[-1] for flag in items(options, "Fl")}
        self.assertEqual(described - {"version", "help"}, there, page)

    def test_options_of_the_server(self):
        self.check_flags(SERVER, "rnbd-server.8")

    def test_options_of_the_client(self):
        self.check_flags(FUSE, "rnbd-fuse.8")

    def check_keys(self, path, contents, page):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(contents)
            file.flush()
            errors = run(path, "--check", "--config", file.name).stderr
        maps = dict(re.findall(rf'unknown key "{UNKNOWN}" in ([a-z_ ]+), expected one of (.*)', errors))
        self.assertIn("the file", maps, errors)
        keys = {name: set(known.split(", ")) for name, known in maps.items()}
        self.assertEqual(len(keys), contents.count(UNKNOWN), errors)
        nested = {name: known for name, known in keys.items() if name not in SECTIONS}
        for name in SECTIONS & set(keys):
            expected = set(keys[name])
            if name == "the file":
                expected -= set(nested)
                expected |= {f"{each}.{key}" for each, known in nested.items() for key in known}
            self.assertEqual(items(section(read(page), name), "Cm"), expected, f"{page}: {name}")

    def test_keys_of_the_server(self):
        self.check_keys(SERVER, SERVER_FILE, "rnbd-server.yaml.5")

    def test_keys_of_the_client(self):
        self.check_keys(FUSE, CLIENT_FILE, "rnbd-fuse.yaml.5")

    def test_commands(self):
        there = set()
        for mode in ("client", "server"):
            text = run(RNBD, mode, "help").stdout
            there.update(re.findall(rf"^  rnbd {mode} (?:(?:device|session|path) )?(\w+) ", text, re.MULTILINE))
        self.assertIn("map", there)
        commands = section(read("rnbd.8"), "COMMANDS", "Sh")
        described = set(re.findall(r"^\.It Cm (\w+)", commands, re.MULTILINE))
        self.assertEqual(described, there | {"help"})

    def test_attributes(self):
        with open("docs/control-tree.md", encoding="utf-8") as file:
            page = file.read()
        there = {"map_device", "keeper_pid"}
        tables = re.findall(r"^### (?:Devices|Sessions|Disks|Paths|The server): .*?(?=^##)", page, re.MULTILINE | re.DOTALL)
        self.assertEqual(len(tables), 7)
        for table in tables:
            for row in re.findall(r"^\| (`[^|]*) \| (?:0[0-7]{3}|link) \|", table, re.MULTILINE):
                there.update(re.findall(r"`([^`]+)`", row))
        there.discard("…_to")
        there.add("stats/cpu_migration_to")
        self.assertGreater(len(there), 20)
        self.assertEqual(items(section(read("rnbd.8"), "CONTROL FILES", "Sh"), "Pa"), there)

    @unittest.skipUnless(shutil.which("mandoc"), "mandoc is not installed")
    def test_pages_are_well_formed(self):
        for page in EXPECTED_PAGES:
            lint = run("mandoc", "-T", "lint", "-W", "warning", os.path.join(PAGES, page))
            self.assertEqual((lint.returncode, lint.stdout), (0, ""), page)


if __name__ == "__main__":
    unittest.main()
