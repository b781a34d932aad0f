#!/bin/bash
# In a guest: a block-writer on a loop device on a file of our client, over soft RoCE, while what is between it and the
# disk dies again and again. No request may fail, no block may hold what it may not hold (see docs/torture.md).
#
# Usage: torture_test.sh ours|kernel-server [FAULTS [SEED]]

source testing/shell_test.sh
source testing/guest/guest_lib.sh

readonly SERVER=$1 FAULTS=${2:-15}
readonly SEED=${3:-$RANDOM}
RANDOM=$SEED
# Of seconds, for an emulated processor.
readonly GOES_ON=90

_leave() {
  [[ -z $loop ]] || losetup --detach "$loop"
  ! mountpoint -q "$TEST_DIR/mnt" || umount --lazy "$TEST_DIR/mnt"
}

start_our_server() {
  start_daemon server rnbd-server --config "$TEST_DIR/server.yaml"
  wait_until 30 grep -q "rnbd-server is ready" "$TEST_DIR/server.log"
}
serving_process() { pgrep -P "${daemon[client]}" -x rnbd-fuse; }

# --- What happens ---

worker_kill() { kill -KILL "$(serving_process)"; }
worker_stop() {
  local pid
  pid=$(serving_process)
  kill -STOP "$pid"
  sleep 2
  kill -CONT "$pid"
}
server_kill() {
  kill -KILL "${daemon[server]}"
  wait "${daemon[server]}" 2>/dev/null || true
  start_our_server
}
server_disconnects() {
  local path
  for path in /sys/class/rtrs-server/torture/paths/*/disconnect; do echo 1 >"$path" || true; done
}
case $SERVER in
  ours) kinds=(worker_kill worker_stop server_kill) device=ram0 ;;
  kernel-server) kinds=(worker_kill worker_stop server_disconnects) device=dev/ram0 ;;
  *) fail "no server $SERVER" ;;
esac

# --- The writer ---

# ask COMMAND...: the writer's answer, in $answer.
ask() {
  echo "$*" >&"${WRITER[1]}"
  read -r -t "$GOES_ON" answer <&"${WRITER[0]}" || fail "the writer does not answer to $*"
}
expect_ok() {
  ask "$@"
  [[ $answer == ok ]] || fail "$*: $answer"
}
# report NAME: a number of the writer's report.
number_of() { sed -n "s/.*\"$1\": \([0-9.]*\).*/\1/p" <<<"$report"; }

# --- The run ---

start_rxe
modprobe -a fuse loop
modprobe brd rd_nr=1 rd_size=16384
mkdir "$TEST_DIR/mnt"
loop=
on_exit _leave
cat >"$TEST_DIR/server.yaml" <<YAML
listen: [{rdma: "[::]:1234", required: true}]
sessions: [{name: torture, dev_search_path: /dev, devices: [ram0]}]
YAML
cat >"$TEST_DIR/client.yaml" <<YAML
request_memory: {small_buffers: 64, large_buffers: 8}
sessions:
  - name: torture
    paths: ["ip:192.168.77.1"]
    # A RAM disk loses nothing; a kernel's server does not say so.
    trust_server_cache: yes
    heartbeat: {timeout: 30s}
    devices: [{path: $device, name: disk}]
YAML
if [[ $SERVER == ours ]]; then start_our_server; else load_kernel_server; fi
start_daemon client rnbd-fuse "$TEST_DIR/mnt" --config "$TEST_DIR/client.yaml" --foreground
wait_until 60 test -e "$TEST_DIR/mnt/disk"
loop=$(losetup --find --show --direct-io=on "$TEST_DIR/mnt/disk")
coproc WRITER { exec block-writer --file="$loop" --blocks=8192 --depth=8 --seed="$SEED" 2>"$TEST_DIR/writer.log"; }

log "seed $SEED"
expect_ok resume
for ((fault = 0; fault < FAULTS; ++fault)); do
  # Each kind as often as the others.
  kind=${kinds[fault % ${#kinds[@]}]}
  sleep "$((RANDOM % 2)).$((RANDOM % 10))"
  log "fault $((fault + 1)): $kind"
  "$kind"
  expect_ok pause "$GOES_ON"
  # Whatever is in flight has ended: it was not only the writer that waited.
  if ((fault % 5 == 4)); then expect_ok check "$GOES_ON"; fi
  expect_ok resume
done
expect_ok pause "$GOES_ON"
expect_ok check "$GOES_ON"
ask report
report=$answer
log "$report"
for name in errors flush_errors violations in_flight; do
  [[ $(number_of "$name") == 0 ]] || fail "$name: $(number_of "$name")"
done
(($(number_of writes) > 20 * FAULTS && $(number_of blocks_verified) > 8192)) || fail "hardly anything was written"

case_start "the kernel has not complained"
check_dmesg
case_end
losetup --detach "$loop"
loop=
stop_daemon client 30
[[ $SERVER == kernel-server ]] || stop_daemon server
