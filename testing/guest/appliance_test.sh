#!/bin/bash
# The appliance, booted as README says, with our own client on this machine: by a configuration on a disk, by
# default, and when it cannot go on; and the kernel's client, in a guest. Skipped where the appliance cannot be built.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require qemu-system-x86_64 mkfs.ext4 python3

bin=
[[ -x server/rnbd-server ]] || bin=bazel-bin/
# Bazel may have set it to a directory of this test alone; what the image is built of is kept for all.
HOME=$(getent passwd "$EUID" | cut -d: -f6)
export HOME
# A socket's path may have 107 bytes, and Bazel's directories lie deep.
sockets=$(mktemp -d /tmp/rnbd-test.XXXXXX)
on_exit rm -rf "$sockets"
image=$TEST_DIR/image
disks=$TEST_DIR/disks
console=$TEST_DIR/appliance.log
mkdir "$disks"

build_image() {
  local status=0
  run_bounded 300 server/appliance/build --server "${bin}server/rnbd-server" --output "$image" \
    2> >(tee "$TEST_DIR/build" >&2) || status=$?
  ((status != 77)) || skip "no appliance: $(tail -n 1 "$TEST_DIR/build")"
  ((status == 0)) || fail "the appliance cannot be built"
}

free_port() {
  local port=$((20000 + RANDOM % 10000))
  while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((20000 + RANDOM % 10000)); done
  echo "$port"
}

# boot OPTION...: the appliance in the background. Its emulator is not to depend on what this machine offers.
boot() {
  port=$(free_port)
  rm -f "$sockets/monitor"
  start_daemon appliance server/appliance/boot --image "$image" --accel tcg,thread=multi --memory 1024 \
    --timeout 700 --monitor "$sockets/monitor" --forward "$port" "$@"
}

says() { grep -qF -- "$1" "$console"; }
await_console() { wait_until "${2:-240}" says "$1"; }

# What a person would type in QEMU's monitor.
type_in_monitor() {
  log "monitor: $*"
  python3 - "$sockets/monitor" "$*" <<'PYTHON'
import socket
import sys

with socket.socket(socket.AF_UNIX) as monitor:
    monitor.settimeout(10)
    monitor.connect(sys.argv[1])
    for text in ("", sys.argv[2] + "\n"):
        monitor.sendall(text.encode())
        answer = b""
        while not answer.endswith(b"(qemu) "):
            answer += monitor.recv(4096)
PYTHON
}

# Waits until the appliance has ended by itself, in order.
await_end() {
  local status=0
  wait_until 120 _is_gone "${daemon[appliance]}"
  wait "${daemon[appliance]}" || status=$?
  unset "daemon[appliance]"
  ((status == 0)) || fail "QEMU ended with status $status"
  says "$1" || fail "the console does not say: $1"
}

# map NAME...: our client on these disks, with files of the same names in $TEST_DIR/mnt.
map() {
  mkdir -p "$TEST_DIR/mnt"
  {
    printf 'sessions:\n  - name: test\n    paths: ["tcp:127.0.0.1:%s"]\n    devices:\n' "$port"
    printf '      - path: "%s"\n' "$@"
  } >"$TEST_DIR/client.yaml"
  start_daemon client "${bin}client/rnbd-fuse" "$TEST_DIR/mnt" --config "$TEST_DIR/client.yaml" --foreground
  on_exit leave_mount
  wait_until 30 mountpoint -q "$TEST_DIR/mnt"
}
leave_mount() { ! mountpoint -q "$TEST_DIR/mnt" || umount --lazy "$TEST_DIR/mnt"; }

