#!/bin/bash
# SIGTERM ends each program within 5 s under load, and loses nothing that was acknowledged.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require fio
source testing/integration/remote_disk.sh

make_images 64M disk.img
serve_images

# Writes blocks one after another and notes each that was acknowledged; ends when a write fails.
write_blocks() {
  local number=0
  while printf '%-4096d' "$number" 2>/dev/null |
    dd of="$1" bs=4096 seek="$number" count=1 conv=notrunc,nocreat oflag=direct iflag=fullblock status=none 2>/dev/null; do
    echo "$number" >>"$TEST_DIR/acknowledged"
    ((++number < 16384)) || break
  done
}

check_blocks() {
  local number
  [[ -s $TEST_DIR/acknowledged ]] || fail "nothing was written"
  while read -r number; do
    [[ $(dd if="$IMAGES/disk.img" bs=4096 skip="$number" count=1 status=none | tr -d ' ') == "$number" ]] ||
      fail "block $number was acknowledged and is not there"
  done <"$TEST_DIR/acknowledged"
  log "$(wc -l <"$TEST_DIR/acknowledged") acknowledged blocks are there"
}

load() {
  timeout 60 fio --name=load --filename="$1" --rw=randwrite --bs=4k --iodepth=32 --ioengine=libaio --direct=1 \
    --offset=32m --size=32m --time_based --runtime=50 >"$TEST_DIR/fio.log" 2>&1 &
  load_pid=$!
}

for victim in client server; do
  case_start "SIGTERM to the $victim"
  rm -f "$TEST_DIR/acknowledged"
  map_images client "$TEST_DIR/mnt" disk.img
  load "$TEST_DIR/mnt/disk.img"
  write_blocks "$TEST_DIR/mnt/disk.img" &
  writer_pid=$!
  sleep 2
  wait_until 20 test -s "$TEST_DIR/acknowledged"
  stop_daemon "$victim" 5
  if [[ $victim == client ]]; then
    wait "$writer_pid"
    wait "$load_pid" || true
    check_blocks
    ! mountpoint -q "$TEST_DIR/mnt" || fail "the mount is still there"
    wait_until 5 grep -q "session client: gone" "$TEST_DIR/server.log"
  else
    # Requests wait for the server. The client cannot do them any more, nor make its last writes
    # durable, and has to say so.
    sleep 1
    kill -0 "$writer_pid" || fail "a write did not wait for the server"
    client_pid=${daemon[client]}
    kill -TERM "$client_pid"
    status=0
    timeout 5 tail --pid="$client_pid" -f /dev/null || fail "the client did not end within 5 s"
    wait "$client_pid" || status=$?
    ((status == 1)) || fail "the client ended with status $status"
    grep -q "not everything may have been written: [0-9]* requests are unanswered .* of device .disk.img" "$TEST_DIR/client.log"
    wait "$writer_pid"
    wait "$load_pid" || true
    check_blocks
  fi
  case_end
done
