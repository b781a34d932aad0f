#!/bin/bash
# A hundred devices in one mount, all at work at once.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
source testing/integration/remote_disk.sh

images=()
for i in $(seq 100); do images+=("disk$i.img"); done
make_images 1M "${images[@]}"
serve_images
map_images hundred "$TEST_DIR/mnt" "${images[@]}"

[[ $(find "$TEST_DIR/mnt" -maxdepth 1 -type f -size 1M | wc -l) == 100 ]] || fail "not a hundred files: $(ls "$TEST_DIR/mnt")"
writers=()
for image in "${images[@]}"; do
  dd if=/dev/urandom of="$TEST_DIR/mnt/$image" bs=64k count=16 conv=notrunc oflag=direct status=none &
  writers+=($!)
done
for writer in "${writers[@]}"; do wait "$writer"; done
for image in "${images[@]}"; do
  cmp "$TEST_DIR/mnt/$image" "$IMAGES/$image"
  ! cmp --quiet "$IMAGES/$image" "$IMAGES/disk1.img" || [[ $image == disk1.img ]] || fail "$image is disk1.img"
done
stop_daemon hundred
[[ $(grep -c "device disk.* closed" "$TEST_DIR/server.log") == 100 ]] || fail "not every device was closed"
