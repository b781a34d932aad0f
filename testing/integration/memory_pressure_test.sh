#!/bin/bash
# Memory full of dirty pages of a file system on a loop device on a file of our client. They can go nowhere but
# through the client, which must not wait for them.
#
# "Memory" is what a control group may have. In it are the client and whoever writes, not the server. Where the client
# may not become an I/O flusher, this would end in the very deadlock, so it is skipped there; the same script runs in a
# guest (//testing/guest:memory_pressure_test).

source testing/shell_test.sh
in_private_mounts "$@"
# A guest has nothing that was not asked for.
if [[ -n ${GUEST:-} ]]; then
  modprobe -a fuse loop ext4
  mount -t cgroup2 none /sys/fs/cgroup
  echo +memory >/sys/fs/cgroup/cgroup.subtree_control
fi
require_fuse
require_loop
require mkfs.ext4 e2fsck pgrep
source testing/integration/remote_disk.sh

# Beyond what the client has: less than half a second's worth of writing.
readonly ROOM_MIB=48
readonly WRITTEN_MIB=96
readonly LONGEST=100
# Bit 24 of the capabilities.
may_flush() { (((16#$(sed -n 's/^CapEff:\s*//p' /proc/self/status) >> 24) & 1)); }
may_flush || skip "needs CAP_SYS_RESOURCE"

# The group of this shell in the first or second version of control groups, or nothing.
own_group() {
  local path
  path=$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)
  if [[ -n $path ]]; then
    echo "/sys/fs/cgroup/memory$path"
  else
    path=$(sed -n 's/^0:://p' /proc/self/cgroup)
    ! grep -qw memory "/sys/fs/cgroup$path/cgroup.subtree_control" 2>/dev/null || echo "/sys/fs/cgroup$path"
  fi
}
parent=$(own_group)
readonly GROUP=$parent/rnbd-memory-pressure.$$
if [[ -z $parent ]] || ! mkdir "$GROUP" 2>/dev/null; then skip "no control group for memory may be made here"; fi
on_exit _remove_group
_remove_group() { _try_for 10 rmdir "$GROUP" 2>/dev/null || true; }
enter_group() { echo "$BASHPID" >"$GROUP/cgroup.procs"; }

usage_bytes() { cat "$GROUP/memory.usage_in_bytes" 2>/dev/null || cat "$GROUP/memory.current"; }
limit_to() {
  if [[ -e $GROUP/memory.limit_in_bytes ]]; then
    echo "$1" >"$GROUP/memory.limit_in_bytes"
  else
    echo "$1" >"$GROUP/memory.max"
    [[ ! -e $GROUP/memory.swap.max ]] || echo 0 >"$GROUP/memory.swap.max"
  fi
}
dirty_mib() {
  awk '$1 ~ /^(dirty|writeback|file_dirty|file_writeback)$/ { sum += $2 } END { print int(sum / 1048576) }' \
    "$GROUP/memory.stat"
}
status_kib() { sed -n "s/^$2:[^0-9]*\([0-9]*\) kB/\1/p" "$1"; }

make_images 448M disk.img
serve_images
start_in_group() {
  enter_group
  exec "$RNBD_FUSE" "$@"
}
cat >"$TEST_DIR/client.yaml" <<YAML
sessions:
  - {name: pressure, paths: ["unix:$SOCKET"], devices: [{path: disk.img}]}
YAML
mkdir "$TEST_DIR/mnt" "$TEST_DIR/disk"
on_exit _leave_mount "$TEST_DIR/mnt"
# What waits for itself lets go only when the connection is gone.
on_exit _abort
_abort() {
  local device
  mkdir "$TEST_DIR/fusectl"
  mount -t fusectl none "$TEST_DIR/fusectl" || return 0
  device=$(sed -n "s|^[0-9]* [0-9]* 0:\([0-9]*\) / $TEST_DIR/mnt .*|\1|p" /proc/self/mountinfo)
  [[ -z $device ]] || echo 1 >"$TEST_DIR/fusectl/$device/abort"
  umount "$TEST_DIR/fusectl"
}
start_daemon client start_in_group "$TEST_DIR/mnt" --config "$TEST_DIR/client.yaml" --foreground
wait_until 20 test -e "$TEST_DIR/mnt/disk.img"

case_start "all processes are locked in memory, serve a disk, and are not killed for memory"
await_standby client
for pid in "${daemon[client]}" "$(serving_process client)" "$(standby_process client)"; do
  size=$(status_kib "/proc/$pid/status" VmRSS) locked=$(status_kib "/proc/$pid/status" VmLck)
  log "process $pid: $size KiB in memory, $locked KiB locked"
  ((locked >= size * 9 / 10)) || fail "process $pid is not locked"
  # PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE, the flags of an I/O flusher.
  (($(cut -d' ' -f9 "/proc/$pid/stat") & 0x00080000)) || fail "process $pid is no I/O flusher"
  [[ $(<"/proc/$pid/oom_score_adj") == -1000 ]] || fail "process $pid may be killed"
done
case_end

attach "$TEST_DIR/mnt/disk.img"
mkfs.ext4 -q -F -E nodiscard "$loop"
mount "$loop" "$TEST_DIR/disk"
on_exit umount --lazy "$TEST_DIR/disk"

write_much() {
  enter_group
  head -c "$((WRITTEN_MIB << 20))" "$TEST_DIR/pattern" >"$TEST_DIR/disk/$1"
  sync -f "$TEST_DIR/disk/$1"
}
# Each MiB of it is another.
make_pattern() {
  local i
  head -c 1M /dev/urandom >"$TEST_DIR/mib"
  for ((i = 0; i < WRITTEN_MIB; ++i)); do printf '%-4096s' "$i" && tail -c +4097 "$TEST_DIR/mib"; done
}
make_pattern >"$TEST_DIR/pattern"
# A guest is its own: let much of the room become dirty, but not all of it: where nothing in a group is clean, the kernel
# would rather kill the writer than let the client, which may not wait for writes, have memory for a socket.
if [[ -n ${GUEST:-} ]]; then
  echo 40 >/proc/sys/vm/dirty_ratio
  echo 30 >/proc/sys/vm/dirty_background_ratio
fi
# One that has stood by has more memory than the first one, which was not to find it in need.
kill_serving client
await_standby client
limit_to $(($(usage_bytes) + (ROOM_MIB << 20)))

_is_full() { (($(dirty_mib) * 4 > ROOM_MIB)); }

await_writer() {
  local most=0 now begin=$SECONDS
  while kill -0 "$1" 2>/dev/null; do
    ((SECONDS - begin < LONGEST)) || fail "not written after $LONGEST s: $(dirty_mib) MiB are dirty"
    now=$(dirty_mib)
    ((now <= most)) || most=$now
    sleep 0.02
  done
  wait "$1" || fail "the writer has failed"
  log "$most of $ROOM_MIB MiB were dirty at once; written after $((SECONDS - begin)) s"
  ((most * 4 > ROOM_MIB)) || fail "memory was not filled"
}

case_start "memory full of dirty pages"
for file in one two; do
  write_much "$file" &
  await_writer $!
done
case_end

# Nobody else is killed for it either: the writer does not fail. What is there already makes room: a guest's disk is in
# its memory.
case_start "the serving process is killed while memory is full"
for file in three four five six; do
  rm -f "$TEST_DIR/disk/last"
  await_standby client
  standby=$(standby_process client)
  write_much "$file" &
  writer=$!
  _try_for 30 _is_full || fail "memory was not filled"
  log "$(dirty_mib) MiB are dirty"
  kill_serving client
  [[ $(serving_process client) == "$standby" ]] || fail "another process serves than the one that stood by"
  await_writer "$writer"
  mv "$TEST_DIR/disk/$file" "$TEST_DIR/disk/last"
done
case_end

case_start "everything was written"
umount "$TEST_DIR/disk"
e2fsck -n -f "$loop" >"$TEST_DIR/fsck.log" 2>&1 || fail "fsck: $(cat "$TEST_DIR/fsck.log")"
mount -o ro "$loop" "$TEST_DIR/disk"
# Of the last MiB, which was written when most was dirty; an emulated processor is slow.
for file in one two last; do
  [[ $(stat -c %s "$TEST_DIR/disk/$file") == $((WRITTEN_MIB << 20)) ]] || fail "$file is not whole"
  cmp <(tail -c 1M "$TEST_DIR/pattern") <(tail -c 1M "$TEST_DIR/disk/$file") || fail "$file differs"
done
umount "$TEST_DIR/disk"
detach
case_end

stop_daemon client 20
stop_daemon server
