#!/bin/bash
# In two guests: memory full of dirty pages of a file system on a loop device on a file of our client. They can
# go nowhere but through the client, which must not wait for them; also not when its process is killed then.
#
# For running by hand (run_guest --kernel backports --memory 512 --peer): on an emulated processor it has not come to its
# end in time, and whether that was slowness or a wait of the client for itself is not known.

source testing/shell_test.sh
source testing/guest/guest_lib.sh

readonly LONGEST_FILL=200
readonly FILE_MIB=64 FILES=3 HOG_MIB=110  # More than the guest has for them, with the hog.

# A directory for files in memory, beyond what the root of the guest may take.
make_memory_files() {
  mkdir "$1"
  mount -t tmpfs -o size=90% none "$1"
  on_exit umount --lazy "$1"
}

run_server() {
  make_memory_files "$TEST_DIR/images"
  truncate -s 256M "$TEST_DIR/images/disk.img"
  cat >"$TEST_DIR/server.yaml" <<YAML
listen: [{tcp: "$ADDRESS:1234"}]
sessions: [{name: pressure, dev_search_path: $TEST_DIR/images, devices: [disk.img]}]
YAML
  start_daemon server rnbd-server --config "$TEST_DIR/server.yaml"
  wait_until 20 grep -q "rnbd-server is ready" "$TEST_DIR/server.log"
  announce "server is ready"
  await "client is done" 600
  stop_daemon server
}

_leave() {
  ! mountpoint -q "$TEST_DIR/disk" || umount --lazy "$TEST_DIR/disk"
  [[ -z $loop ]] || losetup --detach "$loop"
  ! mountpoint -q "$TEST_DIR/mnt" || umount --lazy "$TEST_DIR/mnt"
}

serving_process() { pgrep -P "${daemon[client]}"; }
status_kib() { sed -n "s/^$2:[^0-9]*\([0-9]*\) kB/\1/p" "$1"; }
# Of all that is not free for other use.
dirty_mib() { awk '/^(Dirty|Writeback):/ { sum += $2 } END { print int(sum / 1024) }' /proc/meminfo; }

# Quick to make, for an emulated processor, and different for each file.
content() {
  local i
  printf '%-4096s' "file $1"
  for ((i = 0; i < FILE_MIB / 8; ++i)); do cat "$TEST_DIR/block"; done
}

fill() {
  local i
  for ((i = 0; i < FILES; ++i)); do content "file $i" >"$TEST_DIR/disk/$i"; done
}

# Kills the process whenever most of what can be dirty is dirty.
watch_and_kill() {
  local kills=0 most=0 now told=$SECONDS begin=$SECONDS
  while kill -0 "$1" 2>/dev/null; do
    now=$(dirty_mib)
    ((now <= most)) || most=$now
    ((SECONDS - begin < LONGEST_FILL)) || fail "not written after $LONGEST_FILL s: $now MiB are dirty"
    if ((SECONDS - told >= 5)); then
      told=$SECONDS
      log "$now MiB are dirty, $(status_kib /proc/meminfo MemAvailable) KiB available"
    fi
    if ((kills < 5 && now * 3 > free_mib)); then
      kill -KILL "$(serving_process)"
      ((++kills))
      sleep 3
    fi
    sleep 0.1
  done
  log "$most MiB were dirty at once, of $free_mib MiB that were free at first; killed $kills times"
  ((kills >= 3)) || fail "killed $kills times only"
  ((most * 2 > free_mib)) || fail "memory was not filled"
}

run_client() {
  modprobe -a fuse loop ext4
  mkdir "$TEST_DIR/mnt" "$TEST_DIR/disk"
  loop=
  on_exit _leave
  await "server is ready"
  cat >"$TEST_DIR/client.yaml" <<YAML
request_memory: {small_buffers: 128, large_buffers: 16}
sessions:
  - name: pressure
    paths: ["tcp:$PEER_ADDRESS:1234"]
    heartbeat: {timeout: 30s}
    devices: [{path: disk.img}]
YAML
  start_daemon client rnbd-fuse "$TEST_DIR/mnt" --config "$TEST_DIR/client.yaml" --foreground
  wait_until 60 test -e "$TEST_DIR/mnt/disk.img"

  case_start "both processes are locked in memory and serve a disk"
  ! grep -E "I/O flusher|lock the process" "$TEST_DIR/client.log" || fail "privileges are missing"
  local pid size locked
  for pid in "${daemon[client]}" $(serving_process); do
    size=$(status_kib "/proc/$pid/status" VmRSS)
    locked=$(status_kib "/proc/$pid/status" VmLck)
    log "process $pid: $size KiB in memory, $locked KiB locked"
    ((locked >= size * 9 / 10)) || fail "process $pid is not locked"
    # PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE, the flags of an I/O flusher.
    (($(cut -d' ' -f9 "/proc/$pid/stat") & 0x00080000)) || fail "process $pid is no I/O flusher"
  done
  case_end

  case_start "memory full of dirty pages, and the process killed"
  loop=$(losetup --find --show --direct-io=on "$TEST_DIR/mnt/disk.img")
  run_bounded 120 mkfs.ext4 -q -F -E nodiscard -O ^has_journal "$loop"
  mount "$loop" "$TEST_DIR/disk"
  echo 90 >/proc/sys/vm/dirty_ratio
  echo 80 >/proc/sys/vm/dirty_background_ratio
  make_memory_files "$TEST_DIR/hog"
  head -c "${HOG_MIB}M" /dev/zero >"$TEST_DIR/hog/zeroes"
  head -c 8M /dev/urandom >"$TEST_DIR/block"
  free_mib=$(($(status_kib /proc/meminfo MemAvailable) / 1024))
  fill &
  watch_and_kill "$!"
  wait "$!" || fail "writing failed"
  run_bounded 300 sync
  case_end

  case_start "everything is there"
  umount "$TEST_DIR/disk"
  mount -o ro "$loop" "$TEST_DIR/disk"
  local i
  for ((i = 0; i < FILES; ++i)); do
    content "file $i" | cmp - "$TEST_DIR/disk/$i" || fail "file $i is damaged"
  done
  umount "$TEST_DIR/disk"
  losetup --detach "$loop"
  loop=
  stop_daemon client 10
  ! grep -q "not everything" "$TEST_DIR/client.log" || fail "something was not written"
  grep -E "goes on with|was killed" "$TEST_DIR/client.log"
  check_dmesg
  case_end
  announce "client is done"
}

if ((GUEST == 1)); then run_server; else run_client; fi
