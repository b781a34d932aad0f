#!/bin/bash
# In a guest: our client with the kernel's server, whatever that one is set to, and with our own over RDMA.
#
# Usage: own_client_test.sh rxe|siw   over soft iWARP with our own server only: the kernel's cannot use it

source testing/shell_test.sh
source testing/guest/guest_lib.sh

readonly DRIVER=$1
LISTEN=0.0.0.0
[[ $DRIVER == siw ]] || LISTEN="[::]"
"start_$DRIVER"
modprobe -a brd loop fuse ext4
modprobe -r brd
modprobe brd rd_nr=1 rd_size=65536
mkdir "$TEST_DIR/mnt" "$TEST_DIR/disk"
loop=
_leave_mounts() {
  local mount
  for mount in "$TEST_DIR/disk" "$TEST_DIR/mnt"; do
    ! mountpoint -q "$mount" || umount --lazy "$mount"
    [[ $mount != "$TEST_DIR/disk" || -z $loop ]] || losetup --detach "$loop"
  done
}
on_exit _leave_mounts

# start_client DEVICE_PATH
start_client() {
  cat >"$TEST_DIR/client.yaml" <<YAML
sessions:
  - name: ours
    paths: ["ip:192.168.77.1"]
    heartbeat: {timeout: 30s}
    devices:
      - path: $1
        name: disk
YAML
  start_daemon client rnbd-fuse "$TEST_DIR/mnt" --config "$TEST_DIR/client.yaml" --foreground
  wait_until 60 test -e "$TEST_DIR/mnt/disk"
}

use_disk() {
  local file=$TEST_DIR/mnt/disk
  [[ $(stat -c %s "$file") == $((64 << 20)) ]] || fail "$file has another size"
  verify_with_fio "$file" --bsrange=512-1m --size=8M --iodepth=16
  dd if=/dev/urandom of="$TEST_DIR/data" bs=1M count=2 status=none
  dd if="$TEST_DIR/data" of="$file" bs=1M conv=notrunc,fsync oflag=direct status=none
  cmp --bytes=2097152 "$TEST_DIR/data" "$file"
  blockdev --flushbufs /dev/ram0
  cmp --bytes=2097152 "$TEST_DIR/data" /dev/ram0
}

use_file_system() {
  loop=$(losetup --find --show --direct-io=on "$TEST_DIR/mnt/disk")
  run_bounded 60 mkfs.ext4 -q -F "$loop"
  mount "$loop" "$TEST_DIR/disk"
  cp -a /usr/bin "$TEST_DIR/disk/bin"
  (cd /usr/bin && find . -type f -exec sha256sum {} +) | sort >"$TEST_DIR/before"
  umount "$TEST_DIR/disk"
  blockdev --flushbufs "$loop"
  mount "$loop" "$TEST_DIR/disk"
  (cd "$TEST_DIR/disk/bin" && find . -type f -exec sha256sum {} +) | sort >"$TEST_DIR/after"
  cmp "$TEST_DIR/before" "$TEST_DIR/after"
  umount "$TEST_DIR/disk"
  losetup --detach "$loop"
  loop=
}

use_kernel_server() {
  # shellcheck disable=SC2086  # Several parameters.
  load_kernel_server $1
  start_client dev/ram0
  use_disk
  [[ $1 != *N*512* ]] || use_file_system
  stop_daemon client 10
  wait_until 20 modprobe -r rnbd_server
  wait_until 20 modprobe -r rtrs_server
}

kernel_settings=("always_invalidate=Y sess_queue_depth=512 max_chunk_size=131072"
  "always_invalidate=N sess_queue_depth=512 max_chunk_size=131072"
  "always_invalidate=Y sess_queue_depth=16 max_chunk_size=65536"
  "always_invalidate=N sess_queue_depth=16 max_chunk_size=65536")
[[ $DRIVER == rxe ]] || kernel_settings=()
for settings in "${kernel_settings[@]}"; do
  case_start "kernel server, $settings"
  use_kernel_server "$settings"
  case_end
done

case_start "our server, requests of 1 MiB"
cat >"$TEST_DIR/server.yaml" <<YAML
listen: [{rdma: "$LISTEN:1234", required: true}]
sessions: [{name: "*", dev_search_path: /dev, devices: [ram0]}]
YAML
start_daemon server rnbd-server --config "$TEST_DIR/server.yaml"
wait_until 20 grep -q "rnbd-server is ready" "$TEST_DIR/server.log"
start_client ram0
use_disk
verify_with_fio "$TEST_DIR/mnt/disk" --bs=1m --size=16M --iodepth=4
use_file_system
case_end

case_start "refused by our server"
status=0
sed 's/path: ram0/path: null/' "$TEST_DIR/client.yaml" >"$TEST_DIR/other.yaml"
sed -i 's/name: ours/name: other/' "$TEST_DIR/other.yaml"
mkdir "$TEST_DIR/other"
timeout 40 rnbd-fuse "$TEST_DIR/other" --config "$TEST_DIR/other.yaml" >"$TEST_DIR/output" 2>&1 || status=$?
((status == 1)) || fail "status $status: $(cat "$TEST_DIR/output")"
grep -q "Permission denied" "$TEST_DIR/output" || fail "$(cat "$TEST_DIR/output")"
case_end

if [[ $DRIVER == siw ]]; then
  case_start "the kernel's client is refused in words"
  load_kernel_client
  ! map_device kernel ram0 192.168.77.1 || fail "the kernel's client has mapped a device over iWARP"
  grep -q "cannot do without immediates" "$TEST_DIR/server.log" || fail "the server did not say why"
  case_end
fi
stop_daemon client 10
stop_daemon server

echo "always_invalidate: yes" >>"$TEST_DIR/server.yaml"
start_daemon server rnbd-server --config "$TEST_DIR/server.yaml"
wait_until 20 grep -q "rnbd-server is ready" "$TEST_DIR/server.log"
if [[ $DRIVER == rxe ]]; then
  case_start "our server, always_invalidate"
  start_client ram0
  use_disk
  stop_daemon client 10
else
  case_start "always_invalidate is refused where there are no memory windows"
  status=0
  timeout 40 rnbd-fuse "$TEST_DIR/mnt" --config "$TEST_DIR/client.yaml" >"$TEST_DIR/output" 2>&1 || status=$?
  ((status == 1)) || fail "status $status: $(cat "$TEST_DIR/output")"
  grep -q "siw_dummy0 has no memory windows" "$TEST_DIR/server.log" || fail "the server did not say why"
fi
case_end
stop_daemon server

case_start "no server is said at once"
status=0
timeout 40 rnbd-fuse "$TEST_DIR/mnt" --config "$TEST_DIR/client.yaml" >"$TEST_DIR/output" 2>&1 || status=$?
((status == 1)) || fail "status $status: $(cat "$TEST_DIR/output")"
grep -q "Connection refused" "$TEST_DIR/output" || fail "$(cat "$TEST_DIR/output")"
case_end

case_start "the kernel has not complained"
check_dmesg
case_end
