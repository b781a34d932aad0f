#!/bin/bash
# In a guest with a kernel that cannot send requests again (before Linux 6.9): when the process that serves a mount is
# killed, whoever waits gets an error at once, and hears why. An upgrade and a reload work, while the server is there.

source testing/shell_test.sh
source testing/guest/guest_lib.sh

modprobe fuse
mkdir "$TEST_DIR/mnt" "$TEST_DIR/images"
truncate -s 8M "$TEST_DIR/images/disk.img"
cat >"$TEST_DIR/server.yaml" <<YAML
listen: [{unix: $TEST_DIR/sock}]
sessions: [{name: "*", dev_search_path: $TEST_DIR/images}]
YAML
cat >"$TEST_DIR/client.yaml" <<YAML
request_memory: {small_buffers: 64, large_buffers: 4}
sessions: [{name: old, paths: ["unix:$TEST_DIR/sock"], devices: [{path: disk.img}]}]
YAML
_leave_mount() { ! mountpoint -q "$TEST_DIR/mnt" || umount --lazy "$TEST_DIR/mnt"; }
on_exit _leave_mount
start_daemon server rnbd-server --config "$TEST_DIR/server.yaml"
wait_until 20 grep -q "rnbd-server is ready" "$TEST_DIR/server.log"
start_daemon client rnbd-fuse "$TEST_DIR/mnt" --config "$TEST_DIR/client.yaml" --foreground
wait_until 60 test -e "$TEST_DIR/mnt/disk.img"
serving_process() { pgrep -P "${daemon[client]}" -x rnbd-fuse; }

case_start "an upgrade, with a file open"
exec 5<>"$TEST_DIR/mnt/disk.img"
echo before >&5
run_bounded 60 rnbd-fuse --upgrade "$TEST_DIR/mnt"
echo after >&5
[[ $(head -n 2 "$TEST_DIR/mnt/disk.img" | tr '\n' ' ') == "before after " ]] || fail "$(head -n 2 "$TEST_DIR/mnt/disk.img")"
case_end

case_start "a reload while the server is away changes nothing"
stop_daemon server
before=$(serving_process)
sed -i '1i queue_depth: 128' "$TEST_DIR/client.yaml"
wait_until 20 grep -q closed "$TEST_DIR/mnt/sys/block/disk.img/rnbd/state"
! rnbd-fuse --upgrade "$TEST_DIR/mnt" 2>"$TEST_DIR/message" || fail "upgraded"
grep "device disk.img is not open at its server" "$TEST_DIR/message" || fail "$(cat "$TEST_DIR/message")"
kill -HUP "${daemon[client]}"
wait_until 20 grep -q "nothing is reloaded" "$TEST_DIR/client.log"
[[ $(serving_process) == "$before" ]] || fail "another process serves"
start_daemon server rnbd-server --config "$TEST_DIR/server.yaml"
wait_until 20 grep -q open "$TEST_DIR/mnt/sys/block/disk.img/rnbd/state"
kill -HUP "${daemon[client]}"
wait_until 20 grep -q "queue_depth: 512 -> 128" "$TEST_DIR/client.log"
[[ $(head -n 1 "$TEST_DIR/mnt/disk.img") == before ]] || fail "it does not go on"
case_end

case_start "the process is killed"
kill -KILL "$(serving_process)"
status=0
timeout 30 head -c 4096 <&5 >/dev/null 2>"$TEST_DIR/message" || status=$?
log "reading: $(cat "$TEST_DIR/message")"
((status == 1)) || fail "reading ended with status $status"
exec 5<&-
status=0
timeout 30 tail --pid="${daemon[client]}" -f /dev/null || fail "the client has not ended"
wait "${daemon[client]}" || status=$?
((status == 1)) || fail "the client ended with status $status"
unset "daemon[client]"
grep "this kernel cannot send requests again" "$TEST_DIR/client.log" || fail "the log does not say why"
! mountpoint -q "$TEST_DIR/mnt" || fail "the mount is still there"
case_end
stop_daemon server
