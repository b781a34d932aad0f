#!/bin/bash
# What makes services of the programs: units that systemd understands and finds hardened, readiness and
# watchdog, mount(8) and umount(8), names for udev.

source testing/shell_test.sh
in_private_mounts "$@"
source testing/integration/remote_disk.sh
[[ -x $RNBD_FUSE && -x $RNBD_SERVER ]] || fail "the programs are not built"

case_start "units are well formed"
require systemd-analyze
root=$TEST_DIR/root
mkdir -p "$root/usr/sbin" "$root/etc/systemd/system" "$root/bin" "$root/lib/systemd"
cp --recursive /lib/systemd/system "$root/lib/systemd/"
cp "$RNBD_FUSE" "$RNBD_SERVER" "$root/usr/sbin/"
cp /bin/sh /bin/kill "$root/bin/"
cp -L packaging/systemd/*.service "$root/etc/systemd/system/"
cp "$root/etc/systemd/system/rnbd-fuse@.service" "$root/etc/systemd/system/rnbd-fuse@disks.service"
for unit in rnbd-server rnbd-fuse@disks; do
  said=$(systemd-analyze verify --root="$root" --man=no "$unit.service" 2>&1 | grep "rnbd" || true)
  [[ -z $said ]] || fail "$said"
done
case_end

# The scores that they had when this was written are 1.8 and 4.6; the latter must mount and be root.
case_start "units are hardened"
require systemd-analyze
run_bounded 30 systemd-analyze security --offline=true --threshold=20 "$root/etc/systemd/system/rnbd-server.service" >"$TEST_DIR/score"
run_bounded 30 systemd-analyze security --offline=true --threshold=50 "$root/etc/systemd/system/rnbd-fuse@disks.service" >"$TEST_DIR/score"
case_end

# What a unit's filter lets through, all sets resolved.
allowed_calls() {
  local set sign
  grep "^SystemCallFilter=" "$1" | cut -d= -f2 | while read -r -a sets; do
    sign=+
    for set in "${sets[@]}"; do
      [[ $set != "~"* ]] || sign=-
      calls_of "${set#"~"}" | sed "s/^/$sign/"
    done
  done | awk '{ call = substr($0, 2); if (substr($0, 1, 1) == "+") ok[call] = 1; else delete ok[call] } END { for (call in ok) print call }' | sort
}

# The option that refuses a call altogether, for what it may be asked to do.
allowed_calls_of_unit() {
  if grep -q "^RestrictSUIDSGID=yes" "$1"; then allowed_calls "$1" | grep -vx openat2; else allowed_calls "$1"; fi
}

calls_of() {
  local each
  [[ $1 == @* ]] || { echo "$1" && return; }
  while read -r each; do
    case $each in
      "$1" | "#"* | "") ;;
      @*) calls_of "$each" ;;
      *) echo "$each" ;;
    esac
  done < <(systemd-analyze syscall-filter --no-pager "$1")
}

made_calls() { sed -n 's/^[0-9]* *\([a-z_0-9]*\)(.*/\1/p' "$1" | sort -u; }

# PROGRAM UNIT: those that the unit would refuse.
refused_calls() { comm -23 <(made_calls "$TEST_DIR/$1.calls") <(allowed_calls_of_unit "packaging/systemd/$2"); }

case_start "units allow what the programs do"
require systemd-analyze strace
require_fuse
require_loop
make_images 16M disk.img
traced=$TEST_DIR/traced
mkdir "$traced"
loop_name=traced$$
cat >"$TEST_DIR/server.yaml" <<YAML
listen: [{unix: "$SOCKET"}, {tcp: "127.0.0.1:0"}]
state_file: $TEST_DIR/places
sessions: [{name: "*", dev_search_path: "$IMAGES"}]
YAML
cat >"$TEST_DIR/client.yaml" <<YAML
sessions: [{name: traced, paths: ["unix:$SOCKET"], devices: [{path: disk.img, name: $loop_name, loop: auto}]}]
YAML
on_exit rm -f "/dev/rnbd/$loop_name"
on_exit _leave_mount "$traced"
trace() { strace -f -qq -o "$TEST_DIR/$1.calls" "${@:2}"; }
start_daemon server trace server "$RNBD_SERVER" --config "$TEST_DIR/server.yaml"
wait_until 20 grep -q "rnbd-server is ready" "$TEST_DIR/server.log"
start_daemon client trace client "$RNBD_FUSE" "$traced" --config "$TEST_DIR/client.yaml" --foreground --state "$TEST_DIR/state"
wait_until 30 test -b "/dev/rnbd/$loop_name"
dd if=/dev/zero of="/dev/rnbd/$loop_name" bs=64k count=4 conv=fsync status=none
blkdiscard --force --length 65536 "/dev/rnbd/$loop_name" 2>/dev/null
pkill --exact --signal TERM --parent "$(pgrep --parent "${daemon[client]}")" rnbd-fuse
wait_until 30 _is_gone "${daemon[client]}"
pkill --exact --signal TERM --parent "$(pgrep --parent "${daemon[server]}")" rnbd-server
wait_until 30 _is_gone "${daemon[server]}"
unset "daemon[client]" "daemon[server]"
made_calls "$TEST_DIR/client.calls" | grep -qx mount || fail "the trace is empty"
allowed_calls packaging/systemd/rnbd-fuse@.service | grep -qx umount2 || fail "the filter is not understood"
! allowed_calls packaging/systemd/rnbd-server.service | grep -qx mount || fail "the filter is not understood"
[[ -z $(refused_calls server rnbd-server.service) ]] || fail "refused: $(refused_calls server rnbd-server.service | xargs)"
[[ -z $(refused_calls client rnbd-fuse@.service) ]] || fail "refused: $(refused_calls client rnbd-fuse@.service | xargs)"
case_end

