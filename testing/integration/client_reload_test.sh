#!/bin/bash
# The client reads its file again, on SIGHUP and on "rnbd client reload", while its mount is in use: what is different is
# said and in force, a wrong file changes nothing, and nobody's I/O notices.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require_loop
require fio pgrep python3
source testing/integration/remote_disk.sh

MNT=$TEST_DIR/mnt
RNBD=${bin}client/rnbd
CONFIG=$TEST_DIR/client.yaml
ADMIN=$_sockets/admin.sock
# As if no server ran here, until the case about that.
export RNBD_ADMIN_SOCKET=/nonexistent RNBD_MOUNTS=$MNT

make_images 64M disk.img
make_images 8M second.img third.img

# Writes the file; $1 are further settings of session blya, $2 its further devices, $3 stands at the top level.
write_config() {
  cat <<YAML
$3
sessions:
  - name: other
    paths: ["unix:$SOCKET"]
    devices:
      - {path: disk.img, name: disk0}
  - name: blya
    paths: ["unix:$SOCKET"]
$1
    devices:
      - {path: second.img}
$2
YAML
}

_is_gone() { ! mountpoint -q "$MNT"; }

expect() {
  local expected=$1 status=0
  shift
  output=$("$RNBD" "$@" 2>"$TEST_DIR/stderr") || status=$?
  ((status == expected)) || fail "rnbd $*: status $status: $output $(<"$TEST_DIR/stderr")"
}

expect_output() { [[ $output == "$1" ]] || fail "printed '$output' instead of '$1'"; }

says() { grep -qF -- "$1" "$TEST_DIR/stderr" || fail "it does not say '$1': $(<"$TEST_DIR/stderr")"; }

_is_checked() { (($(grep -c "going on with" "$TEST_DIR/client.log") > $1)); }

logged() { grep -qF -- "$1" "$TEST_DIR/client.log"; }

# Runs a command, behind which the process that serves is another one, or the same.
expect_another() {
  local before
  before=$(serving_process client)
  "$@"
  [[ $(serving_process client) != "$before" ]] || fail "the process is still the same"
}
expect_the_same() {
  local before
  before=$(serving_process client)
  "$@"
  [[ $(serving_process client) == "$before" ]] || fail "another process serves"
}

start_server server <<YAML
listen: [{unix: $SOCKET}]
admin_socket: $ADMIN
sessions: [{name: "*", dev_search_path: $IMAGES}]
YAML
start_client client "$MNT" --state "$TEST_DIR/state" < <(write_config "" "" "")
keeper=${daemon[client]}
attach "$MNT/disk0"
fio --name=load --filename="$loop" --rw=randrw --bs=16k --iodepth=8 --ioengine=libaio --direct=1 --size=64M \
  --time_based --runtime=300 --verify=crc32c --verify_fatal=1 --output="$TEST_DIR/fio.log" &
load=$!
_end_load() { ! kill -0 "$load" 2>/dev/null || kill "$load"; }
on_exit _end_load

case_start "devices and settings come"
write_config "    io_hold: 30s" "      - {path: third.img}" "" >"$CONFIG"
expect_another expect 0 client reload
expect_output "session blya: io_hold: forever -> 30s
+ device third.img: session blya, third.img, rw"
wait_until 10 test -e "$MNT/third.img"
echo third | dd of="$MNT/third.img" bs=512 count=1 conv=sync,notrunc,fsync status=none
[[ $(head -c 5 "$IMAGES/third.img") == third ]] || fail "the device that came does not work"
logged "session blya: io_hold: forever -> 30s" || fail "the log does not say it"
[[ $(pgrep --parent $$ --exact rnbd-fuse) == "$keeper" ]] || fail "the keeper is another process"
case_end

case_start "nothing is different"
expect_the_same expect 0 client reload "$MNT"
expect_output "nothing is different"
case_end

case_start "and go by SIGHUP"
write_config "" "" "" >"$CONFIG"
kill -HUP "$keeper"
wait_until 20 logged "- device third.img: session blya, third.img, rw"
logged "session blya: io_hold: 30s -> forever" || fail "the log does not say it"
wait_until 10 test ! -e "$MNT/third.img"
case_end

case_start "a wrong file changes nothing"
write_config "    io_hold: nonsense" "" "" >"$CONFIG"
expect_the_same expect 1 client reload
says "$CONFIG:9:14: io_hold"
says "nothing is reloaded"
await_standby client
before=$(serving_process client)
kill -HUP "$keeper"
wait_until 10 logged "$CONFIG:9:14: io_hold"
wait_until 10 logged "nothing is reloaded: $MNT is as it was"
[[ $(serving_process client) == "$before" ]] || fail "another process serves"
rm "$CONFIG"
expect_the_same expect 1 client reload
says "No such file"
case_end

case_start "nothing is taken away from whoever has it open"
write_config "" "" "" | sed 's/name: disk0/name: moved/' >"$CONFIG"
expect_the_same expect 1 client reload
says "device disk0 (session other, disk.img, rw)"
! "$RNBD_FUSE" --upgrade "$MNT" 2>"$TEST_DIR/stderr" || fail "--upgrade takes it away"
says "device disk0 (session other, disk.img, rw)"
kill -0 "$load" || fail "fio has ended: $(tail -n 5 "$TEST_DIR/fio.log")"
write_config "" "" "" >"$CONFIG"
case_end

