#!/bin/bash
# The server reads its file again, on SIGHUP and on "rnbd server reload", while sessions work: what is different is said and in
# force, a wrong file changes nothing, and nobody's I/O notices.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require fio
source testing/integration/remote_disk.sh

MNT=$TEST_DIR/mnt
RNBD=${bin}client/rnbd
ADMIN=$_sockets/admin.sock
CONFIG=$TEST_DIR/server.yaml
export RNBD_ADMIN_SOCKET=$ADMIN

make_images 64M disk.img other.img

# Writes the file; $1 stands at the top level, $2 among the session entries.
write_config() {
  cat <<YAML
listen:
  - unix: $SOCKET
admin_socket: $ADMIN
$1
sessions:
$2
  - name: "blya"
    dev_search_path: $IMAGES
YAML
}

expect() {
  local expected=$1 status=0
  shift
  output=$("$RNBD" "$@" 2>"$TEST_DIR/stderr") || status=$?
  ((status == expected)) || fail "rnbd $*: status $status: $output $(<"$TEST_DIR/stderr")"
}

expect_output() { [[ $output == "$1" ]] || fail "printed '$output' instead of '$1'"; }

says() { grep -qF "$1" "$TEST_DIR/stderr" || fail "it does not say '$1': $(<"$TEST_DIR/stderr")"; }

# Whether session $1 gets other.img, for reading.
gets() {
  local status=0
  mkdir -p "$TEST_DIR/probe"
  cat >"$TEST_DIR/probe.yaml" <<YAML
sessions:
  - name: $1
    paths: ["unix:$SOCKET"]
    connect_timeout: 1s
    devices:
      - {path: other.img, access: ro}
YAML
  timeout 20 "$RNBD_FUSE" "$TEST_DIR/probe" --foreground --no-state --config "$TEST_DIR/probe.yaml" >"$TEST_DIR/probe.log" 2>&1 &
  local probe=$!
  for ((i = 0; i < 100; ++i)); do
    if mountpoint -q "$TEST_DIR/probe" && [[ -e $TEST_DIR/probe/other.img ]]; then break; fi
    if ! kill -0 "$probe" 2>/dev/null; then break; fi
    if grep -q "not admit\|refuse\|limit" "$TEST_DIR/probe.log"; then break; fi
    sleep 0.05
  done
  [[ -e $TEST_DIR/probe/other.img ]] || status=1
  kill "$probe" 2>/dev/null || true
  wait "$probe" || true
  _leave_mount "$TEST_DIR/probe"
  return "$status"
}

start_server server < <(write_config "" "")
start_client client "$MNT" --no-state <<YAML
sessions:
  - name: blya
    paths: ["unix:$SOCKET"]
    devices:
      - {path: disk.img, name: disk0}
YAML

fio --name=load --filename="$MNT/disk0" --rw=randrw --bs=16k --iodepth=8 --ioengine=libaio --direct=1 --size=64M \
  --time_based --runtime=120 --verify=crc32c --verify_fatal=1 --output="$TEST_DIR/fio.log" &
load=$!
_end_load() { ! kill -0 "$load" 2>/dev/null || kill "$load"; }
on_exit _end_load

case_start "a session is admitted from then on"
gets new && fail "it was admitted before"
write_config "" "  - {name: new, dev_search_path: $IMAGES, access: [ro]}" >"$CONFIG"
expect 0 server reload
expect_output "+ session \"new\", $IMAGES, access ro"
gets new || fail "not admitted: $(<"$TEST_DIR/probe.log")"
expect 0 server reload
expect_output "nothing is different"
case_end

case_start "and by SIGHUP no more"
write_config "" "" >"$CONFIG"
kill -HUP "${daemon[server]}"
wait_until 10 grep -qF -- "- session \"new\", $IMAGES, access ro" "$TEST_DIR/server.log"
gets new && fail "it was admitted"
case_end

case_start "limits"
write_config "limits: {max_sessions: 1}" "  - {name: new, dev_search_path: $IMAGES}" >"$CONFIG"
expect 0 server reload
expect_output "limits.max_sessions: 4096 -> 1
+ session \"new\", $IMAGES, access ro rw migration"
gets new && fail "a second session was admitted"
write_config "" "  - {name: new, dev_search_path: $IMAGES}" >"$CONFIG"
expect 0 server reload
gets new || fail "not admitted: $(<"$TEST_DIR/probe.log")"
write_config "" "" >"$CONFIG"
expect 0 server reload
case_end

case_start "a wrong file changes nothing"
write_config "workers: many" "  - {name: new, dev_search_path: $IMAGES}" >"$CONFIG"
expect 1 server reload
says "$CONFIG:4:10: workers"
gets new && fail "a part of it is in force"
kill -HUP "${daemon[server]}"
wait_until 10 grep -qF "$CONFIG:4:10: workers" "$TEST_DIR/server.log"
rm "$CONFIG"
expect 1 server reload
says "No such file"
case_end

