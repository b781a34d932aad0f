#!/bin/bash
# rnbd-fuse as a person starts it: back at the shell once everything is there, ended by fusermount3.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require_loop
source testing/integration/remote_disk.sh

make_images 8M disk.img
serve_images
mkdir "$TEST_DIR/mnt"
on_exit _leave_mount "$TEST_DIR/mnt"
cat >"$TEST_DIR/client.yaml" <<YAML
sessions:
  - name: person
    paths: ["unix:$SOCKET"]
    devices:
      - path: disk.img
        name: disk0
YAML

case_start "back at the shell with the device there"
run_bounded 20 "$RNBD_FUSE" "$TEST_DIR/mnt" --config "$TEST_DIR/client.yaml" -o allow_other
[[ $(stat -c '%s %a' "$TEST_DIR/mnt/disk0") == "$((8 << 20)) 600" ]] || fail "$(stat "$TEST_DIR/mnt/disk0")"
grep -q "$TEST_DIR/mnt fuse.rnbd .*allow_other" /proc/mounts || fail "$(grep fuse /proc/mounts)"
case_end

case_start "losetup"
attach "$TEST_DIR/mnt/disk0"
[[ $(blockdev --getsize64 "$loop") == $((8 << 20)) ]] || fail "the loop device has another size"
head -c 1048576 /dev/urandom >"$TEST_DIR/data"
dd if="$TEST_DIR/data" of="$loop" bs=64k oflag=direct conv=fsync status=none
cmp --bytes=1048576 "$TEST_DIR/data" "$IMAGES/disk.img"
detach
case_end

case_start "ended by fusermount3 -u"
wait_until 10 fusermount3 -u "$TEST_DIR/mnt"
wait_until 5 grep -q "session person: gone" "$TEST_DIR/server.log"
grep -q "device disk.img closed$" "$TEST_DIR/server.log" || fail "the device was not closed by the client"
case_end

case_start "--check"
"$RNBD_FUSE" --check --config "$TEST_DIR/client.yaml" | grep -q disk0
"$RNBD_SERVER" --check --config "$TEST_DIR/server.yaml" | grep -q "$IMAGES"
case_end
