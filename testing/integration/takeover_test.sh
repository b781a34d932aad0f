#!/bin/bash
# kill -9 of the process that serves a mount: the next one goes on, without an error, without damage, and soon.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require_loop
require fio pgrep python3
source testing/integration/remote_disk.sh

KILLS=6
MOST_PAUSE_MS=1000

make_images 64M disk.img other.img
serve_images
map_images client "$TEST_DIR/mnt" disk.img other.img

# 2,000 requests a second for 8 s, then as long again to read what was written.
start_fio() {
  timeout 120 fio --name=load --filename="$1" --rw=randwrite --bs=4k --size=64m --rate_iops=2000,2000 \
    --ioengine=libaio --iodepth=32 --direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1 --verify_state_save=0 \
    --output-format=json --output="$TEST_DIR/fio.json" >"$TEST_DIR/fio.log" 2>&1 &
  fio_pid=$!
}

# The longest that a request took is the longest pause.
longest_ms() {
  python3 - "$TEST_DIR/fio.json" <<'PYTHON'
import json, sys
text = open(sys.argv[1]).read()
job = json.loads(text[text.index("{"):])["jobs"][0]
assert job["error"] == 0, job["error"]
assert job["write"]["total_ios"] == 16384 and job["read"]["total_ios"] == 16384, job
print(max(job[way]["clat_ns"]["max"] for way in ("read", "write")) // 1000000)
PYTHON
}

kill_under_load() {
  local file=$1 i longest
  start_fio "$file"
  for ((i = 0; i < KILLS; ++i)); do
    sleep 2.3
    kill_serving client
  done
  wait "$fio_pid" || fail "fio: $(tail -n 5 "$TEST_DIR/fio.log")"
  longest=$(longest_ms)
  log "the longest request took $longest ms"
  ((longest < MOST_PAUSE_MS)) || fail "a request took $longest ms"
}

case_start "killed under load on the file"
kill_under_load "$TEST_DIR/mnt/disk.img"
case_end

case_start "killed under load through loop"
attach "$TEST_DIR/mnt/disk.img"
kill_under_load "$loop"
detach
case_end

case_start "files stay as they were"
chmod 640 "$TEST_DIR/mnt/other.img"
touch --date=@1000000000 "$TEST_DIR/mnt/other.img"
before=$(stat -c '%i %s %a %Y' "$TEST_DIR/mnt"/*.img)
exec 5<>"$TEST_DIR/mnt/other.img"
echo "before" >&5
kill_serving client
echo "after" >&5
exec 5>&-
[[ $(head -n 2 "$TEST_DIR/mnt/other.img") == $'before\nafter' ]] || fail "what was written is not there"
sleep 1.1  # beyond what the kernel remembers
[[ $(stat -c '%i %s %a %Y' "$TEST_DIR/mnt"/*.img) == "$before" ]] || fail "$(stat "$TEST_DIR/mnt"/*.img) instead of $before"
case_end

case_start "ends as ever"
stop_daemon client
! mountpoint -q "$TEST_DIR/mnt" || fail "the mount is still there"
case_end