# Reads what a service tells its manager, and writes it to a file.
cat >"$TEST_DIR/manager" <<'PYTHON'
import os, socket, sys
path, said = sys.argv[1:]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(path)
with open(said, "w", buffering=1) as file:
    while True:
        file.write(notify.recv(4096).decode() + "\n")
PYTHON

said() { grep -qx "$1" "$TEST_DIR/said"; }
said_times() { (($(grep -cx "$1" "$TEST_DIR/said") >= $2)); }

case_start "the server tells that it is ready, alive and about to end"
require python3
start_daemon manager python3 "$TEST_DIR/manager" "$_sockets/notify" "$TEST_DIR/said"
wait_until 10 test -S "$_sockets/notify"
export NOTIFY_SOCKET=$_sockets/notify WATCHDOG_USEC=800000
serve_images
unset NOTIFY_SOCKET WATCHDOG_USEC
wait_until 10 said READY=1
wait_until 10 said_times WATCHDOG=1 3
! said STOPPING=1 || fail "it ends"
stop_daemon server
wait_until 5 said STOPPING=1
kill "${daemon[manager]}"
case_end

# Holds one thread for so many seconds, and says when it does.
cat >"$TEST_DIR/hold_thread" <<'PYTHON'
import ctypes, os, sys, time
thread, seconds = int(sys.argv[1]), float(sys.argv[2])
SEIZE, INTERRUPT = 0x4206, 0x4207
libc = ctypes.CDLL(None, use_errno=True)
for request in (SEIZE, INTERRUPT):
    if libc.ptrace(request, thread, None, None) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
print("held", flush=True)
time.sleep(seconds)
PYTHON