case_start "what takes a restart is said, the rest is done"
write_config "queue_depth: 64" "  - {name: new, dev_search_path: $IMAGES}" >"$CONFIG"
expect 0 server reload
expect_output "+ session \"new\", $IMAGES, access ro rw migration
takes a restart: queue_depth: 128 -> 64"
gets new || fail "not admitted: $(<"$TEST_DIR/probe.log")"
case_end

case_start "an open session that the file does not admit any more goes on"
write_config "" "" | sed 's/"blya"/"somebody"/' >"$CONFIG"
expect 0 server reload
wait_until 10 grep -q "session blya is not admitted any more" "$TEST_DIR/server.log"
expect 1 map other.img from blya
says "Permission denied"
write_config "" "" >"$CONFIG"
expect 0 server reload
case_end

case_start "the load has noticed nothing"
kill -0 "$load" || fail "it has ended: $(<"$TEST_DIR/fio.log")"
for ((i = 0; i < 20; ++i)); do
  write_config "limits: {max_sessions: $((i + 10))}" "" >"$CONFIG"
  kill -HUP "${daemon[server]}"
  sleep 0.1
done
kill -INT "$load"
wait "$load" || true
grep -q "err= *0" "$TEST_DIR/fio.log" || fail "$(<"$TEST_DIR/fio.log")"
grep -qE "verify:|error=" "$TEST_DIR/fio.log" && fail "$(<"$TEST_DIR/fio.log")"
[[ $(grep -c "device disk0 is open" "$TEST_DIR/client.log") == 1 ]] || fail "the session was lost: $(<"$TEST_DIR/client.log")"
case_end

# Reads in a second, of the device in the mount, over two of them.
reads_per_second() {
  local before after begin rest
  begin=$(date +%s%N)
  read -r before rest <"$MNT/sys/block/disk0/stat"
  sleep 2
  read -r after rest <"$MNT/sys/block/disk0/stat"
  echo $(((after - before) * 1000000000 / ($(date +%s%N) - begin)))
}
expect_rate() {
  local found
  found=$(reads_per_second)
  ((found * 10 >= $1 * 9 && found * 10 <= $1 * 11)) || fail "$found requests in a second instead of $1"
}
write_limits() { write_config "" "  - {name: blya, dev_search_path: $IMAGES, limits: {iops: $1}}" | sed '$d' | sed '$d' >"$CONFIG"; }

case_start "a limit holds"
write_config "" "" >"$CONFIG"
expect 0 server reload
write_limits 1000
expect 0 server reload
expect_output "- session \"blya\", $IMAGES, access ro rw migration
+ session \"blya\", $IMAGES, access ro rw migration, limits iops=1000 burst=100ms"
fio --name=limited --filename="$MNT/disk0" --rw=randread --bs=4k --iodepth=16 --ioengine=libaio --direct=1 --size=64M \
  --time_based --runtime=3 --output-format=terse --output="$TEST_DIR/limited.log"
found=$(awk -F';' '$1 == 3 { print $8 }' "$TEST_DIR/limited.log")
((found >= 900 && found <= 1100)) || fail "$found requests in a second: $(<"$TEST_DIR/limited.log")"
case_end

case_start "and is changed while requests wait"
fio --name=limited --filename="$MNT/disk0" --rw=randread --bs=4k --iodepth=16 --ioengine=libaio --direct=1 --size=64M \
  --time_based --runtime=120 --output="$TEST_DIR/limited.log" &
load=$!
sleep 1
expect_rate 1000
write_limits 400
expect 0 server reload
sleep 0.5
expect_rate 400
expect 0 server limit blya iops=2000 burst=1s verbose
expect_output "class/rnbd-server/ctl/sessions/blya/limits: iops=2000 burst=1s"
sleep 1.5
expect_rate 2000
expect 0 server session show blya limits noheaders notree
expect_output "iops=2000 burst=1s (set by hand)"
write_limits 500
expect 0 server reload
expect_rate 2000
expect 0 server limit blya file
expect 0 server device limit disk.img bandwidth=1MiB
expect 0 server device show disk.img limits noheaders
expect_output "bandwidth=1MiB burst=100ms (set by hand)"
sleep 0.5
expect_rate 256
expect 0 server limit disk.img none
sleep 0.5
expect_rate 500
expect 1 server limit blya iops=many
says "Invalid argument"
case_end

case_start "a path that is lost while requests wait comes back at once"
expect 0 server limit blya bandwidth=4KiB
sleep 1
expect 0 server disconnect blya
wait_until 5 grep -q "session blya: path .* closing: disconnected by a command" "$TEST_DIR/server.log"
back_again() { (($(grep -c "session blya: path .* connected" "$TEST_DIR/server.log") >= 2)); }
wait_until 5 back_again
expect 0 server limit blya none
kill -INT "$load"
run_bounded 10 tail --pid="$load" -f /dev/null
wait "$load" || true
grep -q "err= *0" "$TEST_DIR/limited.log" || fail "$(<"$TEST_DIR/limited.log")"
case_end

stop_daemon client
stop_daemon server
