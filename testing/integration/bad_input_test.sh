#!/bin/bash
# What goes wrong is said in one clear message, with the right exit status or errno, and leaves nothing behind.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
source testing/integration/remote_disk.sh

# says STATUS PATTERN COMMAND...: the command ends with the status and its output has the pattern.
says() {
  local expected=$1 pattern=$2 status=0
  shift 2
  timeout 40 "$@" >"$TEST_DIR/output" 2>&1 </dev/null || status=$?
  log "status $status: $(head -c 300 "$TEST_DIR/output")"
  ((status == expected)) || fail "status $status, not $expected, from: $*"
  grep -q -- "$pattern" "$TEST_DIR/output" || fail "no '$pattern' from: $*"
  ! mountpoint -q "$TEST_DIR/mnt" || fail "a mount is left behind by: $*"
}
client_config() {
  cat >"$TEST_DIR/client.yaml" <<YAML
sessions:
  - name: bad
    paths: ["unix:$SOCKET"]
    devices:
      - path: ${1:-disk.img}
YAML
}
mkdir "$TEST_DIR/mnt"

case_start "configuration"
printf 'sessions:\n  - name: a\n    pahts: []\n' >"$TEST_DIR/wrong.yaml"
says 1 "wrong.yaml:3:5: .*pahts" "$RNBD_FUSE" "$TEST_DIR/mnt" --config "$TEST_DIR/wrong.yaml"
printf 'listen:\n  - tcp: "nowhere:99999"\n' >"$TEST_DIR/wrong.yaml"
says 1 "wrong.yaml:2:" "$RNBD_SERVER" --config "$TEST_DIR/wrong.yaml"
printf 'listen: [\n' >"$TEST_DIR/wrong.yaml"
says 1 "wrong.yaml:1:9: not valid YAML" "$RNBD_SERVER" --config "$TEST_DIR/wrong.yaml" --check
says 1 "No such file" "$RNBD_SERVER" --config "$TEST_DIR/none.yaml"
says 2 "usage" "$RNBD_FUSE"
case_end

case_start "mount point"
client_config
says 1 "No such file" "$RNBD_FUSE" "$TEST_DIR/none" --config "$TEST_DIR/client.yaml"
says 1 "directory" "$RNBD_FUSE" "$TEST_DIR/client.yaml" --config "$TEST_DIR/client.yaml"
says 1 "empty" "$RNBD_FUSE" "$IMAGES/.." --config "$TEST_DIR/client.yaml"
case_end

case_start "no server"
says 1 "nothing is mounted" "$RNBD_FUSE" "$TEST_DIR/mnt" --config "$TEST_DIR/client.yaml"
grep -q "$SOCKET" "$TEST_DIR/output"
case_end

make_images 1M disk.img
serve_images

case_start "address in use"
says 1 "Address already in use" "$RNBD_SERVER" --config "$TEST_DIR/server.yaml"
case_end

