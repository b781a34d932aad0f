#!/bin/bash
#
# A loop device on a file of the mount: what file systems and tools of block devices see.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require_loop
require fio mkfs.ext4 e2fsck blkdiscard

readonly MOUNT=$TEST_DIR/mount
readonly DISK=$MOUNT/disk0
readonly SIZE=$((256 << 20))
readonly TREE=/usr/share/doc

detached() { ! losetup "$loop" >/dev/null 2>&1; }
mounted() { grep -q "^mounted$" "$TEST_DIR/$1.log"; }

mkdir "$MOUNT" "$TEST_DIR/ext4"
start_daemon server testing/fuse/null_mount --memory --size=$SIZE "$MOUNT"
on_exit umount --lazy --quiet "$MOUNT"
wait_until 30 mounted server

case_start attaches_with_direct_io
loop=$(losetup --find --show --direct-io=on "$DISK")
on_exit losetup --detach "$loop"
[[ $(cat "/sys/block/$(basename "$loop")/loop/dio") == 1 ]] || fail "no direct I/O"
[[ $(blockdev --getsize64 "$loop") == "$SIZE" ]] || fail "$(blockdev --getsize64 "$loop")"
case_end

case_start fio_verifies_at_depth
run_bounded 60 fio --name=verify --filename="$loop" --direct=1 --rw=randwrite --size=32m --bs=4k \
  --iodepth=32 --ioengine=libaio --verify=crc32c --verify_fatal=1 --output="$TEST_DIR/fio.txt"
case_end

case_start discarded_and_zeroed_ranges_read_as_zeroes
dd if=/dev/urandom of="$loop" bs=1M count=4 oflag=direct status=none
blkdiscard --offset 1048576 --length 1048576 "$loop"
blkdiscard --zeroout --offset 2097152 --length 1048576 "$loop"
cmp <(head -c 2097152 /dev/zero) <(dd if="$loop" bs=1M skip=1 count=2 iflag=direct status=none)
case_end

case_start ext4_holds_a_tree
run_bounded 60 mkfs.ext4 -q -F "$loop"
mount "$loop" "$TEST_DIR/ext4"
on_exit umount --quiet "$TEST_DIR/ext4"
find "$TREE" -type f -size -64k -printf '%P\n' | sed -n 1,500p >"$TEST_DIR/files"
(cd "$TREE" && xargs -d '\n' cp --parents --target-directory "$TEST_DIR/ext4") <"$TEST_DIR/files"
(cd "$TREE" && xargs -d '\n' sha256sum) <"$TEST_DIR/files" >"$TEST_DIR/sums"
run_bounded 60 umount "$TEST_DIR/ext4"
run_bounded 60 e2fsck -fn "$loop"
mount "$loop" "$TEST_DIR/ext4"
(cd "$TEST_DIR/ext4" && sha256sum --quiet --check "$TEST_DIR/sums")
case_end

case_start busy_mount_names_the_loop_device
kill -INT "${daemon[server]}"
wait_until 5 grep -q "loop device $loop is attached to $DISK, mounted at $TEST_DIR/ext4" \
  "$TEST_DIR/server.log"
case_end

case_start everything_comes_apart_in_order
umount "$TEST_DIR/ext4"
losetup --detach "$loop"
wait_until 5 detached
stop_daemon server
case_end