case_start "by systemctl reload, with what is different"
write_config "" "" "queue_depth: 128" >"$CONFIG"
"$RNBD_FUSE" --upgrade "$MNT" >"$TEST_DIR/stdout"
[[ $(<"$TEST_DIR/stdout") == "queue_depth: 512 -> 128" ]] || fail "$(<"$TEST_DIR/stdout")"
write_config "" "" "mount: {allow_other: yes}" >"$CONFIG"
expect 0 client reload
expect_output "queue_depth: 128 -> 512
takes a restart: mount.allow_other: no -> yes"
expect_the_same expect 0 client reload
expect_output "takes a restart: mount.allow_other: no -> yes"
write_config "" "" "" >"$CONFIG"
expect_the_same expect 0 client reload
expect_output "nothing is different"
case_end

case_start "what was changed at run time stays until the file says it"
expect 0 map third.img from blya
expect 0 unmap second.img
write_config "    io_timeout: 1m" "" "" >"$CONFIG"
expect 0 client reload
expect_output "session blya: io_timeout: forever -> 1m"
wait_until 10 test -e "$MNT/third.img"
[[ ! -e $MNT/second.img ]] || fail "the device that was unmapped is back"
write_config "    io_timeout: 1m" "      - {path: third.img}" "" | sed '/second/d' >"$CONFIG"
expect 0 client reload
expect_output "nothing but the file: what it says now is so already, or was changed at run time"
[[ -e $MNT/third.img ]] || fail "the device that was mapped is gone"
wait_until 10 test ! -s "$TEST_DIR/state"
write_config "" "" "" >"$CONFIG"
expect 0 client reload
expect_output "session blya: io_timeout: 1m -> forever
- device third.img: session blya, third.img, rw
+ device second.img: session blya, second.img, rw"
wait_until 10 test -e "$MNT/second.img"
case_end

case_start "a file that becomes wrong behind the check"
checked=$(grep -c "going on with" "$TEST_DIR/client.log")
before=$(serving_process client)
kill -STOP "$before"
write_config "    io_hold: 5s" "" "" >"$CONFIG"
"$RNBD" client reload "$MNT" >"$TEST_DIR/stdout" 2>"$TEST_DIR/stderr" &
asker=$!
wait_until 20 _is_checked "$checked"
echo nonsense >"$CONFIG"
kill -CONT "$before"
wait "$asker" || fail "$(<"$TEST_DIR/stderr")"
write_config "" "" "" >"$CONFIG"
logged "goes on with the configuration from before: $CONFIG:1:1" || fail "the log does not say it"
head -c 4096 "$MNT/second.img" >/dev/null
expect_the_same expect 0 client reload
expect_output "nothing is different"
case_end

case_start "SIGHUP to each process"
await_standby client
before=$(serving_process client)
kill -HUP "$keeper" "$before" "$(standby_process client)"
wait_until 10 logged "nothing is reloaded: nothing is different"
sleep 0.5
[[ $(serving_process client) == "$before" ]] || fail "another process serves"
standby_process client >/dev/null || fail "none stands by"
case_end

case_start "the side that runs"
expect 0 reload
expect_output "nothing is different"
export RNBD_ADMIN_SOCKET=$ADMIN
expect 2 reload
says "say which: rnbd server reload, or rnbd client reload"
expect 0 server reload
expect 0 client reload
RNBD_MOUNTS=/nonexistent expect 0 reload
RNBD_MOUNTS=/nonexistent RNBD_ADMIN_SOCKET=/nonexistent expect 3 reload
expect 3 client reload "$TEST_DIR"
says "has not mounted on $TEST_DIR"
case_end

case_start "nobody's I/O has noticed"
kill -0 "$load" || fail "fio has ended: $(tail -n 5 "$TEST_DIR/fio.log")"
kill -INT "$load"
wait "$load" || true  # it says so when it is interrupted
grep -q "err= 0:" "$TEST_DIR/fio.log" || fail "$(<"$TEST_DIR/fio.log")"
grep -h "goes on with $MNT" "$TEST_DIR/client.log" | tail -n 3
detach
stop_daemon client
case_end

case_start "a terminal that goes"
write_config "" "" "" >"$CONFIG"
# In the foreground of a terminal, which is closed when the mount is there.
python3 - "$RNBD_FUSE" "$MNT" "$CONFIG" "$TEST_DIR/keeper" <<'PY'
import os, pty, sys, time
program, mount, config, note = sys.argv[1:]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(program, [program, mount, "--config", config, "--foreground", "--no-state"])
for _ in range(200):
    if os.path.ismount(mount):
        break
    time.sleep(0.05)
with open(note, "w") as file:
    file.write(str(pid))
os.close(terminal)
PY
keeper=$(<"$TEST_DIR/keeper")
_end_keeper() { ! kill -0 "$keeper" 2>/dev/null || kill "$keeper"; }
on_exit _end_keeper
mountpoint -q "$MNT" || fail "it has not mounted"
sleep 1
kill -0 "$keeper" || fail "it has ended"
head -c 4096 "$MNT/second.img" >/dev/null
kill "$keeper"
wait_until 20 _is_gone
case_end
