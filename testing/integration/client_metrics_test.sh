#!/bin/bash
# The metrics of a mount over HTTP: that they count what is done and what is held, and stay at their port
# whichever process serves the mount.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require pgrep python3
source testing/integration/remote_disk.sh

MNT=$TEST_DIR/mnt
make_images 16M disk.img other.img
serve_images
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

# The value of a metric, or nothing.
value() {
  exec 6<>"/dev/tcp/127.0.0.1/$port" || return
  printf 'GET /metrics HTTP/1.0\r\n\r\n' >&6
  awk -v name="$1" '{ value = $NF; sub(/ [^ ]*$/, ""); if ($0 == name) print value }' <&6
  exec 6<&-
}
is() { [[ $(value "$2" 2>/dev/null) == "$1" ]]; }
held_seconds() { value 'rnbd_client_held_seconds_total{device="disk"}'; }
expect_value() { is "$@" || fail "$2 is '$(value "$2")' instead of '$1'"; }

start_client client "$MNT" <<YAML
metrics: 127.0.0.1:$port
sessions:
  - name: blya
    paths: ["unix:$SOCKET"]
    reconnect: {min: 50ms, max: 200ms}
    devices:
      - path: disk.img
        name: disk
YAML
connected="rnbd_client_path_connected{session=\"blya\",path=\"unix:$SOCKET\"}"

case_start "what is done is counted"
reads=$(value 'rnbd_client_request_seconds_count{operation="read"}')
dd if="$MNT/disk" of=/dev/null bs=64k count=10 iflag=direct status=none
dd if=/dev/zero of="$MNT/disk" bs=64k count=5 oflag=direct conv=notrunc,fsync status=none
expect_value $((reads + 10)) 'rnbd_client_request_seconds_count{operation="read"}'
expect_value 5 'rnbd_client_request_seconds_count{operation="write"}'
expect_value 327680 'rnbd_client_request_bytes_total{operation="write"}'
expect_value 327680 'rnbd_client_device_bytes_total{device="disk",operation="write"}'
expect_value 1 'rnbd_client_device_open{device="disk"}'
expect_value 1 "$connected"
expect_value 0 rnbd_client_requests_in_flight
((reads + 15 <= $(value 'rnbd_client_phase_seconds_count{phase="server"}'))) || fail "what was sent is not counted"
dd if=/dev/zero of="$MNT/disk" bs=512 seek=32768 count=1 oflag=direct conv=notrunc status=none 2>/dev/null && fail "wrote behind the end"
expect_value 1 'rnbd_client_request_errors_total{errno="ENOSPC"}'
case_end

case_start "what is held is counted"
stop_daemon server
wait_until 10 is 0 "$connected"
expect_value 0 'rnbd_client_device_open{device="disk"}'
dd if="$MNT/disk" of=/dev/null bs=4k count=1 iflag=direct status=none &
reader=$!
wait_until 10 is 1 'rnbd_client_requests_held{device="disk"}'
expect_value 1 rnbd_client_requests_in_flight
[[ $(held_seconds) == 0.000* ]] || fail "it was held for $(held_seconds) s before it was over"
serve_images
wait "$reader" || fail "what was held has failed"
expect_value 0 'rnbd_client_requests_held{device="disk"}'
expect_value 1 'rnbd_client_holds_total{device="disk"}'
[[ $(held_seconds) != 0.000* ]] || fail "it was held for no time"
expect_value 1 "rnbd_client_reconnects_total{session=\"blya\",path=\"unix:$SOCKET\"}"
case_end

case_start "the next process has the port"
expect_value 0 rnbd_client_takeovers_total
kill_serving client
wait_until 10 is 1 rnbd_client_takeovers_total
run_bounded 20 "$RNBD_FUSE" --upgrade "$MNT"
wait_until 10 is 2 rnbd_client_takeovers_total
dd if="$MNT/disk" of=/dev/null bs=64k count=1 iflag=direct status=none
expect_value 65536 'rnbd_client_request_bytes_total{operation="read"}'
case_end

case_start "a mount that cannot have its port is none"
sed "s/name: blya/name: other/; s/disk.img/other.img/" "$TEST_DIR/client.yaml" >"$TEST_DIR/second.yaml"
mkdir "$TEST_DIR/mnt2"
run_bounded 20 "$RNBD_FUSE" "$TEST_DIR/mnt2" --foreground --no-state --config "$TEST_DIR/second.yaml" \
  2>"$TEST_DIR/second.log" && fail "it starts"
grep -q "Address already in use" "$TEST_DIR/second.log" || fail "$(<"$TEST_DIR/second.log")"
! mountpoint -q "$TEST_DIR/mnt2" || fail "it has mounted"
case_end

stop_daemon client
stop_daemon server
