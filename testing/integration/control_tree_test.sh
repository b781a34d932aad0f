#!/bin/bash
# The control tree of a mount: names, contents, what may be written and with which errno, and that what is
# changed outlives the process that serves the mount, and the program.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require python3
source testing/integration/remote_disk.sh
source testing/integration/control_files.sh

MNT=$TEST_DIR/mnt
CONTROL=$MNT
SYS=$MNT/sys
CTL=$SYS/class/rnbd-client/ctl
SESSIONS=$SYS/class/rtrs-client
STATE=$TEST_DIR/state.yaml

make_images 16M disk.img other.img third.img
mkdir "$IMAGES/sub"
truncate -s 4M "$IMAGES/sub/deep.img"
serve_images_at "$SOCKET" "$SOCKET.2"

start() {
  start_client client "$MNT" --state "$STATE" "$@" < <(
    printf 'sessions:\n  - name: blya\n    paths: ["unix:%s"]\n    reconnect: {min: 50ms, max: 200ms}\n' "$SOCKET"
    printf '    devices:\n      - path: disk.img\n        name: disk0\n'
  )
}

# Until the next process has every device open: then it can end without a doubt about the last writes.
kill_and_wait() {
  local device
  kill_serving client
  for device in "$SYS"/block/*; do wait_until 10 grep -q open "$device/rnbd/state"; done
}

map_line() { echo "sessname=$1 device_path=$2 path=unix:$SOCKET"; }

case_start "names, modes and contents"
start
expect_names "disk0 sys" "$MNT"
expect_names "block class" "$SYS"
expect_names "devices keeper_pid map_device" "$CTL"
expect_text "${daemon[client]}" "$CTL/keeper_pid"
expect_names "queue rnbd size stat" "$SYS/block/disk0"
expect_names "access_mode fail inflight loop mapping_path nr_poll_queues remap_device resize session state unmap_device" "$SYS/block/disk0/rnbd"
expect_names "blya" "$SESSIONS"
expect_names "add_path max_reconnect_attempts mpath_policy paths" "$SESSIONS/blya"
path=$SESSIONS/blya/paths/unix:@unix:${SOCKET//\//!}
expect_names "unix:@unix:${SOCKET//\//!}" "$SESSIONS/blya/paths"
expect_names "cur_latency disconnect dst_addr hca_name hca_port reconnect remove_path src_addr state stats" "$path"
expect_names "cpu_migration_from cpu_migration_to rdma reconnects reset_all" "$path/stats"
[[ $(readlink "$CTL/devices/disk.img@blya") == ../../../../block/disk0 ]] || fail "$(ls -l "$CTL/devices")"
device=$CTL/devices/disk.img@blya
expect_text 32768 "$device/size"
expect_text "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0" "$device/stat"
expect_text open "$device/rnbd/state"
expect_text blya "$device/rnbd/session"
expect_text disk.img "$device/rnbd/mapping_path"
expect_text rw "$device/rnbd/access_mode"
expect_text 0 "$device/rnbd/nr_poll_queues"
expect_text "" "$device/rnbd/inflight"
expect_text "min-inflight (MI: 1)" "$SESSIONS/blya/mpath_policy"
expect_text -1 "$SESSIONS/blya/max_reconnect_attempts"
expect_text connected "$path/state"
expect_text unix "$path/hca_name"
expect_text "unix:$SOCKET" "$path/dst_addr"
expect_mode 644 "$CTL/map_device"
for file in unmap_device remap_device resize fail; do expect_mode 644 "$device/rnbd/$file"; done
for file in state session mapping_path access_mode nr_poll_queues inflight; do expect_mode 444 "$device/rnbd/$file"; done
for file in reconnect disconnect remove_path stats/rdma stats/reset_all; do expect_mode 644 "$path/$file"; done
for file in state src_addr dst_addr cur_latency; do expect_mode 444 "$path/$file"; done
for file in "$CTL/map_device" "$device"/rnbd/*_device "$device/rnbd/fail" "$path/reconnect" "$path/stats/reset_all" "$SESSIONS/blya/add_path"; do
  grep -q "^Write: " "$file" || fail "$file does not say what to write"
done
[[ $(<"$path/cur_latency") =~ ^[0-9]+\ ns$ ]] || fail "cur_latency: $(<"$path/cur_latency")"
[[ $(<"$path/stats/rdma") =~ ^([0-9]+\ ){5}[0-9]+$ ]] || fail "stats/rdma: $(<"$path/stats/rdma")"
[[ $(<"$path/stats/reconnects") == "0 0" ]] || fail "stats/reconnects: $(<"$path/stats/reconnects")"
case_end

case_start "what cannot be written"
expect_store EACCES "$device/rnbd/state" "open"
for text in "" 0 2 yes; do
  expect_store EINVAL "$device/rnbd/remap_device" "$text "
  expect_store EINVAL "$device/rnbd/fail" "$text "
  expect_store EINVAL "$path/reconnect" "$text "
  expect_store EINVAL "$path/disconnect" "$text "
  expect_store EINVAL "$path/remove_path" "$text "
  expect_store EINVAL "$path/stats/rdma" "$text "
done
expect_store EINVAL "$path/stats/reset_all" 0
expect_store EALREADY "$device/rnbd/remap_device" 1
expect_store EALREADY "$device/rnbd/fail" 1
expect_store EINVAL "$device/rnbd/unmap_device" now
expect_store EINVAL "$device/rnbd/resize" big
expect_store EINVAL "$SESSIONS/blya/mpath_policy" fastest
expect_store EINVAL "$SESSIONS/blya/max_reconnect_attempts" 10000
expect_store EPROTONOSUPPORT "$SESSIONS/blya/add_path" 10.0.0.1
expect_store EINVAL "$SESSIONS/blya/add_path" ip:nowhere
expect_store EEXIST "$SESSIONS/blya/add_path" "unix:$SOCKET"
expect_store EEXIST "$SESSIONS/blya/add_path" "$(basename "$path")"
expect_store EBUSY "$path/remove_path" 1
case_end

case_start "map_device refuses as the kernel does"
expect_store EINVAL "$CTL/map_device" "sessname=blya"
expect_store EINVAL "$CTL/map_device" "sessname=blya device_path=other.img colour=red"
expect_store EEXIST "$CTL/map_device" "sessname=blya device_path=disk.img"
expect_store ENXIO "$CTL/map_device" "sessname=new device_path=other.img"
expect_store EINVAL "$CTL/map_device" "$(map_line a.b other.img)"
expect_store EPROTONOSUPPORT "$CTL/map_device" "sessname=new device_path=other.img path=10.0.0.1"
expect_store ENOENT "$CTL/map_device" "$(map_line new missing.img)"
expect_store EINVAL "$CTL/map_device" "sessname=blya device_path=sys"
expect_store EINVAL "$CTL/map_device" "sessname=blya device_path=other.img nr_poll_queues=1"
expect_names "blya" "$SESSIONS"
expect_names "disk0" "$SYS/block"
[[ ! -e $STATE ]] || fail "nothing was changed, but $STATE is there"
case_end

case_start "a device is mapped, used and unmapped"
echo "sessname=blya device_path=other.img access_mode=rw" >"$CTL/map_device"
expect_text open "$CTL/devices/other.img@blya/rnbd/state"
dd if=/dev/urandom of="$TEST_DIR/data" bs=1M count=4 status=none
dd if="$TEST_DIR/data" of="$MNT/other.img" bs=1M oflag=direct conv=notrunc status=none
cmp -n 4194304 "$TEST_DIR/data" "$MNT/other.img" || fail "other data"
read -r _ _ read_sectors read_ms writes _ written_sectors write_ms in_flight _ all_ms _ <"$SYS/block/other.img/stat"
((read_sectors >= 8192 && writes >= 4 && written_sectors == 8192 && in_flight == 0 && all_ms >= read_ms + write_ms && all_ms < 60000)) || fail "stat: $(<"$SYS/block/other.img/stat")"
exec 5<>"$MNT/other.img"
expect_store EBUSY "$SYS/block/other.img/rnbd/unmap_device" normal
kill_and_wait
expect_store EBUSY "$SYS/block/other.img/rnbd/unmap_device" "normal
"
exec 5>&-
expect_store ok "$SYS/block/other.img/rnbd/unmap_device" normal
[[ ! -e $MNT/other.img && ! -e $SYS/block/other.img && ! -L $CTL/devices/other.img@blya ]] || fail "it is still there"
cmp -n 4194304 "$TEST_DIR/data" "$IMAGES/other.img" || fail "other data at the server"
expect_store ok "$CTL/map_device" "sessname=blya device_path=sub/deep.img access_mode=ro"
expect_text ro "$CTL/devices/sub!deep.img@blya/rnbd/access_mode"
expect_mode 400 "$MNT/sub!deep.img"
expect_store ok "$SYS/block/sub!deep.img/rnbd/unmap_device" normal
case_end

# As the published rnbd tool does, with the addresses of the paths that the session has.
case_start "a device is mapped with the paths that its session has"
expect_store ok "$CTL/map_device" "sessname=blya device_path=other.img path=$(<"$path/src_addr")@$(<"$path/dst_addr")"
expect_store ok "$SYS/block/other.img/rnbd/unmap_device" normal
case_end

case_start "force takes a device from whoever uses it"
echo "sessname=blya device_path=other.img" >"$CTL/map_device"
exec 5<>"$MNT/other.img"
expect_store ok "$SYS/block/other.img/rnbd/unmap_device" force
[[ ! -e $MNT/other.img ]] || fail "it is still there"
head -c 512 <&5 >/dev/null 2>&1 && fail "a device that is gone can be read"
exec 5>&-
case_end

case_start "a session of its own comes and goes"
map_line new third.img >"$CTL/map_device"
expect_names "blya new" "$SESSIONS"
expect_text new "$SYS/block/third.img/rnbd/session"
grep -q "name: 'new'" "$STATE" || fail "$STATE: $(<"$STATE")"
echo normal >"$SYS/block/third.img/rnbd/unmap_device"
expect_names "blya" "$SESSIONS"
expect_store ENXIO "$CTL/map_device" "sessname=new device_path=third.img"
case_end

case_start "paths"
second=$SESSIONS/blya/paths/unix:@unix:${SOCKET//\//!}.2
expect_store ok "$SESSIONS/blya/add_path" "unix:$SOCKET.2"
expect_text connected "$second/state"
expect_store ok "$path/disconnect" 1
expect_text disconnected "$path/state"
expect_text open "$device/rnbd/state"
sleep 0.5
expect_text disconnected "$path/state"
expect_store ok "$path/reconnect" 1
expect_text connected "$path/state"
dd if="$MNT/disk0" of=/dev/null bs=64k count=16 iflag=direct status=none
read -r reads _ < <(cat "$path/stats/rdma")
read -r more _ < <(cat "$second/stats/rdma")
((reads + more >= 16)) || fail "$reads and $more reads counted"
expect_text "1 0" "$path/stats/reconnects"
expect_store ok "$path/stats/reset_all" 1
expect_text "0 0 0 0 0 0" "$path/stats/rdma"
expect_text "0 0" "$path/stats/reconnects"
expect_store ok "$second/remove_path" 1
[[ ! -e $second ]] || fail "the path is still there"
[[ $(store "$SESSIONS/blya/add_path" "unix:$SOCKET.3") != ok ]] || fail "a path to nowhere was added"
expect_names "unix:@unix:${SOCKET//\//!}" "$SESSIONS/blya/paths"
case_end

case_start "the only path is disconnected: requests wait"
expect_store ok "$path/disconnect" 1
expect_text closed "$device/rnbd/state"
expect_store ECONNABORTED "$device/rnbd/remap_device" 1
expect_store ECONNABORTED "$CTL/map_device" "sessname=blya device_path=other.img"
read_block() { dd if="$MNT/disk0" of=/dev/null bs=4k count=1 skip=3 iflag=direct status=none 2>"$TEST_DIR/read.log"; }
read_block &
reader=$!
wait_until 10 grep -qE '^[0-9]+ held read 12288 4096$' "$device/rnbd/inflight"
expect_store ok "$device/rnbd/fail" 1
! wait "$reader" || fail "a read that was to fail did not"
grep -q "Input/output error" "$TEST_DIR/read.log" || fail "it failed with $(<"$TEST_DIR/read.log")"
expect_text "" "$device/rnbd/inflight"
read_block &
reader=$!
sleep 0.3
kill -0 "$reader" || fail "a read did not wait"
expect_store ok "$path/reconnect" 1
wait "$reader" || fail "a read failed"
expect_text open "$device/rnbd/state"
case_end

case_start "settings"
for text in rr 1 Min-Latency; do expect_store ok "$SESSIONS/blya/mpath_policy" "$text"; done
expect_text "min-latency (ML: 2)" "$SESSIONS/blya/mpath_policy"
expect_store ok "$SESSIONS/blya/max_reconnect_attempts" 7
expect_text 7 "$SESSIONS/blya/max_reconnect_attempts"
expect_store ok "$device/rnbd/resize" 0x4000
expect_text 16384 "$device/size"
[[ $(stat -c %s "$MNT/disk0") == 8388608 ]] || fail "the file has $(stat -c %s "$MNT/disk0") bytes"
expect_store ok "$device/rnbd/resize" 32768
case_end

case_start "the next process goes on with what was changed"
map_line new third.img >"$CTL/map_device"
echo "sessname=blya device_path=other.img name=second" >"$CTL/map_device"
inodes=$(cd "$MNT" && stat -c '%i %n' disk0 second third.img sys sys/block/second/rnbd/state)
exec 5<>"$MNT/second"
kill_and_wait
sleep 1.1
[[ $(cd "$MNT" && stat -c '%i %n' disk0 second third.img sys sys/block/second/rnbd/state) == "$inodes" ]] || fail "other inodes"
echo "still there" >&5
exec 5>&-
wait_until 10 grep -q open "$SYS/block/third.img/rnbd/state"
expect_text "min-latency (ML: 2)" "$SESSIONS/blya/mpath_policy"
expect_text 7 "$SESSIONS/blya/max_reconnect_attempts"
expect_store ok "$SYS/block/disk0/rnbd/unmap_device" normal
expect_names "blya new" "$SESSIONS"
kill_and_wait
expect_names "second sys third.img" "$MNT"
case_end

case_start "so does the next start"
stop_daemon client
start
expect_names "second sys third.img" "$MNT"
[[ $(head -n 1 "$MNT/second") == "still there" ]] || fail "other data"
expect_text "min-latency (ML: 2)" "$SESSIONS/blya/mpath_policy"
stop_daemon client
start --no-state
expect_names "disk0 sys" "$MNT"
expect_store ok "$CTL/map_device" "sessname=blya device_path=other.img"
kill_and_wait
expect_names "disk0 other.img sys" "$MNT"
stop_daemon client
start --no-state
expect_names "disk0 sys" "$MNT"
stop_daemon client
case_end

case_start "back to the configuration"
start
for name in second third.img; do echo normal >"$SYS/block/$name/rnbd/unmap_device"; done
echo "sessname=blya device_path=disk.img name=disk0" >"$CTL/map_device"
echo mi >"$SESSIONS/blya/mpath_policy"
echo -1 >"$SESSIONS/blya/max_reconnect_attempts"
[[ ! -e $STATE ]] || fail "$STATE has '$(<"$STATE")'"
stop_daemon client
case_end

case_start "a mount without devices"
start_client empty "$MNT" --no-state <<YAML
sessions: []
YAML
expect_names "sys" "$MNT"
map_line new third.img >"$CTL/map_device"
expect_names "sys third.img" "$MNT"
stop_daemon empty
case_end