case_start "interrupted while the server is silent"
# Its threads are there, and the signals are its own to handle.
client_connects() {
  local pid
  for pid in $(pgrep -f "$TEST_DIR/mnt"); do
    if grep -qsx control "/proc/$pid/task"/*/comm; then return; fi
  done
  return 1
}
kill -STOP "${daemon[server]}"
for place in --foreground ""; do
  # As from a terminal, where SIGINT is not ignored.
  # shellcheck disable=SC2086  # No argument instead of an empty one.
  env --default-signal=INT "$RNBD_FUSE" "$TEST_DIR/mnt" --config "$TEST_DIR/client.yaml" $place &>"$TEST_DIR/output" &
  client_pid=$!
  wait_until 20 client_connects
  kill -INT "$client_pid"
  status=0
  timeout 5 tail --pid="$client_pid" -f /dev/null || fail "it still waits for the server"
  wait "$client_pid" || status=$?
  ((status == 1)) || fail "status $status: $(cat "$TEST_DIR/output")"
  grep -q "nothing is mounted" "$TEST_DIR/output" || fail "$(cat "$TEST_DIR/output")"
  ! pgrep -f "$TEST_DIR/mnt" || fail "a process is left behind"
done
kill -CONT "${daemon[server]}"
case_end

case_start "no such image"
client_config missing.img
says 1 "missing.img.*No such file" "$RNBD_FUSE" "$TEST_DIR/mnt" --config "$TEST_DIR/client.yaml"
case_end

case_start "no /dev/fuse"
client_config
says 1 "/dev/fuse.*modprobe fuse.*No such file" unshare --mount --propagation private bash -c '
  mount -t tmpfs none /dev && mknod /dev/null c 1 3 && exec "$@"' bash \
  "$RNBD_FUSE" "$TEST_DIR/mnt" --config "$TEST_DIR/client.yaml"
case_end

case_start "some devices of several"
cat >"$TEST_DIR/client.yaml" <<YAML
sessions:
  - name: partly
    paths: ["unix:$SOCKET"]
    devices:
      - path: disk.img
      - path: missing.img
YAML
status=0
timeout 20 "$RNBD_FUSE" "$TEST_DIR/mnt" --config "$TEST_DIR/client.yaml" >"$TEST_DIR/output" 2>&1 || status=$?
on_exit _leave_mount "$TEST_DIR/mnt"
((status == 3)) || fail "status $status: $(cat "$TEST_DIR/output")"
[[ $(ls -I sys "$TEST_DIR/mnt") == disk.img ]] || fail "the mount has $(ls "$TEST_DIR/mnt")"
truncate -s 2M "$IMAGES/missing.img"
wait_until 10 test -e "$TEST_DIR/mnt/missing.img"
run_bounded 20 fusermount3 -u "$TEST_DIR/mnt"
# Its writer is gone when the server says so.
wait_until 20 grep -q "session partly: gone" "$TEST_DIR/server.log"
case_end

case_start "mounted already"
map_images twice "$TEST_DIR/mnt" disk.img
status=0
timeout 20 "$RNBD_FUSE" "$TEST_DIR/mnt" --config "$TEST_DIR/twice.yaml" >"$TEST_DIR/output" 2>&1 || status=$?
((status == 1)) || fail "status $status: $(cat "$TEST_DIR/output")"
grep -q "mounted\|empty" "$TEST_DIR/output"
case_end

case_start "unmount while in use names the user"
exec 5<"$TEST_DIR/mnt/disk.img"
kill -INT "${daemon[twice]}"
wait_until 10 grep -q "$$" "$TEST_DIR/twice.log"
mountpoint -q "$TEST_DIR/mnt" || fail "SIGINT took the mount away"
exec 5<&-
case_end

case_start "past the end"
file=$TEST_DIR/mnt/disk.img
status=0
dd if=/dev/zero of="$file" bs=1M seek=1 count=1 conv=notrunc status=none 2>"$TEST_DIR/output" || status=$?
((status != 0)) || fail "the write behind the end succeeded"
grep -q "No space left" "$TEST_DIR/output" || fail "no ENOSPC: $(cat "$TEST_DIR/output")"
[[ -z $(dd if="$file" bs=1M skip=1 count=1 status=none) ]] || fail "something was read behind the end"
[[ $(dd if="$file" bs=1000000 skip=1 status=none | wc -c) == 48576 ]] || fail "a read at the end is not short"
! truncate -s 2M "$file" 2>/dev/null || fail "truncate changed the size"
case_end

case_start "EIO from the server's disk"
truncate -s 64K "$IMAGES/disk.img"
! dd if="$file" of=/dev/null bs=4k skip=32 count=1 iflag=direct status=none 2>"$TEST_DIR/output" ||
  fail "what the image no longer has was read"
grep -q "Input/output error" "$TEST_DIR/output" || fail "no EIO: $(cat "$TEST_DIR/output")"
dd if="$file" of=/dev/null bs=4k count=1 iflag=direct status=none
truncate -s 1M "$IMAGES/disk.img"
dd if="$file" of=/dev/null bs=4k skip=32 count=1 iflag=direct status=none
case_end
stop_daemon twice

case_start "disk full on the server"
mkdir "$TEST_DIR/full"
mount -t tmpfs -o size=1M none "$TEST_DIR/full"
on_exit umount "$TEST_DIR/full"
truncate -s 8M "$TEST_DIR/full/disk.img"
start_server full <<YAML
listen: [{unix: "$SOCKET.full"}]
sessions: [{name: "*", dev_search_path: "$TEST_DIR/full"}]
YAML
start_client tight "$TEST_DIR/mnt" <<YAML
sessions:
  - name: tight
    paths: ["unix:$SOCKET.full"]
    devices: [{path: disk.img}]
YAML
status=0
dd if=/dev/zero of="$TEST_DIR/mnt/disk.img" bs=1M count=8 conv=notrunc oflag=direct status=none \
  2>"$TEST_DIR/output" || status=$?
((status != 0)) || fail "the write behind the end succeeded"
grep -q "No space left" "$TEST_DIR/output" || fail "no ENOSPC: $(cat "$TEST_DIR/output")"
stop_daemon tight
stop_daemon full
case_end