# The thread of that name of the process that serves the mount of client NAME.
thread_of() { grep -lx "$2" /proc/"$(serving_process "$1")"/task/*/comm | cut -d/ -f5; }
alive_times() { grep -cx WATCHDOG=1 "$TEST_DIR/said" || true; }

case_start "the client tells that it is alive while its workers are"
require_fuse
require pgrep
rm -f "$_sockets/notify"
start_daemon manager python3 "$TEST_DIR/manager" "$_sockets/notify" "$TEST_DIR/said"
wait_until 10 test -S "$_sockets/notify"
make_images 8M disk.img
serve_images
export NOTIFY_SOCKET=$_sockets/notify WATCHDOG_USEC=800000
map_images client "$TEST_DIR/watched" disk.img
unset NOTIFY_SOCKET WATCHDOG_USEC
wait_until 10 said READY=1
wait_until 10 said_times WATCHDOG=1 4
python3 "$TEST_DIR/hold_thread" "$(thread_of client worker-0)" 3 >"$TEST_DIR/held" &
holder=$!
wait_until 10 grep -q held "$TEST_DIR/held"
# What was found before is told at the next look, 200 ms later at most.
sleep 0.7
before=$(alive_times)
sleep 1.2
after=$(alive_times)
wait "$holder" || fail "the thread was not held"
((after == before)) || fail "told $((after - before)) times while a worker stood still"
wait_until 10 said_times WATCHDOG=1 $((after + 3))
kill_serving client
wait_until 10 said_times WATCHDOG=1 $(($(alive_times) + 3))
stop_daemon client
stop_daemon server
kill "${daemon[manager]}"
case_end

case_start "mount options"
# shellcheck disable=SC2016  # for the script that it writes
printf '#!/bin/sh\nprintf "%%s|" "$@"\nexit "${STATUS:-0}"\n' >"$TEST_DIR/rnbd-fuse"
chmod +x "$TEST_DIR/rnbd-fuse"
export LIBMOUNT_UTAB=$TEST_DIR/utab
touch "$LIBMOUNT_UTAB"
mount_helper() { RNBD_FUSE=$TEST_DIR/rnbd-fuse packaging/mount/mount.fuse.rnbd "$@" 2>&1; }
expect() {
  local expected=$1 found
  shift
  found=$(mount_helper "$@") || true
  [[ $found == *"$expected" ]] || fail "$*: '$found' instead of '$expected'"
}
expect "/mnt/x|--config|/etc/c.yaml|" /etc/c.yaml /mnt/x
expect "/mnt/x|--config|c|-o|allow_other|--state|/s|" c /mnt/x -n -o rw,_netdev,x-systemd.after=a,allow_other,state=/s
expect "/mnt/x|--config|c|--no_state|" c /mnt/x -o defaults -o no_state
expect "/mnt/x|--config|c|" c /mnt/x -o _netdev
[[ $(<"$LIBMOUNT_UTAB") == "SRC=rnbd TARGET=/mnt/x ROOT=/ OPTS=_netdev" ]] || fail "systemd will not know that it is a network's: $(<"$LIBMOUNT_UTAB")"
expect "known are allow_other, state=FILE and no_state" c /mnt/x -o rw,alow_other
expect "in c" c /mnt/x -o ro
! mount_helper c /mnt/x -o nonsense >/dev/null || fail "takes nonsense"
STATUS=3 mount_helper c /mnt/x >/dev/null || fail "fails where a device is still to come"
! STATUS=1 mount_helper c /mnt/x >/dev/null || fail "does not fail"
[[ -z $(mount_helper c /mnt/x -f) ]] || fail "mounts with -f"
case_end

case_start "mounts and unmounts"
require_fuse
require_loop
mnt=$TEST_DIR/mnt
disk=mount$$
mkdir "$mnt"
on_exit _leave_mount "$mnt"
serve_images
cat >"$TEST_DIR/client.yaml" <<YAML
drain_timeout: 2s
sessions:
  - name: blya
    paths: ["unix:$SOCKET"]
    devices:
      - {path: disk.img, name: $disk, loop: auto}
YAML
end_all() {
  local each
  for each in $(losetup --noheadings --output NAME,BACK-FILE | awk -v file="$mnt/$disk" '$2 == file { print $1 }'); do losetup --detach "$each"; done
  rm -f "/dev/rnbd/$disk"
}
on_exit end_all
mount_it() { RNBD_FUSE=$PWD/$RNBD_FUSE run_bounded 30 packaging/mount/mount.fuse.rnbd "$TEST_DIR/client.yaml" "$mnt" -o rw,_netdev,no_state; }
mount_it
grep -qxF "SRC=rnbd TARGET=$mnt ROOT=/ OPTS=_netdev" "$LIBMOUNT_UTAB" || fail "not a network's: $(<"$LIBMOUNT_UTAB")"
[[ -b /dev/rnbd/$disk ]] || fail "no loop device when it is mounted"
keeper=$(<"$mnt/sys/class/rnbd-client/ctl/keeper_pid")
exec 5<"$mnt/$disk"
status=0
RNBD_UMOUNT_TRIES=10 run_bounded 30 packaging/mount/umount.fuse.rnbd "$mnt" 2>/dev/null || status=$?
((status == 32)) || fail "status $status while a file is open"
wait_until 10 test -b "/dev/rnbd/$disk"
exec 5<&-
run_bounded 30 packaging/mount/umount.fuse.rnbd "$mnt"
! mountpoint -q "$mnt" || fail "still mounted"
_is_gone "$keeper" || fail "process $keeper is there"
[[ ! -L /dev/rnbd/$disk ]] || fail "/dev/rnbd/$disk is there"
mount_it
(($(wc -l <"$LIBMOUNT_UTAB") == 2)) || fail "not written down once: $(<"$LIBMOUNT_UTAB")"
exec 5<"$mnt/$disk"
run_bounded 30 packaging/mount/umount.fuse.rnbd "$mnt" -l
exec 5<&-
! mountpoint -q "$mnt" || fail "still mounted"
case_end

case_start "unmounts what lies on loop devices"
require mkfs.ext4
mount_it
mkdir "$TEST_DIR/disk"
mkfs.ext4 -q "/dev/rnbd/$disk"
mount "/dev/rnbd/$disk" "$TEST_DIR/disk"
on_exit _leave_mount "$TEST_DIR/disk"
run_bounded 10 packaging/mount/unmount-loops "$TEST_DIR"
mountpoint -q "$TEST_DIR/disk" || fail "unmounts what lies elsewhere"
exec 5>"$TEST_DIR/disk/open"
! run_bounded 10 packaging/mount/unmount-loops "$mnt" || fail "says nothing of a file system that is in use"
exec 5>&-
run_bounded 10 packaging/mount/unmount-loops "$mnt"
! mountpoint -q "$TEST_DIR/disk" || fail "still mounted"
run_bounded 30 packaging/mount/umount.fuse.rnbd "$mnt"
case_end

case_start "names for udev"
printf '%s\n' "rnbd /mnt/rnbd fuse.rnbd rw 0 0" 'rnbd /mnt/a\040b fuse.rnbd rw 0 0' "x /srv ext4 rw 0 0" >"$TEST_DIR/mounts"
name_of() { RNBD_MOUNT_TABLE=$TEST_DIR/mounts packaging/udev/loop-name "$1" || echo none; }
[[ $(name_of /mnt/rnbd/disk0) == disk0 ]] || fail "$(name_of /mnt/rnbd/disk0)"
[[ $(name_of "/mnt/a b/c d") == "c d" ]] || fail "$(name_of "/mnt/a b/c d")"
[[ $(name_of /srv/disk0) == none && $(name_of /mnt/rnbd/sys/x) == none && $(name_of /disk0) == none ]] || fail "names what is not ours"
case_end
