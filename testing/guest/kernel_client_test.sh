#!/bin/bash
# In a guest: the kernel's client with our server.

source testing/shell_test.sh
source testing/guest/guest_lib.sh

start_rxe
load_kernel_client
modprobe brd rd_nr=2 rd_size=327680  # KiB: what xfs takes at least; allocated when written
mkdir "$TEST_DIR/images"
truncate -s 64M "$TEST_DIR/images/disk.img"

cat >"$TEST_DIR/server.yaml" <<YAML
listen:
  - rdma: "[::]:1234"
    required: true
sessions:
  - name: "image"
    dev_search_path: $TEST_DIR/images
    direct_io: no
  - name: "kernel*"
    dev_search_path: /dev
    devices: ["ram*"]
  - name: "reader"
    dev_search_path: /dev
    access: [ro]
YAML
start_daemon server rnbd-server --config "$TEST_DIR/server.yaml"
wait_until 20 grep -q "rnbd-server is ready" "$TEST_DIR/server.log"

gone() { wait_until 10 test ! -e "/sys/block/${1#/dev/}"; }

# The errno that map_device gives.
refused() {
  local name=$1 output
  shift
  output=$(map_device "$@" 2>&1) && fail "mapped: $*"
  [[ $output == *"$name"* ]] || fail "not '$name' from: $* ($output)"
}

case_start "rw: map, size, verify at depth 16, unmap"
map_device kernel1 ram0 192.168.77.1
[[ $(blockdev --getsize64 "$mapped") == $((320 << 20)) ]] || fail "$mapped has another size"
verify_with_fio "$mapped"
cmp --bytes=$((16 << 20)) "$mapped" /dev/ram0
unmap_device "$mapped"
gone "$mapped"
wait_until 10 grep -q "session kernel1: gone" "$TEST_DIR/server.log"
case_end

case_start "sizes from 512 B to 512 KiB, depths 1 and 32, several jobs"
map_device kernel1 ram0 192.168.77.1
verify_with_fio "$mapped" --bsrange=512-512k --iodepth=32
verify_with_fio "$mapped" --bs=4k --iodepth=1 --size=2M
verify_with_fio "$mapped" --numjobs=3 --size=8M --offset_increment=16M --iodepth=8
case_end

case_start "flush, FUA and discard"
dd if=/dev/urandom of="$TEST_DIR/data" bs=1M count=1 status=none
dd if="$TEST_DIR/data" of="$mapped" bs=64k oflag=direct,dsync status=none
cmp --bytes=1048576 "$TEST_DIR/data" /dev/ram0
dd if="$TEST_DIR/data" of="$mapped" bs=4k seek=512 conv=fsync status=none
cmp --bytes=1048576 --ignore-initial=0:2097152 "$TEST_DIR/data" /dev/ram0
unmap_device "$mapped"
gone "$mapped"
map_device image disk.img 192.168.77.1
dd if=/dev/urandom of="$mapped" bs=1M count=32 oflag=direct status=none
sync "$TEST_DIR/images/disk.img"
full=$(du -k "$TEST_DIR/images/disk.img" | cut -f1)
blkdiscard --offset $((4 << 20)) --length $((16 << 20)) "$mapped"
kib=$(du -k "$TEST_DIR/images/disk.img" | cut -f1)
((kib <= full - 16000)) || fail "$kib KiB of $full are allocated behind the discard"
cmp --bytes=$((16 << 20)) --ignore-initial=$((4 << 20)):0 "$mapped" /dev/zero
unmap_device "$mapped"
gone "$mapped"
case_end

case_start "ext4 and xfs"
mkdir "$TEST_DIR/mnt"
on_exit _leave_mount
_leave_mount() { ! mountpoint -q "$TEST_DIR/mnt" || umount --lazy "$TEST_DIR/mnt"; }
for type in ext4 xfs; do
  map_device kernel1 ram0 192.168.77.1
  case $type in
    # With small blocks, requests of 512 KiB begin within a page.
    ext4) run_bounded 60 mkfs.ext4 -q -F -b 1024 "$mapped" ;;
    xfs) run_bounded 60 mkfs.xfs -q -f "$mapped" ;;
  esac
  mount -t "$type" "$mapped" "$TEST_DIR/mnt"
  cp -a /usr/bin "$TEST_DIR/mnt/bin"
  (cd /usr/bin && find . -type f -exec sha256sum {} +) | sort >"$TEST_DIR/before"
  umount "$TEST_DIR/mnt"
  mount -t "$type" "$mapped" "$TEST_DIR/mnt"
  (cd "$TEST_DIR/mnt/bin" && find . -type f -exec sha256sum {} +) | sort >"$TEST_DIR/after"
  cmp "$TEST_DIR/before" "$TEST_DIR/after"
  umount "$TEST_DIR/mnt"
  unmap_device "$mapped"
  gone "$mapped"
