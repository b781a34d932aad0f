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

source testing/integration/remote_disk.sh

options=(--above "$@")
cat >"$TEST_DIR/client.yaml" <<YAML
sessions:
  - {name: torture, paths: ["unix:$SOCKET"], devices: [{path: disk.img}]}
YAML
if "$RNBD_FUSE" --check --config "$TEST_DIR/client.yaml" | grep -q "io_hold.*not in force"; then
  [[ $1 == file ]] || skip "requests fail when their path is lost, in this version"
  # What blocks hold counts all the same, but for what docs/durability.md says of a lost path and a killed server.
  options+=(--allow-errors --without "hang_path*,hang_server*,slow_path*,slow_server*,path_stall,path_half_open,server_stop")
fi

# With 3 no more was wrong than that something took longer than it should: on a busy machine it does.
status=0
TMPDIR=$TEST_DIR testing/torture/run "${options[@]}" >"$TEST_DIR/run.log" 2>&1 || status=$?
cat "$TEST_DIR/run.log"
((status == 0 || status == 3)) || fail "$(grep -E "^FAILED|^seed .*:|VIOLATION" "$TEST_DIR/run.log" | head -n 3)"
