#!/bin/bash
# What fio writes comes back as it was: through the mounted file and through a loop device, over TCP and
# Unix sockets, with and without checksums of the payload.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require_loop
require fio
source testing/integration/remote_disk.sh

verify() {
  run_bounded 100 fio --name=verify --filename="$1" --rw=randwrite --bsrange=4k-256k --size=96m \
    --ioengine=libaio --iodepth=32 --direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1 \
    --numjobs=1 --group_reporting --output="$TEST_DIR/fio.log"
}

make_images 128M disk.img
start_server server <<YAML
listen:
  - tcp: "127.0.0.1:0"
  - tcp: "[::1]:0"
    required: false
  - unix: $SOCKET
sessions:
  - name: "*"
    dev_search_path: $IMAGES
YAML
# The port is the system's choice: any other may be taken.
tcp=$(grep -o -m1 'tcp:127\.0\.0\.1:[0-9]*' "$TEST_DIR/server.log")

for path in "$tcp" "unix:$SOCKET"; do
  for checksum in no yes; do
    case_start "${path%%:*}, payload_checksum $checksum"
    start_client client "$TEST_DIR/mnt" <<YAML
payload_checksum: $checksum
sessions:
  - name: verify
    paths: ["$path"]
    devices:
      - path: disk.img
YAML
    verify "$TEST_DIR/mnt/disk.img"
    stop_daemon client
    case_end
  done
done

case_start "through loop"
map_images loop "$TEST_DIR/mnt" disk.img
attach "$TEST_DIR/mnt/disk.img"
verify "$loop"
detach
stop_daemon loop
case_end

case_start "several sizes and jobs at once"
map_images jobs "$TEST_DIR/mnt" disk.img
run_bounded 100 fio --filename="$TEST_DIR/mnt/disk.img" --ioengine=libaio --direct=1 --verify=crc32c \
  --verify_fatal=1 --do_verify=1 --output="$TEST_DIR/fio.log" \
  --name=small --rw=randwrite --bs=512 --iodepth=32 --size=4m --offset=0 \
  --name=large --rw=randwrite --bs=1m --iodepth=4 --size=32m --offset=32m \
  --name=mixed --rw=randrw --bs=4k --iodepth=16 --size=16m --offset=64m
stop_daemon jobs
case_end