# write_and_read NAME: data on this disk that the image file must have too, in the end.
write_and_read() {
  local file=$TEST_DIR/mnt/$1 data=$TEST_DIR/data.$1
  head -c 4M /dev/urandom >"$data"
  run_bounded 60 dd if="$data" of="$file" bs=64k seek=16 conv=notrunc,fsync oflag=direct status=none
  run_bounded 60 dd if="$file" of="$data.read" bs=64k skip=16 count=64 iflag=direct status=none
  cmp "$data" "$data.read"
}
has_data() { cmp --bytes=$((4 << 20)) --ignore-initial=0:$((1 << 20)) "$TEST_DIR/data.$1" "$disks/$1"; }

case_start "build"
build_image
case_end

truncate -s 64M "$disks/one.img" "$disks/two.img"
cat >"$TEST_DIR/server.yaml" <<'YAML'
listen:
  - tcp: 1234
  - rdma: 1234
    required: true
sessions:
  - name: test
    dev_search_path: /disks
    devices: ["one.*"]
YAML

case_start "a configuration on a disk, written to, and switched off by the power button"
boot --config "$TEST_DIR/server.yaml" --disk "$disks/one.img" --disk "$disks/two.img"
await_console "rnbd-server is ready"
says "/disks/one.img is vdb" || fail "the first disk is not named by its serial number"
says "configuration: server.yaml of vda" || fail "the configuration was not found"
says "eth0 has RDMA by soft RoCE" || fail "no RDMA"
map one.img
write_and_read one.img
stop_daemon client
map one.img two.img
await_console "refused to open device two.img" 10
[[ ! -e $TEST_DIR/mnt/two.img ]] || fail "a disk was offered that the configuration does not offer"
stop_daemon client
type_in_monitor system_powerdown
await_end "appliance: switched off: the power button"
says "rnbd-server has ended: status 0" || fail "rnbd-server did not end in order"
has_data one.img
case_end

case_start "by default, every disk; the client still there when Ctrl-Alt-Del is pressed"
boot --disk "$disks/one.img" --disk "$disks/two.img" \
  --append "rnbd.address=192.168.100.2/24@eth1 rnbd.mtu=9000" -- -device virtio-net-pci,netdev=link,romfile= \
  -netdev "dgram,id=link,local.type=unix,local.path=$sockets/2,remote.type=unix,remote.path=$sockets/1"
await_console "rnbd-server is ready"
says "by default, everybody may have every disk" || fail "the console does not say what is served"
# Where there is no guest, the rest can be tried all the same.
status=0
run_bounded 420 testing/guest/run_guest --timeout 200 --link "$sockets/1:$sockets/2" \
  testing/guest/kernel_client_of_appliance.sh 192.168.100.2 two.img || status=$?
((status == 0 || status == 77)) || fail "status $status from the kernel's client over RDMA"
map one.img two.img
has_data one.img
write_and_read two.img
type_in_monitor sendkey ctrl-alt-delete
await_end "appliance: switched off: Ctrl-Alt-Del"
has_data two.img
stop_daemon client
case_end

case_start "a configuration that is wrong, which the console says, and a fixed address"
echo "listen: nowhere" >"$TEST_DIR/wrong.yaml"
boot --config "$TEST_DIR/wrong.yaml" --append "rnbd.address=10.0.2.15/24 rnbd.gateway=10.0.2.2 rnbd.mtu=1400"
await_console "rnbd-server again in 4 s"
says "server.yaml:1:" || fail "the console does not say what is wrong"
says "eth0: 10.0.2.15/24" || fail "no address from the kernel's command line"
type_in_monitor system_powerdown
await_end "appliance: switched off: the power button"
case_end

case_start "a disk for the configuration without one"
mkdir "$TEST_DIR/empty"
run_bounded 20 mkfs.ext4 -q -L RNBD-CONFIG -d "$TEST_DIR/empty" "$disks/empty.img" 4M
boot --disk "$disks/empty.img" --disk "$disks/one.img"
await_console "appliance: restart in"
await_end "appliance: restart in 10 s: the file system RNBD-CONFIG on vda has no server.yaml"
! says "rnbd-server is ready" || fail "disks were served all the same"
case_end
