#!/bin/bash
# The control tree of a server, mounted: names, modes, contents, what may be written and with which errno; and that the
# mount goes with the server, however that ends.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require python3
source testing/integration/remote_disk.sh
source testing/integration/control_files.sh

MNT=$TEST_DIR/mnt
SYS=$TEST_DIR/sys
CONTROL=$SYS
IMAGES=$(realpath "$IMAGES")
DISKS=$SYS/class/rnbd-server/ctl/devices
SESSIONS=$SYS/class/rtrs-server

make_images 16M disk.img other.img
on_exit _leave_mount "$SYS"

start() {
  start_server "$1" <<YAML
listen:
  - unix: $SOCKET
control_mount: $SYS
drain_timeout: 1s
resize_interval: forever
memory_devices: {scratch: 1MiB}
sessions:
  - name: mem
    backend: memory
  - name: "*"
    dev_search_path: $IMAGES
YAML
}

case_start "a server without sessions"
start server
mountpoint -q "$SYS" || fail "nothing is mounted"
expect_names "class" "$SYS"
expect_names "rnbd-server rtrs-server" "$SYS/class"
expect_names "devices drain drain_disk fence reload sessions undrain_disk unfence" "$SYS/class/rnbd-server/ctl"
expect_text 0 "$SYS/class/rnbd-server/ctl/drain"
expect_text "nothing was reloaded yet" "$SYS/class/rnbd-server/ctl/reload"
expect_names "*" "$DISKS"
expect_names "*" "$SESSIONS"
case_end

start_client client "$MNT" --no-state <<YAML
sessions:
  - name: blya
    paths: ["unix:$SOCKET"]
    reconnect: {min: 50ms, max: 200ms}
    devices:
      - {path: disk.img, name: disk0}
      - {path: other.img, access: ro}
YAML

