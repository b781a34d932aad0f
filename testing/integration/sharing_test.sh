#!/bin/bash
# Who may have a disk: many readers, one writer, whatever name they use for it; and the rules of the
# configuration's entries.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
source testing/integration/remote_disk.sh

make_images 16M disk.img secret.img
ln "$IMAGES/disk.img" "$IMAGES/hard-link.img"
ln -s /etc/passwd "$IMAGES/escape.img"
mkdir "$IMAGES/own-a"
truncate -s 4M "$IMAGES/own-a/private.img"
start_server server <<YAML
listen:
  - unix: $SOCKET
sessions:
  - name: "own-*"
    dev_search_path: $IMAGES/%SESSNAME%
  - name: "reader*"
    dev_search_path: $IMAGES
    devices: ["disk*", "hard*", "escape*"]
    access: [ro]
  - name: "writer*"
    dev_search_path: $IMAGES
  - name: "far"
    from: [192.0.2.0/24]
    dev_search_path: $IMAGES
YAML

# client NAME PATH ACCESS: maps one device, or says why not; the exit status is the client's.
client() {
  cat >"$TEST_DIR/$1.yaml" <<YAML
sessions:
  - name: $1
    paths: ["unix:$SOCKET"]
    devices:
      - {path: "$2", name: disk, access: $3}
YAML
  mkdir -p "$TEST_DIR/$1"
  on_exit _leave_mount "$TEST_DIR/$1"
  timeout 20 "$RNBD_FUSE" "$TEST_DIR/$1" --config "$TEST_DIR/$1.yaml" >"$TEST_DIR/$1.out" 2>&1
}
refused() {
  ! client "$1" "$2" "$3" || fail "$1 got $2 $3"
  ! mountpoint -q "$TEST_DIR/$1" || fail "a mount is left behind"
  grep -q "$4" "$TEST_DIR/$1.out" || fail "no '$4' in: $(cat "$TEST_DIR/$1.out")"
}
# The client goes on in the background until it has closed what it had.
leave() {
  run_bounded 20 fusermount3 -u "$TEST_DIR/$1"
  wait_until 20 grep -q "session $1: gone" "$TEST_DIR/server.log"
}

case_start "one writer"
client writer1 disk.img rw
refused writer2 disk.img rw "Operation not permitted"
refused writer2 hard-link.img rw "Operation not permitted"
refused writer2 ./disk.img rw "Operation not permitted"
case_end

case_start "many readers beside it, who see what it writes"
client reader1 disk.img ro
client reader2 hard-link.img ro
head -c 65536 /dev/urandom >"$TEST_DIR/data"
dd if="$TEST_DIR/data" of="$TEST_DIR/writer1/disk" bs=64k conv=notrunc oflag=direct status=none
for reader in reader1 reader2; do
  cmp --bytes=65536 "$TEST_DIR/data" "$TEST_DIR/$reader/disk"
  [[ $(stat -c %a "$TEST_DIR/$reader/disk") == 400 ]] || fail "mode of a ro device"
  ! dd if=/dev/zero of="$TEST_DIR/$reader/disk" bs=512 count=1 conv=notrunc status=none 2>/dev/null ||
    fail "$reader could write"
done
[[ $(stat -c %a "$TEST_DIR/writer1/disk") == 600 ]] || fail "mode of a rw device"
leave reader1
leave reader2
case_end

case_start "migration: two writers for a while"
client writer3 disk.img migration
refused writer4 disk.img migration "Operation not permitted"
leave writer1
leave writer3
wait_until 10 client writer5 disk.img rw
leave writer5
case_end

case_start "what the entries allow"
refused reader3 disk.img rw "Permission denied"
refused reader3 secret.img ro "Permission denied"
refused stranger disk.img ro "Permission denied"
refused far disk.img ro "Permission denied"
refused writer6 no-such.img rw "No such file"
refused writer6 own-a rw "Block device required"
client own-a private.img rw
leave own-a
refused own-b private.img rw "No such file"
case_end

case_start "no way out of the search path"
refused reader3 escape.img ro "denied\|Invalid\|No such\|cross-device"
refused writer6 ../images/disk.img rw "Invalid\|denied\|No such\|cross-device"
refused own-a ../disk.img rw "Invalid\|denied\|No such\|cross-device"
refused writer6 /etc/passwd rw "No such file"
case_end
