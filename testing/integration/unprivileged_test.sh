#!/bin/bash
# rnbd-fuse for a user without privileges, who mounts through fusermount3.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require fusermount3 mknod pgrep setpriv
[[ -u $(command -v fusermount3) ]] || skip "fusermount3 may not mount for users"
source testing/integration/remote_disk.sh

USER_ID=65534
# The user can reach neither the build nor $TEST_DIR.
place=$(mktemp -d /tmp/rnbd-test.XXXXXX)
on_exit rm -rf "$place"
cp --dereference "$RNBD_FUSE" "$place/rnbd-fuse"
mount=$place/mnt
mkdir "$mount"
chmod 755 "$place"
chown "$USER_ID" "$mount"

# Where only root may have /dev/fuse.
mknod "$place/fuse" c 10 229
chmod 666 "$place/fuse"
mount --bind "$place/fuse" /dev/fuse
on_exit umount /dev/fuse

make_images 8M disk.img
serve_images
chmod 755 "$_sockets"
chmod 666 "$SOCKET"
cat >"$place/client.yaml" <<YAML
sessions:
  - name: user
    paths: ["unix:$SOCKET"]
    devices:
      - path: disk.img
request_memory: {small_buffers: 64, large_buffers: 4}
YAML

# The mount is the user's alone: even root cannot ask it.
mounted() { grep -q " $mount fuse" /proc/mounts; }
leave() { ! mounted || umount --lazy "$mount"; }
as_user() { setpriv --reuid="$USER_ID" --regid="$USER_ID" --clear-groups "$@"; }
start() {
  on_exit leave
  start_daemon client setpriv --reuid="$USER_ID" --regid="$USER_ID" --clear-groups \
    "$place/rnbd-fuse" "$mount" --config "$place/client.yaml" --foreground
  wait_until 20 mounted
}
reads() { [[ $(as_user head -c "${#1}" "$mount/disk.img") == "$1" ]] || fail "$1 cannot be read"; }

case_start "another process goes on"
start
as_user bash -c "echo data >'$mount/disk.img'"
kill_serving client
reads data
as_user "$place/rnbd-fuse" --upgrade "$mount"
reads data
case_end

case_start "ends as ever"
stop_daemon client
! mounted || fail "the mount is still there"
case_end

case_start "a process that does not end is ended"
start
kill -STOP "$(serving_process client)"
kill -TERM "${daemon[client]}"
timeout 15 tail --pid="${daemon[client]}" -f /dev/null || fail "the client has not ended"
! mounted || fail "the mount is still there"
case_end
