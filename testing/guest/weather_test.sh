#!/bin/bash
# In two guests: a server in the first, a client in the second, and a network between them that delays and
# loses packets, and is cut for short and for long.
#
# Usage: weather_test.sh kernel-client|own-client|ours|iwarp|kernel-pair
#
#   kernel-client   the kernel's client, our server
#   own-client      our client, the kernel's server
#   ours            our client, our server, over soft RoCE
#   iwarp           the same over soft iWARP
#   kernel-pair     the kernel's client and server: no test of ours, but what the others are to be measured by

source testing/shell_test.sh
source testing/guest/guest_lib.sh

readonly PAIR=$1
case $PAIR in
  kernel-client) client=kernel server=ours driver=rxe ;;
  own-client) client=ours server=kernel driver=rxe ;;
  ours) client=ours server=ours driver=rxe ;;
  iwarp) client=ours server=ours driver=siw ;;
  kernel-pair) client=kernel server=kernel driver=rxe ;;
  *) fail "no pair $PAIR" ;;
esac

# Of seconds. A short cut is within what the transport's retries bridge: eight of one to two seconds.
readonly SHORT_CUT=3
# By then each side gives up: its heartbeat after 30 s (35 s in the kernel), if not the transport before it. Between
# our own ends it would give up after 5 s, which on emulated processors a short cut comes near to.
readonly HEARTBEAT_TIMEOUT=30s
readonly DETECTED=90
# The kernel's client waits up to 30 s for the peer's goodbye, and then 30 s before each attempt; an attempt that
# meets the old path in a kernel's server is refused, and costs another 30 s.
readonly RECONNECTED=150

# together EVENT COMMAND...: both guests run the command at the same time, so that both directions are affected.
together() {
  announce "$1"
  await "$1" 300
  "${@:2}"
}

# --- The server ---

path_is_gone() {
  if [[ $server == ours ]]; then
    grep -q "session weather: gone" "$TEST_DIR/server.log"
  else
    [[ ! -e /sys/class/rtrs-server/weather ]]
  fi
}

run_server() {
  modprobe brd rd_nr=1 rd_size=16384
  if [[ $server == ours ]]; then
    local address="[::]"
    # An iWARP device's listener for IPv6 hears no IPv4.
    [[ $driver == rxe ]] || address=0.0.0.0
    cat >"$TEST_DIR/server.yaml" <<YAML
listen: [{rdma: "$address:1234", required: true}]
heartbeat: {timeout: $HEARTBEAT_TIMEOUT}
sessions: [{name: weather, dev_search_path: /dev, devices: [ram0]}]
YAML
    start_daemon server rnbd-server --config "$TEST_DIR/server.yaml"
    wait_until 20 grep -q "rnbd-server is ready" "$TEST_DIR/server.log"
  else
    # With keys that change, this server registers memory too, for each answer.
    load_kernel_server always_invalidate=N
  fi
  announce "server is ready"

  together rain shape_link eth0 delay 2ms loss 0.2%
  together sun shape_link eth0
  together "short cut" cut_link eth0
  together "short cut mended" mend_link eth0
  together "long cut" cut_link eth0
  wait_until "$DETECTED" path_is_gone
  announce "server has noticed"
  together "long cut mended" mend_link eth0
  await "client is done" 300

  if [[ $server == ours ]]; then
    grep -E "session weather: path .* closing: .*[a-z]" "$TEST_DIR/server.log" || fail "the server did not say why"
    ! grep -q "breaking the protocol" "$TEST_DIR/server.log" || fail "the server accuses the client"
    stop_daemon server
  fi
  check_dmesg
}

# --- The client ---

connect() {
  if [[ $client == kernel ]]; then
    load_kernel_client
    map_device weather "$([[ $server == ours ]] && echo ram0 || echo /dev/ram0)" "$PEER_ADDRESS"
    disk=$mapped
  else
    modprobe fuse
    mkdir "$TEST_DIR/mnt"
    cat >"$TEST_DIR/client.yaml" <<YAML
sessions:
  - name: weather
    paths: ["ip:$PEER_ADDRESS"]
    heartbeat: {timeout: $HEARTBEAT_TIMEOUT}
    devices:
      - path: $([[ $server == ours ]] && echo ram0 || echo dev/ram0)
        name: disk
YAML
    on_exit _leave_mount
    start_daemon client rnbd-fuse "$TEST_DIR/mnt" --config "$TEST_DIR/client.yaml" --foreground
    wait_until 60 test -e "$TEST_DIR/mnt/disk"
    disk=$TEST_DIR/mnt/disk
  fi
}
_leave_mount() { ! mountpoint -q "$TEST_DIR/mnt" || umount --lazy "$TEST_DIR/mnt"; }

