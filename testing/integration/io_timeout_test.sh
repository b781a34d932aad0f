#!/bin/bash
# A disk that really hangs: an image on a FUSE file system whose program is stopped. The client's io_timeout ends the
# wait of applications, the mount's other devices go on, and everything heals when the disk answers again.
#
# That file system is a mount of ours as well, of another client of another server.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require_loop
require pgrep python3
source testing/integration/remote_disk.sh

readonly TIMEOUT_MS=2000
# A quarter later than said, and a busy machine.
readonly LATEST_MS=$((TIMEOUT_MS * 5 / 4 + 1500))
readonly SOON_MS=1000

RNBD=${bin}client/rnbd
ADMIN=$_sockets/run/admin.sock

make_images 16M wedged.img good.img
serve_images
map_images inner "$TEST_DIR/inner" wedged.img
start_server outer <<YAML
listen: [{unix: $SOCKET.outer}]
stuck_after: 1s
admin_socket: $ADMIN
sessions: [{name: "*", dev_search_path: $TEST_DIR}]
YAML
mount=$TEST_DIR/mnt
start_client client "$mount" <<YAML
io_timeout: ${TIMEOUT_MS}ms
sessions:
  - name: client
    paths: ["unix:$SOCKET.outer"]
    devices:
      - {path: inner/wedged.img, name: wedged}
      - {path: images/good.img, name: good}
YAML
wait_until 20 test -e "$mount/wedged"
wait_until 20 test -e "$mount/good"

# One request to a device, unbuffered: prints how long it took and what became of it.
#   request read|write|fsync FILE [BYTE]
cat >"$TEST_DIR/request" <<'PYTHON'
import errno, mmap, os, sys, time
what, path = sys.argv[1:3]
block = mmap.mmap(-1, 4096)
block.write((sys.argv[3] if len(sys.argv) > 3 else "x").encode() * 4096)
fd = os.open(path, os.O_RDWR | os.O_DIRECT)
begin = time.monotonic()
try:
    if what == "read":
        os.preadv(fd, [block], 8192)
    elif what == "write":
        os.pwrite(fd, block, 8192)
    else:
        os.fsync(fd)
    outcome = "ok"
except OSError as error:
    outcome = errno.errorcode[error.errno]
print(int((time.monotonic() - begin) * 1000), outcome)
PYTHON
request() { timeout 60 python3 "$TEST_DIR/request" "$@"; }

# expect OUTCOME LEAST_MS MOST_MS WHAT FILE [BYTE]
expect() {
  local outcome=$1 least=$2 most=$3 took what
  shift 3
  read -r took what < <(request "$@")
  log "$1 of $(basename "$2"): $what after $took ms"
  [[ $what == "$outcome" ]] || fail "$1 of $2: $what instead of $outcome"
  ((took >= least && took <= most)) || fail "$1 of $2 took $took ms"
}
others_go_on() {
  expect ok 0 "$SOON_MS" write "$mount/good" b
  expect ok 0 "$SOON_MS" read "$mount/good"
  expect ok 0 "$SOON_MS" fsync "$mount/good"
}
hang() {
  stopped=$(serving_process inner)
  kill -STOP "$stopped"
}
heal() { kill -CONT "$stopped"; }
_answers() { [[ $(request "$1" "$mount/wedged" "${2:-x}") == *" ok" ]]; }
byte() { dd if="$1" bs=1 skip=8192 count=1 status=none; }
on_exit _heal
stopped=
_heal() { [[ -z $stopped ]] || kill -CONT "$stopped" 2>/dev/null || true; }

case_start "a read fails at the bound, and holds up nothing"
expect ok 0 "$SOON_MS" write "$mount/wedged" a
hang
expect ETIMEDOUT "$TIMEOUT_MS" "$LATEST_MS" read "$mount/wedged"
others_go_on
expect ETIMEDOUT "$TIMEOUT_MS" "$LATEST_MS" read "$mount/wedged"
heal
wait_until 10 _answers read
expect ok 0 "$SOON_MS" write "$mount/wedged" a
case_end

case_start "a write fails at the bound, and nothing may overtake it"
hang
expect ETIMEDOUT "$TIMEOUT_MS" "$LATEST_MS" write "$mount/wedged" c
expect ETIMEDOUT 0 "$SOON_MS" write "$mount/wedged" d
expect ETIMEDOUT 0 "$SOON_MS" fsync "$mount/wedged"
others_go_on
case_end

case_start "both sides say what hangs"
wait_until 10 grep -q "device wedged: no answer to write, 4096 bytes at 8192, within io_timeout" "$TEST_DIR/client.log"
wait_until 10 grep -q "device inner/wedged.img: the disk does not answer" "$TEST_DIR/outer.log"
case_end

case_start "so does rnbd inflight"
found=$(RNBD_MOUNTS=$mount "$RNBD" inflight wedged place,operation,offset,length csv noheaders)
[[ $found == "overdue,write,8192,4096" ]] || fail "the client has '$found'"
found=$("$RNBD" server inflight inner/wedged.img place,operation,offset,length csv noheaders --socket "$ADMIN")
[[ $found == "disk,write,8192,4096" ]] || fail "the server has '$found'"
case_end

case_start "it heals when the disk answers"
heal
wait_until 10 _answers fsync
# The write that had failed came, the one behind it did not.
[[ $(byte "$IMAGES/wedged.img") == c ]] || fail "the disk holds $(byte "$IMAGES/wedged.img")"
expect ok 0 "$SOON_MS" write "$mount/wedged" e
expect ok 0 "$SOON_MS" fsync "$mount/wedged"
[[ $(byte "$IMAGES/wedged.img") == e ]] || fail "the disk holds $(byte "$IMAGES/wedged.img")"
case_end

case_start "through a loop device"
attach "$mount/wedged"
hang
begin=$SECONDS
! timeout 60 dd if="$loop" of=/dev/null bs=4k count=1 iflag=direct status=none 2>"$TEST_DIR/message" ||
  fail "read from a disk that hangs"
((SECONDS - begin <= LATEST_MS / 1000 + 2)) || fail "it took $((SECONDS - begin)) s"
log "$(cat "$TEST_DIR/message")"
others_go_on
heal
wait_until 10 dd if="$loop" of=/dev/null bs=4k count=1 iflag=direct
detach
case_end

stop_daemon client
stop_daemon outer
stop_daemon inner
stop_daemon server
