#!/bin/bash
# A Bazel test that runs in a guest: see guest_test.bzl. Skipped where no guest can be had; else the cases
# are the guest's own.
#
# Usage: testing/guest/guest_test.sh [OPTION of run_guest...] PROGRAM [ARGUMENT...]

source testing/shell_test.sh

# Bazel may have set it to a directory of this test alone; a guest is built for all.
HOME=$(getent passwd "$EUID" | cut -d: -f6)
export HOME

kernel=6.1
[[ ${1:-} != --kernel ]] || kernel=$2
status=0
run_bounded 420 testing/guest/build_guest --kernel "$kernel" 2> >(tee "$TEST_DIR/build" >&2) || status=$?
((status != 77)) || skip "no guest: $(tail -n 1 "$TEST_DIR/build")"
((status == 0)) || fail "the guest cannot be built"

run_bounded 440 testing/guest/run_guest --timeout 420 --output "$TEST_DIR/out" "$@" || status=$?
if [[ -e $TEST_DIR/out/test1.xml && -n ${XML_OUTPUT_FILE:-} ]]; then
  cp "$TEST_DIR/out/test1.xml" "$XML_OUTPUT_FILE"
  unset XML_OUTPUT_FILE  # Not to be written again.
fi
((status == 0)) || fail "status $status from the guest"