is_disconnected() {
  if [[ $client == kernel ]]; then
    [[ $(<"/sys/block/${disk#/dev/}/rnbd/state") == closed ]]
  else
    grep -q "session weather: disconnected" "$TEST_DIR/client.log"
  fi
}
is_back() {
  if [[ $client == kernel ]]; then
    [[ $(<"/sys/block/${disk#/dev/}/rnbd/state") == open ]]
  else
    grep -q "session weather: device disk is open again" "$TEST_DIR/client.log"
  fi
}

# While soft RoCE has to send again, a kernel's client may only write here. For reads it registers memory, and soft
# RoCE of 6.1, when it goes back to a lost request, registers again what was behind that: "mr->lkey not free", and the
# connection hangs. With the kernel's server as well. What was written is read in better weather.
if [[ $client == kernel ]]; then
  load_options=(--do_verify=0)
else
  load_options=()
fi

# start_load SECONDS: writes (and verifies) again and again for so long, in the background, other data each time.
start_load() {
  _load "$1" >"$TEST_DIR/load.log" 2>&1 &
  load_pid=$!
}
_load() {
  local end=$((SECONDS + $1)) seed=0
  while ((SECONDS < end)); do
    echo $((++seed)) >"$TEST_DIR/seed"
    verify_with_fio "$disk" --size=512k --randseed="$seed" "${load_options[@]}" --output="$TEST_DIR/load_fio.log"
  done
}
load_goes_on() { kill -0 "$load_pid" 2>/dev/null || fail "the I/O has ended: $(cat "$TEST_DIR/load.log")"; }
await_load() { wait "$load_pid" || fail "I/O failed: $(cat "$TEST_DIR/load.log")"; }
verify_load() { verify_with_fio "$disk" --size=512k --randseed="$(<"$TEST_DIR/seed")" --verify_only; }

run_client() {
  await "server is ready"
  case_start "connected"
  connect
  verify_with_fio "$disk" --size=2M
  case_end

  case_start "a network that delays and loses"
  together rain shape_link eth0 delay 2ms loss 0.2%
  start_load 25
  await_load
  together sun shape_link eth0
  verify_load
  verify_with_fio "$disk" --size=1M
  case_end

  case_start "a cut too short to be noticed"
  start_load 20
  sleep 4
  load_goes_on
  together "short cut" cut_link eth0
  sleep "$SHORT_CUT"
  load_goes_on
  together "short cut mended" mend_link eth0
  await_load
  ! is_disconnected || fail "the session was lost"
  verify_load
  verify_with_fio "$disk" --size=1M
  case_end

  case_start "a cut that costs the session"
  start_load 5
  sleep 2
  load_goes_on
  together "long cut" cut_link eth0
  wait_until "$DETECTED" is_disconnected
  if [[ $client == kernel ]]; then
    # The kernel's client does not wait for a path to come back.
    if wait "$load_pid"; then fail "I/O without a path has not failed"; fi
    log "I/O has failed while there was no path, as it is to"
  fi
  await "server has noticed" "$DETECTED"
  [[ $client == kernel ]] || load_goes_on
  together "long cut mended" mend_link eth0
  wait_until "$RECONNECTED" is_back
  if [[ $client == ours ]]; then
    await_load
    log "the I/O has waited for the path, and gone on"
    verify_load
  fi
  verify_with_fio "$disk" --size=4M
  case_end

  if [[ $client == ours ]]; then
    grep -E "session weather: path .* lost: .*[a-z]" "$TEST_DIR/client.log" || fail "the client did not say why"
    stop_daemon client 20
  else
    unmap_device "$disk"
    wait_until 40 test ! -e /sys/class/rtrs-client/weather
  fi
  case_start "the kernel has not complained"
  check_dmesg
  case_end
  announce "client is done"
}

"start_$driver" eth0
if ((GUEST == 1)); then run_server; else run_client; fi
