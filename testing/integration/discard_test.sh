#!/bin/bash
# Space given back on the client is given back on the server: blkdiscard, fstrim and fallocate free blocks of
# the image, and what was freed reads as zeroes.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require_loop
require blkdiscard fallocate fstrim mkfs.ext4
source testing/integration/remote_disk.sh

zeroes_only() { cmp --bytes="$2" --ignore-initial="$3:0" "$1" /dev/zero; }

make_images 64M disk.img
fallocate --punch-hole --offset 0 --length 4096 "$IMAGES/disk.img" 2>/dev/null ||
  skip "the file system of $TEST_DIR cannot punch holes"
serve_images
map_images discard "$TEST_DIR/mnt" disk.img
file=$TEST_DIR/mnt/disk.img

fill() {
  dd if=/dev/urandom of="$file" bs=1M count=64 conv=notrunc,fsync oflag=direct status=none
  (($(allocated_kib "$IMAGES/disk.img") >= 60000)) || fail "the image is not full to begin with"
}

case_start "fallocate --punch-hole"
fill
run_bounded 30 fallocate --punch-hole --offset $((8 << 20)) --length $((32 << 20)) "$file"
kib=$(allocated_kib "$IMAGES/disk.img")
((kib < 36000)) || fail "$kib KiB are still allocated"
zeroes_only "$file" $((32 << 20)) $((8 << 20))
case_end

case_start "fallocate --zero-range"
fill
run_bounded 30 fallocate --zero-range --offset $((4 << 20)) --length $((8 << 20)) "$file"
zeroes_only "$file" $((8 << 20)) $((4 << 20))
case_end

case_start "fallocate of odd bytes"
fill
dd if="$file" of="$TEST_DIR/expected" bs=1M status=none
dd if=/dev/zero of="$TEST_DIR/expected" bs=1 seek=1000 count=5001 conv=notrunc status=none
run_bounded 30 fallocate --punch-hole --offset 1000 --length 5001 "$file"
cmp "$file" "$TEST_DIR/expected"
case_end

case_start "blkdiscard through loop"
fill
attach "$file"
run_bounded 30 blkdiscard --offset $((16 << 20)) --length $((40 << 20)) "$loop"
kib=$(allocated_kib "$IMAGES/disk.img")
((kib < 28000)) || fail "$kib KiB are still allocated"
run_bounded 30 blkdiscard --zeroout --offset 0 --length $((16 << 20)) "$loop"
zeroes_only "$file" $((16 << 20)) 0
detach
case_end

case_start "fstrim of a file system"
attach "$file"
run_bounded 30 mkfs.ext4 -q -F "$loop"
mkdir "$TEST_DIR/disk"
on_exit _leave_mount "$TEST_DIR/disk"
mount "$loop" "$TEST_DIR/disk"
dd if=/dev/urandom of="$TEST_DIR/disk/file" bs=1M count=30 conv=fsync status=none
full=$(allocated_kib "$IMAGES/disk.img")
rm "$TEST_DIR/disk/file"
sync
run_bounded 30 fstrim "$TEST_DIR/disk"
kib=$(allocated_kib "$IMAGES/disk.img")
((kib < full - 25000)) || fail "$kib KiB of $full are still allocated"
umount "$TEST_DIR/disk"
detach
case_end
stop_daemon discard
