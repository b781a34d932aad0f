#!/bin/bash
# The server's metrics over HTTP: that they are there, and count what is done.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require python3
source testing/integration/remote_disk.sh

MNT=$TEST_DIR/mnt
ADMIN=$_sockets/admin.sock

make_images 16M disk.img
start_server server <<YAML
listen:
  - unix: $SOCKET
admin_socket: $ADMIN
metrics: 127.0.0.1:0
sessions:
  - name: "blya"
    dev_search_path: $IMAGES
YAML
port=$(sed -n 's|.*http://127.0.0.1:\([0-9]*\)/metrics|\1|p' "$TEST_DIR/server.log")

# The value of a metric, or nothing.
value() {
  exec 6<>"/dev/tcp/127.0.0.1/$port"
  printf 'GET /metrics HTTP/1.0\r\n\r\n' >&6
  awk -v name="$1" '{ value = $NF; sub(/ [^ ]*$/, ""); if ($0 == name) print value }' <&6
  exec 6<&-
}

expect_value() {
  local expected=$1 found
  found=$(value "$2")
  [[ $found == "$expected" ]] || fail "$2 is '$found' instead of '$expected'"
}

case_start "a server without sessions"
expect_value 0 rnbd_server_sessions
expect_value 0 'rnbd_server_request_seconds_count{operation="read"}'
(($(value process_resident_memory_bytes) > 1048576)) || fail "it has no memory"
case_end

case_start "what a client does is counted"
map_images blya "$MNT" disk.img
expect_value 1 rnbd_server_sessions
expect_value 1 rnbd_server_paths
expect_value 1 rnbd_server_devices_open
reads=$(value 'rnbd_server_request_seconds_count{operation="read"}')
dd if="$MNT/disk.img" of=/dev/null bs=64k count=10 iflag=direct status=none
dd if=/dev/zero of="$MNT/disk.img" bs=64k count=5 oflag=direct conv=notrunc,fsync status=none
expect_value $((reads + 10)) 'rnbd_server_request_seconds_count{operation="read"}'
expect_value $((reads + 10)) 'rnbd_server_request_seconds_bucket{operation="read",le="+Inf"}'
expect_value 5 'rnbd_server_request_seconds_count{operation="write"}'
expect_value 327680 'rnbd_server_request_bytes_total{operation="write"}'
(($(value 'rnbd_server_request_seconds_count{operation="flush"}') > 0)) || fail "no FLUSH was counted"
expect_value 0 rnbd_server_requests_at_work
expect_value "" 'rnbd_server_request_errors_total{errno="ENOTCONN"}'
device='session="blya",device="disk.img"'
expect_value 5 "rnbd_server_device_requests_total{$device,operation=\"write\"}"
expect_value 327680 "rnbd_server_device_bytes_total{$device,operation=\"write\"}"
expect_value 0 "rnbd_server_device_requests_waiting{$device}"
expect_value 1 'rnbd_server_session_paths{session="blya"}'
case_end

case_start "what is refused is counted"
python3 - "$SOCKET" <<'PYTHON'
import socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
peer.send(b"x" * 4096)
PYTHON
printf 'sessions:\n  - name: stranger\n    paths: ["unix:%s"]\n    connect_timeout: 1s\n    devices: [{path: disk.img}]\n' "$SOCKET" \
  >"$TEST_DIR/stranger.yaml"
mkdir "$TEST_DIR/mnt2"
run_bounded 20 "$RNBD_FUSE" "$TEST_DIR/mnt2" --foreground --no-state --config "$TEST_DIR/stranger.yaml" && fail "a stranger has mounted"
(($(value 'rnbd_server_policy_refusals_total{what="session",reason="no_entry"}') > 0)) || fail "no refusal was counted"
expect_value 0 'rnbd_server_policy_refusals_total{what="session",reason="address"}'
expect_value 0 'rnbd_server_connections_rejected_total{reason="max_sessions"}'
case_end

case_start "a server that cannot serve them does not start"
sed "s|^metrics: .*|metrics: 127.0.0.1:$port|; s|^admin_socket.*||; s|unix: .*|unix: $SOCKET.2|" "$TEST_DIR/server.yaml" >"$TEST_DIR/second.yaml"
"$RNBD_SERVER" --config "$TEST_DIR/second.yaml" >"$TEST_DIR/second.log" 2>&1 && fail "it starts"
grep -q "Address already in use" "$TEST_DIR/second.log" || fail "$(<"$TEST_DIR/second.log")"
case_end

stop_daemon blya
stop_daemon server
