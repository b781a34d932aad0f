#!/bin/bash
# A short run of the torture, with the same schedule each time.
#
# Usage: torture_test.sh ABOVE OPTION...   as of run

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
[[ $1 == file ]] || require_loop
case $1 in
  ext4 | xfs) require "mkfs.$1" ;;
  fio) require fio ;;
esac

# With 3 no more was wrong than that something took longer than it should: on a busy machine it does.
status=0
TMPDIR=$TEST_DIR testing/torture/run --above "$@" >"$TEST_DIR/run.log" 2>&1 || status=$?
cat "$TEST_DIR/run.log"
((status == 0 || status == 3)) || fail "$(grep -E "^FAILED|^seed .*:|VIOLATION" "$TEST_DIR/run.log" | head -n 3)"
