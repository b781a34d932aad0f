#!/bin/bash
# Loop devices that come and go with devices (`loop: auto`): attached with direct I/O, linked, found again,
# resized, and never taken away from somebody who uses them.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require_loop
require mkfs.ext4 resize2fs e2fsck python3
source testing/integration/remote_disk.sh

MNT=$TEST_DIR/mnt
CTL=$MNT/sys/class/rnbd-client/ctl
DATA=$TEST_DIR/data
NAME=test$$
LINK=/dev/rnbd/$NAME
RNBD=${bin}client/rnbd
export RNBD_MOUNTS=$MNT
mkdir "$DATA"
on_exit detach_all

make_images 64M disk.img other.img
serve_images

loops_of() { losetup --noheadings --output NAME,BACK-FILE | awk -v file="$1" '$2 == file { print $1 }'; }
is_unmounted() { ! mountpoint -q "$MNT"; }
is_gone() { [[ -z $(loops_of "$1") && ! -L $2 ]]; }

detach_all() {
  local each
  ! mountpoint -q "$DATA" || umount --lazy "$DATA"
  for each in $(losetup --noheadings --output NAME,BACK-FILE | awk -v mount="$MNT/" 'index($2, mount) == 1 { print $1 }'); do
    losetup --detach "$each"
  done
  find /dev/rnbd -maxdepth 1 -type l -name "*$NAME" -delete 2>/dev/null || true
}

start() {
  local loop=$1
  shift
  start_client client "$MNT" "$@" < <(
    printf 'drain_timeout: 2s\nsessions:\n  - name: blya\n    paths: ["unix:%s"]\n    reconnect: {min: 50ms, max: 200ms}\n' "$SOCKET"
    printf '    devices:\n      - {path: disk.img, name: %s, loop: %s}\n' "$NAME" "$loop"
  )
}

has_size() { [[ $(blockdev --getsize64 "$loop") == "$1" ]]; }

