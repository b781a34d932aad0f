#!/bin/bash
# In a guest with a newer kernel: its client with our server, and WRITE_ZEROES, which older ones do not send.

source testing/shell_test.sh
source testing/guest/guest_lib.sh

start_rxe
load_kernel_client
mkdir "$TEST_DIR/images"
truncate -s 64M "$TEST_DIR/images/disk.img"
cat >"$TEST_DIR/server.yaml" <<YAML
listen: [{rdma: "[::]:1234", required: true}]
sessions: [{name: "*", dev_search_path: $TEST_DIR/images, direct_io: no}]
YAML
start_daemon server rnbd-server --config "$TEST_DIR/server.yaml"
wait_until 20 grep -q "rnbd-server is ready" "$TEST_DIR/server.log"

case_start "map and verify"
map_device newer disk.img 192.168.77.1
[[ $(blockdev --getsize64 "$mapped") == $((64 << 20)) ]] || fail "$mapped has another size"
verify_with_fio "$mapped"
cmp --bytes=$((16 << 20)) "$mapped" "$TEST_DIR/images/disk.img"
case_end

case_start "WRITE_ZEROES"
zeroes=$(<"/sys/block/${mapped#/dev/}/queue/write_zeroes_max_bytes")
((zeroes > 0)) || fail "the client would write zeroes one by one"
dd if=/dev/urandom of="$mapped" bs=1M count=16 oflag=direct status=none
run_bounded 30 blkdiscard --zeroout --offset $((4 << 20)) --length $((8 << 20)) "$mapped"
cmp --bytes=$((8 << 20)) --ignore-initial=$((4 << 20)):0 "$TEST_DIR/images/disk.img" /dev/zero
! cmp --quiet --bytes=$((4 << 20)) "$TEST_DIR/images/disk.img" /dev/zero || fail "zeroes where none were written"
case_end

case_start "discard, flush and unmap"
dd if=/dev/urandom of="$mapped" bs=64k count=16 oflag=direct conv=fsync status=none
blkdiscard --offset $((32 << 20)) --length $((8 << 20)) "$mapped"
unmap_device "$mapped"
wait_until 10 grep -q "session newer: gone" "$TEST_DIR/server.log"
case_end

stop_daemon server
case_start "the kernel has not complained"
check_dmesg
case_end
