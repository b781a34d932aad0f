#!/bin/bash
# In a guest: the kernel's client with our server over two paths, one of which is taken away and given back
# while fio writes and verifies.

source testing/shell_test.sh
source testing/guest/guest_lib.sh

readonly FIRST=192.168.77.1 SECOND=192.168.77.2

start_rxe
ip address add "$SECOND/24" dev dummy0
load_kernel_client
modprobe brd rd_nr=1 rd_size=65536
cat >"$TEST_DIR/server.yaml" <<YAML
listen: [{rdma: "[::]:1234", required: true}]
sessions: [{name: "*", dev_search_path: /dev, devices: [ram0]}]
YAML
start_daemon server rnbd-server --config "$TEST_DIR/server.yaml"
wait_until 20 grep -q "rnbd-server is ready" "$TEST_DIR/server.log"

paths=/sys/class/rtrs-client/two/paths
path_to() { ls -d "$paths"/*"@ip:$1"; }
is_connected() { [[ $(<"$(path_to "$1")/state") == connected ]]; }

case_start "a second path"
map_device two ram0 "$FIRST"
# shellcheck disable=SC2016  # Its own shell is to expand it, here and below.
timeout 60 bash -c 'echo "$1" >/sys/class/rtrs-client/two/add_path' - "ip:$SECOND"
is_connected "$FIRST"
is_connected "$SECOND"
(($(grep -c "session two: path .* connected" "$TEST_DIR/server.log") == 2)) || fail "the server has no two paths"
case_end

load() {
  timeout 200 fio --name=load --filename="$mapped" --rw=randwrite --bsrange=4k-64k --size=16M --loops=6 --direct=1 \
    --ioengine=libaio --iodepth=8 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --eta=never \
    --output="$TEST_DIR/fio.log" &
  load_pid=$!
}

case_start "disconnected and connected again under load"
load
for address in "$FIRST" "$SECOND"; do
  sleep 3
  log "disconnect the path to $address"
  echo 1 >"$(path_to "$address")/disconnect"
  ! is_connected "$address" || fail "the path to $address is still connected"
  sleep 2
  kill -0 "$load_pid" || fail "fio has ended: $(cat "$TEST_DIR/fio.log")"
  log "connect it again"
  # shellcheck disable=SC2016
  timeout 60 bash -c 'echo 1 >"$1"' - "$(path_to "$address")/reconnect"
  is_connected "$address" || fail "the path to $address is not connected again"
done
wait "$load_pid" || fail "fio failed: $(cat "$TEST_DIR/fio.log")"
case_end

case_start "unmapped"
unmap_device "$mapped"
wait_until 20 grep -q "session two: gone" "$TEST_DIR/server.log"
! grep -q "breaking the protocol" "$TEST_DIR/server.log" || fail "the server accuses the kernel's client"
case_end

stop_daemon server
case_start "the kernel has not complained"
check_dmesg
case_end
