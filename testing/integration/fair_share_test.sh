#!/bin/bash
# A device whose disk is slow has its share of the session's permits: what it is asked beyond that waits here, as rnbd
# inflight says, and the session's other device goes on.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require fio
source testing/integration/remote_disk.sh

MNT=$TEST_DIR/mnt
RNBD=${bin}client/rnbd
export RNBD_ADMIN_SOCKET=$_sockets/admin.sock RNBD_MOUNTS=$MNT
readonly REQUESTS=24

make_images 16M slow.img good.img
start_server server <<YAML
listen: [{unix: $SOCKET}]
admin_socket: $RNBD_ADMIN_SOCKET
queue_depth: 16
sessions: [{name: "*", dev_search_path: $IMAGES}]
YAML
start_client client "$MNT" --no-state <<YAML
workers: 1
sessions:
  - name: blya
    paths: ["unix:$SOCKET"]
    devices:
      - {path: slow.img, name: slow}
      - {path: good.img, name: good}
YAML
wait_until 20 test -e "$MNT/slow"
wait_until 20 test -e "$MNT/good"

# Prints the places of the requests to a device, the oldest first.
places() { "$RNBD" inflight "$1" place csv noheaders; }
count() { places slow | grep -c "^$1$" || true; }
_has_none() { [[ -z $(places slow) ]]; }

case_start "beyond its share requests wait here"
"$RNBD" server device limit slow.img iops=1 burst=1s
fio --name=slow --filename="$MNT/slow" --rw=read --bs=4k --size=$((REQUESTS * 4))k --iodepth=$REQUESTS --ioengine=libaio \
  --direct=1 --output="$TEST_DIR/fio.log" &
fio_pid=$!
_end_fio() { ! kill -0 "$fio_pid" 2>/dev/null || kill "$fio_pid"; }
on_exit _end_fio
# The oldest at the server, the others waiting.
_are_apart() { [[ $(places slow | uniq) == $'server\nshare' ]]; }
wait_until 10 _are_apart
sent=$(count server)
log "$(places slow | uniq -c | tr '\n' ' ')"
# 12 of 16 are four times what is left then.
((sent == 12)) || fail "$sent requests are at the server"
case_end

case_start "the other device goes on"
for what in if=/dev/zero,of=$MNT/good,oflag=direct of=/dev/null,if=$MNT/good,iflag=direct; do
  # shellcheck disable=SC2086  # Words.
  timeout 3 dd ${what//,/ } bs=4k count=8 conv=notrunc status=none || fail "dd $what hangs"
done
(($(count share) > 0)) || fail "nothing waited meanwhile"
case_end

case_start "and they are sent as others are answered"
"$RNBD" server device limit slow.img none
wait "$fio_pid" || fail "fio: $(tail -n 5 "$TEST_DIR/fio.log")"
wait_until 10 _has_none
case_end

stop_daemon client
stop_daemon server
