#!/bin/bash
# File systems on a loop device on a remote disk: under a load of many small operations, with a check from
# the server's side and a comparison of every file.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require_loop
require mkfs.ext4 mkfs.xfs e2fsck xfs_repair fio
source testing/integration/remote_disk.sh

# Creates, renames, truncates, links and removes files from several processes at once.
churn() {
  local directory=$1 seed=$2 i name
  mkdir "$directory"
  for ((i = 0; i < 300; ++i)); do
    name=$directory/$(((i * seed) % 97))
    case $(((i * seed + i / 7) % 6)) in
      0 | 1) head -c $(((i * 977) % 60000)) /dev/zero | tr '\0' "$((seed % 10))" >"$name" ;;
      2) truncate -s $(((i * 389) % 90000)) "$name" ;;
      3) if [[ -e $name ]]; then mv "$name" "$name.moved"; fi ;;
      4) if [[ -e $name ]]; then ln -f "$name" "$name.link"; fi ;;
      5) rm -f "$name.moved" "$name.link" ;;
    esac
    ((i % 50 != 0)) || sync "$directory"
  done
}

checksums() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum); }

make_images 600M disk.img
serve_images
map_images files "$TEST_DIR/mnt" disk.img
mkdir "$TEST_DIR/disk"
on_exit _leave_mount "$TEST_DIR/disk"

for type in ext4 xfs; do
  case_start "$type"
  attach "$TEST_DIR/mnt/disk.img"
  case $type in
    ext4) run_bounded 60 mkfs.ext4 -q -F "$loop" ;;
    xfs) run_bounded 60 mkfs.xfs -q -f "$loop" ;;
  esac
  mount "$loop" "$TEST_DIR/disk"
  pids=()
  for seed in 3 5 11 13; do
    churn "$TEST_DIR/disk/churn-$seed" "$seed" &
    pids+=($!)
  done
  run_bounded 60 fio --name=files --directory="$TEST_DIR/disk" --nrfiles=200 --filesize=4k-64k --size=8m \
    --rw=randwrite --bs=4k --fsync_on_close=1 --numjobs=2 --output="$TEST_DIR/fio.log"
  for pid in "${pids[@]}"; do wait "$pid"; done
  checksums "$TEST_DIR/disk" >"$TEST_DIR/before"
  (($(wc -l <"$TEST_DIR/before") > 400)) || fail "only $(wc -l <"$TEST_DIR/before") files to compare"
  umount "$TEST_DIR/disk"
  detach

  case $type in
    ext4) run_bounded 60 e2fsck -fn "$IMAGES/disk.img" ;;
    xfs) run_bounded 60 xfs_repair -n -f "$IMAGES/disk.img" ;;
  esac
  attach "$TEST_DIR/mnt/disk.img"
  mount "$loop" "$TEST_DIR/disk"
  checksums "$TEST_DIR/disk" >"$TEST_DIR/after"
  cmp "$TEST_DIR/before" "$TEST_DIR/after"
  umount "$TEST_DIR/disk"
  detach
  case_end
done
stop_daemon files