case_start "names, modes and contents"
disk=$DISKS/${IMAGES//\//!}!disk.img
other=$DISKS/${IMAGES//\//!}!other.img
own=$SYS/class/rnbd-server/ctl/sessions/blya
path=$SESSIONS/blya/paths/unix:@unix:${SOCKET//\//!}
expect_names "$(basename "$disk") $(basename "$other")" "$DISKS"
expect_names "block_dev sessions" "$disk"
[[ $(readlink "$disk/block_dev") == "$IMAGES/disk.img" ]] || fail "block_dev leads to $(readlink "$disk/block_dev")"
expect_names "access_mode force_close inflight limits mapping_path read_only resize" "$disk/sessions/blya"
expect_text disk.img "$disk/sessions/blya/mapping_path"
expect_text rw "$disk/sessions/blya/access_mode"
expect_text 0 "$disk/sessions/blya/read_only"
expect_text ro "$other/sessions/blya/access_mode"
expect_text 1 "$other/sessions/blya/read_only"
expect_text "Write: 1" "$disk/sessions/blya/force_close"
expect_text "Write: 1" "$disk/sessions/blya/resize"
expect_text none "$disk/sessions/blya/limits"
expect_text "" "$disk/sessions/blya/inflight"
expect_names "drain limits" "$own"
expect_names "paths" "$SESSIONS/blya"
expect_names "$(basename "$path")" "$SESSIONS/blya/paths"
expect_names "disconnect dst_addr hca_name hca_port src_addr stats" "$path"
expect_names "rdma" "$path/stats"
expect_text unix "$path/hca_name"
expect_text 0 "$path/hca_port"
expect_text "unix:" "$path/src_addr"
expect_text "unix:$SOCKET" "$path/dst_addr"
for file in "$disk"/sessions/blya/{access_mode,inflight,mapping_path,read_only} "$path"/{dst_addr,hca_name,hca_port,src_addr}; do expect_mode 444 "$file"; done
for file in "$disk/sessions/blya/"{force_close,limits,resize} "$own/"{drain,limits} "$path/disconnect" "$path/stats/rdma"; do expect_mode 644 "$file"; done
case_end

case_start "a device with nothing but a name leads to itself"
start_client mem "$TEST_DIR/mem" --no-state <<YAML
sessions: [{name: mem, paths: ["unix:$SOCKET"], devices: [{path: scratch}]}]
YAML
[[ $(realpath "$DISKS/memory:scratch/block_dev") == "$DISKS/memory:scratch" ]] || fail "block_dev leads to $(readlink "$DISKS/memory:scratch/block_dev")"
stop_daemon mem
wait_until 10 test ! -e "$DISKS/memory:scratch"
case_end

case_start "the numbers are those of the client"
dd if="$MNT/disk0" of=/dev/null bs=64k count=16 iflag=direct status=none
dd if=/dev/zero of="$MNT/disk0" bs=64k count=16 oflag=direct conv=notrunc status=none
read -r reads read_bytes writes write_bytes more <"$path/stats/rdma"
[[ -z $more ]] || fail "more than four numbers: $more"
((reads >= 16 && read_bytes >= 1048576 && writes >= 16 && write_bytes >= 1048576)) || fail "$reads $read_bytes $writes $write_bytes"
expect_store EINVAL "$path/stats/rdma" 0
expect_store ok "$path/stats/rdma" 1
expect_text "0 0 0 0" "$path/stats/rdma"
case_end

case_start "looks at the size of a disk"
truncate -s 20M "$IMAGES/disk.img"
expect_store ok "$disk/sessions/blya/resize" 1
wait_until 5 grep -qx 40960 "$MNT/sys/block/disk0/size"
truncate -s 18M "$IMAGES/disk.img"
expect_store EINVAL "$disk/sessions/blya/resize" 1
expect_text 40960 "$MNT/sys/block/disk0/size"
truncate -s 20M "$IMAGES/disk.img"
case_end

case_start "limits"
expect_store ok "$disk/sessions/blya/limits" "iops=1000"
expect_text "iops=1000 burst=100ms (set by hand)" "$disk/sessions/blya/limits"
expect_store EINVAL "$disk/sessions/blya/limits" "burst=1s"
expect_store ok "$disk/sessions/blya/limits" file
expect_store ok "$own/limits" "bandwidth=1GiB"
expect_text "bandwidth=1GiB burst=100ms (set by hand)" "$own/limits"
expect_store ok "$own/limits" none
case_end

case_start "what cannot be written"
for text in 0 2 yes "1 "; do
  expect_store EINVAL "$disk/sessions/blya/force_close" "$text"
  expect_store EINVAL "$disk/sessions/blya/resize" "$text"
  expect_store EINVAL "$path/disconnect" "$text"
  expect_store EINVAL "$own/limits" "$text"
  expect_store EINVAL "$own/drain" "$text"
done
expect_store EACCES "$disk/sessions/blya/access_mode" rw
expect_store EISDIR "$disk" 1
[[ $(store "$disk/new" 1) == ENOENT ]] || fail "a file can be made"
mkdir "$DISKS/new" 2>/dev/null && fail "a directory can be made"
rm "$disk/block_dev" 2>/dev/null && fail "a link can be removed"
chmod 666 "$path/disconnect" 2>/dev/null && fail "a mode can be changed"
case_end

case_start "force_close and disconnect"
echo 1 >"$other/sessions/blya/force_close"
[[ ! -e $other ]] || fail "the disk is still there"
dd if="$MNT/other.img" of=/dev/null bs=4k count=1 iflag=direct status=none 2>/dev/null && fail "it can be read"
echo 1 >"$path/disconnect"
dd if="$MNT/disk0" of=/dev/null bs=4k count=1 iflag=direct status=none || fail "the client did not connect again"
# With its session it has opened both anew.
dd if="$MNT/other.img" of=/dev/null bs=4k count=1 iflag=direct status=none || fail "the device is not there again"
case_end

case_start "drain and fence"
ctl=$SYS/class/rnbd-server/ctl
expect_store ok "$own/drain" 1
run_bounded 10 dd if="$MNT/disk0" of=/dev/null bs=4k count=1 iflag=direct status=none
[[ $(grep -c "closing: drained by a command" "$TEST_DIR/server.log") == 1 ]] || fail "the log does not say so"
expect_store EINVAL "$ctl/drain" 2
expect_store EINVAL "$ctl/drain_disk" "$IMAGES/disk.img"
expect_store ENOENT "$ctl/undrain_disk" "$(basename "$disk")"
expect_store ok "$ctl/drain_disk" "$(basename "$disk")"
[[ ! -e $disk ]] || fail "it is still open"
expect_text "$(basename "$disk") until undrain" "$ctl/drain_disk"
wait_until 10 test -e "$other"
dd if="$MNT/disk0" of="$TEST_DIR/waited" bs=4k count=1 iflag=direct status=none &
reader=$!
sleep 0.5
kill -0 "$reader" || fail "a request did not wait for the disk"
expect_store ok "$ctl/undrain_disk" "$(basename "$disk")"
run_bounded 10 tail --pid="$reader" -f /dev/null
wait "$reader" || fail "the request that waited has failed"
for text in " " "a/b" "blya for ever" "blya for 0"; do expect_store EINVAL "$ctl/fence" "$text"; done
expect_store ENOENT "$ctl/unfence" blya
expect_store ok "$ctl/fence" "nobody for 1h"
expect_text "nobody for 1h" "$ctl/fence"
expect_store ok "$ctl/unfence" nobody
expect_store ok "$ctl/fence" blya
[[ ! -e $SESSIONS/blya && ! -e $disk ]] || fail "it is still there"
expect_text "blya until unfence" "$ctl/fence"
wait_until 10 grep -q 'session "blya" is fenced at the server' "$TEST_DIR/client.log"
expect_store ok "$ctl/unfence" blya
run_bounded 10 dd if="$MNT/disk0" of=/dev/null bs=4k count=1 iflag=direct status=none
case_end

case_start "the mount goes with the server"
exec 5<"$path/stats/rdma"
stop_daemon client
stop_daemon server
mountpoint -q "$SYS" && fail "it is still mounted"
exec 5<&-
[[ -d $SYS ]] || fail "the directory is gone"
case_end

case_start "the mount of a server that was killed is taken away"
start killed
kill -KILL "${daemon[killed]}"
wait_until 10 bash -c "! kill -0 ${daemon[killed]}"
ls "$SYS" >/dev/null 2>&1 && fail "it still answers"
start again
expect_names "class" "$SYS"
grep -q "whose server has died" "$TEST_DIR/again.log" || fail "the log does not say so"
stop_daemon again
case_end

case_start "nothing is hidden"
touch "$SYS/precious"
"$RNBD_SERVER" --config "$TEST_DIR/server.yaml" >"$TEST_DIR/refused.log" 2>&1 && fail "it starts"
grep -q precious "$TEST_DIR/refused.log" || fail "$(<"$TEST_DIR/refused.log")"
rm "$SYS/precious"
mount -t tmpfs none "$SYS"
"$RNBD_SERVER" --config "$TEST_DIR/server.yaml" >"$TEST_DIR/refused.log" 2>&1 && fail "it starts"
grep -q "tmpfs" "$TEST_DIR/refused.log" || fail "$(<"$TEST_DIR/refused.log")"
umount "$SYS"
case_end
