#!/bin/bash
# The way of a request allocates nothing and takes no lock, from the kernel's FUSE through both programs
# and back: calls of the workers are counted while fio works on the mounted file.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require fio
source testing/integration/remote_disk.sh

counter=testing/integration/libcount_calls.so
[[ -e $counter ]] || counter=bazel-bin/$counter
counts=$TEST_DIR/counts
head --bytes=16 /dev/zero >"$counts"

# "allocations locks" since the start.
counted() { od --address-radix=n --format=u8 --width=16 "$counts"; }

work() {
  run_bounded 100 fio --name=work --filename="$TEST_DIR/mnt/disk" --ioengine=libaio --direct=1 --size=64m \
    --output="$TEST_DIR/fio.log" "$@"
}

# difference REQUESTS OPTION...: what this work adds, in $allocations and $locks.
difference() {
  local requests=$1 before after
  shift
  read -ra before <<<"$(counted)"
  work --number_ios="$requests" "$@"
  read -ra after <<<"$(counted)"
  allocations=$((after[0] - before[0])) locks=$((after[1] - before[1]))
  log "$requests requests: $allocations allocations, $locks locks"
}

start_both() {
  local backend=$1
  export LD_PRELOAD=$PWD/$counter RNBD_CALL_COUNTS=$counts
  start_server server <<YAML
listen:
  - unix: $SOCKET
metrics: 127.0.0.1:0
memory_devices:
  disk.img: 64MiB
sessions:
  - name: "*"
    $backend
YAML
  start_client client "$TEST_DIR/mnt" <<YAML
metrics: 127.0.0.1:0
sessions:
  - name: counted
    paths: ["unix:$SOCKET"]
    devices:
      - path: disk.img
        name: disk
YAML
  unset LD_PRELOAD RNBD_CALL_COUNTS
}

# Heartbeats pass between threads, once a second on each path, and so do some words of the control path:
# a handful each second, however many requests there are.
readonly FEW=160 MANY=16000

make_images 64M disk.img
for backend in "backend: memory" "dev_search_path: $IMAGES"; do
  case_start "${backend%%/*}"
  start_both "$backend"
  read -r allocations _ <<<"$(counted)"
  ((allocations > 0)) || fail "the allocations of connecting are not counted"
  work --rw=write --bs=1m --iodepth=8
  for rw in randread randwrite; do
    for depth in 1 32; do
      work --rw="$rw" --bs=4k --iodepth="$depth" --number_ios=2000
      requests=$((depth == 1 ? MANY / 8 : MANY))
      difference "$requests" --rw="$rw" --bs=4k --iodepth="$depth"
      ((allocations < FEW)) || fail "$rw, depth $depth: $allocations allocations"
      ((locks < FEW)) || fail "$rw, depth $depth: $locks locks"
    done
  done
  difference 2000 --rw=randwrite --bs=1000 --iodepth=1 --direct=0 --ioengine=psync
  # What has to wait for its neighbours, parts of blocks, does take a lock.
  ((locks >= 2000)) || fail "the locks of unaligned writes are not counted"
  stop_daemon client
  stop_daemon server
  case_end
done