done
case_end

case_start "access modes and sharing"
map_device reader ram1 192.168.77.1 access_mode=ro
reader=$mapped
[[ $(blockdev --getro "$reader") == 1 ]] || fail "a ro device can be written to"
map_device kernel1 ram1 192.168.77.1 access_mode=rw
writer=$mapped
refused "Operation not permitted" kernel2 ram1 192.168.77.1 access_mode=rw
map_device kernel2 ram1 192.168.77.1 access_mode=migration
unmap_device "$mapped"
gone "$mapped"
unmap_device "$writer"
unmap_device "$reader"
gone "$writer"
gone "$reader"
case_end

case_start "refusals have the errno of the protocol"
refused "No such file or directory" kernel1 ram7 192.168.77.1
refused "Permission denied" kernel1 null 192.168.77.1
refused "Permission denied" reader ram1 192.168.77.1 access_mode=rw
refused "Connection reset by peer" stranger ram0 192.168.77.1
case_end

map_and_unmap() {
  local i
  for ((i = 0; i < $1; ++i)); do
    map_device "kernel$((i % 3))" ram0 192.168.77.1 >/dev/null
    dd if="$mapped" of=/dev/null bs=64k count=4 iflag=direct status=none
    unmap_device "$mapped"
    gone "$mapped" >/dev/null
  done
}
# What the guest's kernel has in caches that only grow by leaks, in KiB.
unreclaimable() {
  sync
  echo 3 >/proc/sys/vm/drop_caches
  awk '$1 == "SUnreclaim:" { print $2 }' /proc/meminfo
}
resident() { awk '$1 == "VmRSS:" { print $2 }' "/proc/${daemon[server]}/status"; }

case_start "fifty times mapped and unmapped"
map_and_unmap 5  # Everything has its caches filled.
files=$(find "/proc/${daemon[server]}/fd" | wc -l)
slab=$(unreclaimable)
memory=$(resident)
map_and_unmap 50
_all_gone() { (($(find "/proc/${daemon[server]}/fd" | wc -l) <= files)); }
wait_until 10 _all_gone
[[ $(rdma resource show mr | grep -c "pid ${daemon[server]}" || true) == 0 ]] ||
  fail "memory regions are left: $(rdma resource show mr)"
# One mapping has 512 KiB of chunks in the server, and requests of as much in the kernel.
slab=$(($(unreclaimable) - slab))
memory=$(($(resident) - memory))
log "the kernel's slab has grown by $slab KiB, the server by $memory KiB"
((slab < 50 * 100 && memory < 50 * 100)) || fail "memory is left behind"
case_end

case_start "the server is killed and comes back under the client"
map_device kernel1 ram0 192.168.77.1
kill -KILL "${daemon[server]}"
wait "${daemon[server]}" 2>/dev/null || true
start_daemon server rnbd-server --config "$TEST_DIR/server.yaml"
wait_until 20 grep -q "rnbd-server is ready" "$TEST_DIR/server.log"
is_open() { [[ $(<"/sys/block/${mapped#/dev/}/rnbd/state") == open ]]; }
wait_until 100 is_open
verify_with_fio "$mapped" --size=4M
unmap_device "$mapped"
gone "$mapped"
case_end

stop_daemon server

case_start "always_invalidate"
echo "always_invalidate: yes" >>"$TEST_DIR/server.yaml"
start_daemon server rnbd-server --config "$TEST_DIR/server.yaml"
wait_until 20 grep -q "rnbd-server is ready" "$TEST_DIR/server.log"
map_device kernel1 ram0 192.168.77.1
verify_with_fio "$mapped" --bsrange=512-512k --iodepth=16
unmap_device "$mapped"
gone "$mapped"
stop_daemon server
case_end

case_start "the kernel has not complained"
check_dmesg
case_end