# Mounted, as it is to be; without CAP_SYS_RESOURCE, which ext4 asks for, it is mounted anew.
grow_file_system() {
  local capabilities
  capabilities=$(awk '$1 == "CapEff:" { print $2 }' /proc/self/status)
  if ((16#$capabilities >> 24 & 1)); then
    run_bounded 30 resize2fs "$LINK" >"$TEST_DIR/resize2fs.log" 2>&1 || fail "$(<"$TEST_DIR/resize2fs.log")"
    return
  fi
  umount "$DATA"
  run_bounded 60 e2fsck -fp "$LINK" >"$TEST_DIR/e2fsck.log" 2>&1 || fail "$(<"$TEST_DIR/e2fsck.log")"
  run_bounded 30 resize2fs "$LINK" >"$TEST_DIR/resize2fs.log" 2>&1 || fail "$(<"$TEST_DIR/resize2fs.log")"
  mount "$LINK" "$DATA"
}

wait_for_loop() { wait_until 10 test -b "$LINK"; }

# Runs it, and fails unless it says so and ends with status 1.
refused() {
  local words=$1 status=0
  shift
  "$@" 2>"$TEST_DIR/refused" || status=$?
  ((status == 1)) || fail "$*: status $status"
  grep -q "$words" "$TEST_DIR/refused" || fail "$*: $(<"$TEST_DIR/refused")"
}

case_start "attaches with direct I/O and links"
start auto --no-state
wait_for_loop
loop=$(readlink "$LINK")
[[ $(loops_of "$MNT/$NAME") == "$loop" ]] || fail "$LINK is $loop, attached are $(loops_of "$MNT/$NAME")"
[[ $(losetup --noheadings --output DIO "$loop" | tr -d ' ') == 1 ]] || fail "without direct I/O"
[[ $(blockdev --getss "$loop") == 512 && $(blockdev --getsize64 "$loop") == 67108864 ]] || fail "another size"
[[ $(<"$MNT/sys/block/$NAME/rnbd/loop") == "$loop" ]] || fail "the control tree says $(<"$MNT/sys/block/$NAME/rnbd/loop")"
[[ $("$RNBD" losetup "$NAME") == "$loop" ]] || fail "rnbd losetup attaches another one"
run_bounded 20 mkfs.ext4 -q "$LINK"
mount "$LINK" "$DATA"
echo "what lasts" >"$DATA/file"
case_end

case_start "is not taken from a file system"
refused "use" "$RNBD" unmap "$NAME"
kill -INT "${daemon[client]}"
wait_until 10 grep -q "SIGTERM ends anyway" "$TEST_DIR/client.log"
sync "$DATA/file"
[[ $(loops_of "$MNT/$NAME") == "$loop" ]] || fail "it has gone"
case_end

case_start "is found again by the next process"
kill_serving client
echo "and goes on" >>"$DATA/file"
sync "$DATA/file"
wait_until 10 grep -qx "$loop" "$MNT/sys/block/$NAME/rnbd/loop"
[[ $(loops_of "$MNT/$NAME") == "$loop" ]] || fail "attached are $(loops_of "$MNT/$NAME")"
case_end

case_start "follows the size of the device"
echo 65536 >"$MNT/sys/block/$NAME/rnbd/resize"
wait_until 10 has_size 33554432
case_end

case_start "grows under a file system that is mounted"
echo 131072 >"$MNT/sys/block/$NAME/rnbd/resize" # as it is at the server
wait_until 10 has_size 67108864
truncate -s 96M "$IMAGES/disk.img"
wait_until 10 has_size 100663296
[[ $(stat -c %s "$MNT/$NAME") == 100663296 ]] || fail "the file has $(stat -c %s "$MNT/$NAME") bytes"
grep -q "device disk.img has grown from 67108864 to 100663296 bytes" "$TEST_DIR/server.log" || fail "the log does not say so"
grow_file_system
dd if=/dev/zero of="$DATA/filler" bs=1M count=70 conv=fsync status=none || fail "there is no room"
kill_serving client
wait_until 10 grep -qx "$loop" "$MNT/sys/block/$NAME/rnbd/loop"
has_size 100663296 || fail "the next process shows $(blockdev --getsize64 "$loop") bytes"
case_end

case_start "ignores a disk that shrinks"
umount "$DATA"
truncate -s 32M "$IMAGES/other.img"
run_bounded 20 "$RNBD" map other.img from blya as "other$NAME"
truncate -s 16M "$IMAGES/other.img"
wait_until 10 grep -q "the disk of device other.img has shrunk to 16777216 bytes; the device keeps its 33554432" "$TEST_DIR/server.log"
[[ $(stat -c %s "$MNT/other$NAME") == 33554432 ]] || fail "the file has $(stat -c %s "$MNT/other$NAME") bytes"
run_bounded 20 "$RNBD" unmap "other$NAME"
truncate -s 64M "$IMAGES/other.img"
run_bounded 60 e2fsck -fn "$LINK" >"$TEST_DIR/e2fsck.log" 2>&1 || fail "$(<"$TEST_DIR/e2fsck.log")"
case_end

case_start "detaches with the device"
run_bounded 20 "$RNBD" unmap "$NAME"
is_gone "$MNT/$NAME" "$LINK" || fail "attached are $(loops_of "$MNT/$NAME")"
[[ ! -e $MNT/$NAME ]] || fail "the file is there"
case_end

case_start "comes with a device that is mapped at run time"
run_bounded 20 "$RNBD" map disk.img from blya as "$NAME" loop
[[ -b $LINK ]] || fail "no $LINK when it is mapped"
loop=$(readlink "$LINK")
mount "$LINK" "$DATA"
[[ $(<"$DATA/file") == $'what lasts\nand goes on' ]] || fail "$(<"$DATA/file")"
umount "$DATA"
run_bounded 20 "$RNBD" remap "$NAME" force
wait_for_loop
case_end

case_start "is gone at the end"
stop_daemon client 15
is_gone "$MNT/$NAME" "$LINK" || fail "attached are $(loops_of "$MNT/$NAME")"
[[ ! -e $MNT/sys ]] || fail "still mounted"
case_end

case_start "is found again by the next program"
start auto --state "$TEST_DIR/state"
wait_for_loop
loop=$(readlink "$LINK")
run_bounded 60 "$RNBD_FUSE" --upgrade "$MNT"
wait_until 10 grep -qx "$loop" "$MNT/sys/block/$NAME/rnbd/loop"
echo "sessname=blya device_path=other.img name=other$NAME loop=auto" >"$CTL/map_device"
[[ -b /dev/rnbd/other$NAME ]] || fail "no /dev/rnbd/other$NAME"
stop_daemon client 15
start auto --state "$TEST_DIR/state"
wait_until 10 test -b "/dev/rnbd/other$NAME"
stop_daemon client 15
case_end

case_start "does not hang with its server"
start auto --no-state
wait_for_loop
echo "written before the server went" | dd of="$LINK" bs=512 seek=64 conv=sync,notrunc status=none
stop_daemon server
printf 'not yet at the server' | dd of="$LINK" bs=512 seek=65 conv=sync,notrunc status=none oflag=nonblock &
writer=$!
sleep 0.5
refused "" run_bounded 20 "$RNBD" unmap "$NAME"
run_bounded 5 stat "$MNT/$NAME" "$MNT/sys/block/$NAME/rnbd/loop" >/dev/null
kill_serving client
run_bounded 5 cat "$MNT/sys/block/$NAME/rnbd/state" >/dev/null
serve_images
wait "$writer"
wait_until 20 grep -qx "$(readlink "$LINK")" "$MNT/sys/block/$NAME/rnbd/loop"
sync "$LINK"
run_bounded 10 cmp -n 21 -i 33280:0 "$IMAGES/disk.img" <(printf 'not yet at the server')
stop_daemon client 15
is_gone "$MNT/$NAME" "$LINK" || fail "attached are $(loops_of "$MNT/$NAME")"
case_end

case_start "goes with its last user where the mount is taken away"
start auto --no-state
wait_for_loop
mount "$LINK" "$DATA"
kill -TERM "${daemon[client]}"
wait_until 20 is_unmounted
wait "${daemon[client]}" || true
unset "daemon[client]"
[[ ! -L $LINK ]] || fail "$LINK is there"
umount --lazy "$DATA"
wait_until 20 is_gone "/$NAME" "$LINK"
case_end

case_start "says which device is slow, once"
start no --no-state
loop=$(losetup --find --show "$MNT/$NAME")
wait_until 10 grep -q "$loop is attached to $MNT/$NAME without direct I/O" "$TEST_DIR/client.log"
cat "$MNT/$NAME" >/dev/null
sleep 5
[[ $(grep -c "without direct I/O" "$TEST_DIR/client.log") == 1 ]] || fail "it says so again"
refused "use" "$RNBD" unmap "$NAME"
losetup --detach "$loop"
fast=$("$RNBD" losetup "$NAME")
[[ $(losetup --noheadings --output DIO "$fast" | tr -d ' ') == 1 ]] || fail "without direct I/O"
losetup --detach "$fast"
stop_daemon client 15
case_end
