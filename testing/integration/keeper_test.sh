#!/bin/bash
# The process that keeps a mount and the one that serves it: who ends with whom, and how.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require pgrep
source testing/integration/remote_disk.sh

make_images 8M disk.img
serve_images
mount=$TEST_DIR/mnt

map() { map_images client "$mount" disk.img; }

# The client, whose keeper may be gone by itself.
expect_end() {
  local pid=${daemon[client]} expected=$1 status=0
  timeout "${2:-10}" tail --pid="$pid" -f /dev/null || fail "the client has not ended"
  wait "$pid" || status=$?
  unset "daemon[client]"
  ((status == expected)) || fail "the client ended with status $status"
  ! mountpoint -q "$mount" || fail "the mount is still there"
}

says() { grep -q "$1" "$TEST_DIR/client.log" || fail "the log does not say: $1"; }

case_start "unmounted by somebody else"
map
serving=$(serving_process client)
fusermount3 -u "$mount"
expect_end 0
_is_gone "$serving" || fail "process $serving is still there"
case_end

case_start "SIGINT, while it is in use and then not"
map
exec 5<"$mount/disk.img"
kill -INT "${daemon[client]}"
wait_until 5 grep -q "SIGTERM ends anyway" "$TEST_DIR/client.log"
[[ $(head -c 4 <&5 | wc -c) == 4 ]] || fail "it does not serve any more"
exec 5<&-
kill -INT "${daemon[client]}"
expect_end 0
case_end

case_start "SIGTERM to the one that serves"
map
kill -TERM "$(serving_process client)"
expect_end 0
case_end

case_start "a process that does not end is ended"
map
kill -STOP "$(serving_process client)"
kill -TERM "${daemon[client]}"
expect_end 1 15  # twice drain_timeout, 4 s, and 3 s
says "did not end in time; killing it"
says "not everything may have been written"
case_end

case_start "the keeper is killed"
map
serving=$(serving_process client)
echo data >"$mount/disk.img"
kill -KILL "${daemon[client]}"
expect_end 137 || true
wait_until 10 _is_gone "$serving"
! mountpoint -q "$mount" || fail "the mount is still there"
says "the process that keeps the mount has died"
[[ $(head -n 1 "$IMAGES/disk.img") == data ]] || fail "what was written is not there"
case_end

case_start "one crash after the other"
map
exec 5<"$mount/disk.img"
last=0
for ((i = 0; i < 5; ++i)); do
  wait_until 10 _another_serves client "$last"
  last=$(serving_process client)
  kill -SEGV "$last"
done
wait_until 20 grep -q "the next one starts in 800 ms" "$TEST_DIR/client.log"
says "was killed by signal 11"
[[ $(timeout 10 head -c 4 <&5 | wc -c) == 4 ]] || fail "it does not serve any more"
exec 5<&-
stop_daemon client
case_end

case_start "ended while the server is away"
map
exec 5<"$mount/disk.img"
stop_daemon server
kill -KILL "$(serving_process client)"
wait_until 5 grep -q "the next one starts in" "$TEST_DIR/client.log"
kill -INT "${daemon[client]}"
wait_until 5 grep -q "SIGTERM ends anyway" "$TEST_DIR/client.log"
mountpoint -q "$mount" || fail "the mount has gone"
timeout 20 head -c 4 <&5 >/dev/null 2>&1 &
reader=$!
sleep 0.2
kill -TERM "${daemon[client]}"
expect_end 1
wait "$reader" && fail "something was read from a mount that was taken away"
exec 5<&-
says "not everything may have been written"
case_end

case_start "a server that comes back"
serve_images
map
exec 5<"$mount/disk.img"
stop_daemon server
kill -KILL "$(serving_process client)"
timeout 30 head -c 4 <&5 >"$TEST_DIR/read" &
reader=$!
sleep 0.5
serve_images
wait "$reader" || fail "reading failed"
[[ $(cat "$TEST_DIR/read") == data ]] || fail "$(cat "$TEST_DIR/read") was read"
exec 5<&-
stop_daemon client
case_end
