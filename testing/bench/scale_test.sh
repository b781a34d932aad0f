#!/bin/bash
# testing/bench/scale measures what it says, in a small run, and leaves nothing behind.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require fio

case_start "a small run"
TMPDIR=$TEST_DIR run_bounded 250 testing/bench/scale --no-build --rounds 1 --seconds 0.2 --most 10 \
  --json "$TEST_DIR/scale.json" --report "$TEST_DIR/scale.md" --plot "$TEST_DIR/scale.svg"
for heading in "Sessions of one server" "Devices of one server" Connections "Size and depth" Fairness; do
  grep -q "^### $heading$" "$TEST_DIR/scale.md" || fail "the report has no $heading"
done
python3 - "$TEST_DIR" <<'PYTHON' || fail "the results are not whole"
import json, sys, xml.dom.minidom
results = json.load(open(f"{sys.argv[1]}/scale.json", encoding="utf-8"))
assert [row["count"] for row in results["sessions"]] == [1, 10], results["sessions"]
assert all(row["among"] > 0 and row["alone"] > 0 for what in ("sessions", "devices") for row in results[what])
assert all(row["iops"] > 0 for what in ("connections", "sizes", "depths") for row in results[what])
assert all(row["p99"] > 0 for row in results["fairness"])
assert [len(row["to_other"]) for row in results["fairness"] if row["server"] == "the same"] == [3] * 4, results["fairness"]
xml.dom.minidom.parse(f"{sys.argv[1]}/scale.svg")
PYTHON
! pgrep -f "$TEST_DIR/rnbd-scale" || fail "processes of the benchmark still run"
! grep -q rnbd-scale /proc/self/mounts || fail "mounts of the benchmark are still there"
[[ -z $(find "$TEST_DIR" -maxdepth 1 -name 'rnbd-scale.*') ]] || fail "files of the benchmark are still there"
case_end
