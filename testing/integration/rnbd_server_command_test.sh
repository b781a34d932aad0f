#!/bin/bash
# The rnbd command on a server: what it prints, what it takes away from clients, and its exit status.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require python3
source testing/integration/remote_disk.sh

MNT=$TEST_DIR/mnt
RNBD=${bin}client/rnbd
ADMIN=$_sockets/run/admin.sock
export RNBD_MOUNTS=$MNT
IMAGES=$(realpath "$IMAGES")

make_images 16M disk.img other.img

# Runs rnbd, which is to end with this status; its output is in $output.
expect() {
  local expected=$1 status=0
  shift
  output=$("$RNBD" "$@" 2>"$TEST_DIR/stderr") || status=$?
  ((status == expected)) || fail "rnbd $*: status $status: $output $(<"$TEST_DIR/stderr")"
}

expect_server() {
  local expected=$1
  shift
  expect "$expected" server "$@" --socket "$ADMIN"
}

expect_output() { [[ $output == "$1" ]] || fail "printed '$output' instead of '$1'"; }

says() { grep -qF "$1" "$TEST_DIR/stderr" || fail "it does not say '$1': $(<"$TEST_DIR/stderr")"; }

case_start "without a server"
expect_server 3 list
says "no rnbd-server answers at $ADMIN"
expect 0 server help
[[ $output == *"rnbd server device close"* ]] || fail "$output"
expect 0 server list help all
[[ $output == *"mapping_path"*"Without: sessname"* ]] || fail "$output"
expect 2 server map x from y
expect 2 server lisst
says 'did you mean "list"?'
case_end

start_server server <<YAML
listen:
  - unix: $SOCKET
  - unix: $SOCKET.2
admin_socket: $ADMIN
resize_interval: forever
memory_devices: {scratch: 1MiB}
sessions:
  - name: "mem"
    backend: memory
  - name: "*"
    dev_search_path: $IMAGES
YAML

case_start "a server without sessions"
[[ $(stat -c %a "$ADMIN") == 600 ]] || fail "the socket has mode $(stat -c %a "$ADMIN")"
expect_server 0 list
expect_output ""
expect_server 0 session list json
python3 -c 'import json, sys; assert json.loads(sys.argv[1]) == {"sessions": []}' "$output"
expect_server 3 show nothing
case_end

start_client client "$MNT" --no-state <<YAML
sessions:
  - name: host@blya
    paths: ["unix:$SOCKET", "unix:$SOCKET.2"]
    reconnect: {min: 50ms, max: 200ms}
    devices:
      - {path: disk.img, name: disk0}
      - {path: other.img, access: ro}
  - name: mem
    paths: ["unix:$SOCKET"]
    devices:
      - {path: scratch}
YAML

case_start "lists and shows"
disk=${IMAGES//\//!}!disk.img
other=${IMAGES//\//!}!other.img
expect_server 0 list csv
expect_output "Session,Mapping Path,Device,Access Mode
host@blya,disk.img,$disk,rw
host@blya,other.img,$other,ro
mem,scratch,memory:scratch,rw"
expect_server 0 device show disk.img devpath,read_only,direction json
python3 -c 'import json, sys; assert json.loads(sys.argv[1]) == {"devices": [{"devpath": sys.argv[2], "read_only": "0", "direction": "export"}]}, sys.argv' \
  "$output" "$IMAGES/disk.img"
expect_server 0 show "$IMAGES/other.img" read_only noheaders
expect_output 1
expect_server 0 session list sessname,state,path_cnt,hostname csv
expect_output $'Session name,State,Path cnt,Hostname\nhost@blya,connected,2,host\nmem,connected,1,mem'
expect_server 0 session show blya sessname
expect_output $'Session name\nhost@blya\n'"  unix:@unix:${SOCKET//\//!}"$'\n'"  unix:@unix:${SOCKET//\//!}.2"
expect_server 0 path list sessname,dst_addr,hca_name,state csv noheaders
expect_output "host@blya,unix:$SOCKET,unix,connected
host@blya,unix:$SOCKET.2,unix,connected
mem,unix:$SOCKET,unix,connected"
dd if=/dev/zero of="$MNT/disk0" bs=1M count=3 oflag=direct conv=notrunc,fsync status=none
expect_server 0 session show blya rx_bytes M noheaders notree
expect_output 3
expect_server 0 show mem sessname xml
expect_output $'<sessions>\n  <session>\n    <sessname>mem</sessname>\n  </session>\n</sessions>'
expect_server 0 inflight disk.img
expect_output ""
expect_server 3 inflight nothing
RNBD_ADMIN_SOCKET=$ADMIN expect 0 srv ls sessname noheaders
expect_output $'host@blya\nhost@blya\nmem'
expect_server 2 list nosuch
case_end

case_start "looks at the size of a disk"
truncate -s 24M "$IMAGES/disk.img"
expect_server 0 resize disk.img verbose
expect_output "class/rnbd-server/ctl/devices/$disk/sessions/host@blya/resize: 1"
wait_until 5 grep -qx 49152 "$MNT/sys/block/disk0/size"
expect_server 3 resize disk.img from mem
expect_server 0 resize scratch
truncate -s 20M "$IMAGES/disk.img"
expect_server 1 resize disk.img
truncate -s 24M "$IMAGES/disk.img"
case_end

case_start "closes a device"
expect_server 3 close disk.img from mem
expect_server 2 close
expect_server 0 close disk.img from host@blya verbose
expect_output "class/rnbd-server/ctl/devices/$disk/sessions/host@blya/force_close: 1"
expect_server 3 show disk.img
dd if="$MNT/disk0" of=/dev/null bs=4k count=1 iflag=direct status=none 2>/dev/null && fail "it can still be read"
dd if="$MNT/other.img" of=/dev/null bs=4k count=1 iflag=direct status=none || fail "the other device does not work"
grep -q "is taken away by force" "$TEST_DIR/server.log" || fail "the log does not say so"
# The client does not know whether what it wrote was made durable: here it was.
expect 1 unmap disk0 force
expect 0 map disk.img from host@blya as disk0
dd if="$MNT/disk0" of=/dev/null bs=4k count=1 iflag=direct status=none || fail "it is not there again"
expect_server 0 device show disk.img sessname noheaders
expect_output "host@blya"
case_end

case_start "says for whom a device is to be closed"
start_client second "$TEST_DIR/mnt2" --no-state <<YAML
sessions:
  - name: second
    paths: ["unix:$SOCKET"]
    devices:
      - {path: other.img, access: ro}
YAML
expect_server 2 close other.img
says "say for which session"
expect_server 0 close other.img second force
expect_server 0 device show other.img sessname noheaders
expect_output "host@blya"
stop_daemon second
case_end

case_start "disconnects"
expect_server 0 path disconnect blya "unix:$SOCKET.2"
wait_until 10 grep -q "disconnected by a command" "$TEST_DIR/server.log"
two_paths() { [[ $("$RNBD" server session show blya path_cnt noheaders notree --socket "$ADMIN") == 2 ]]; }
wait_until 10 two_paths
expect_server 0 disconnect blya
dd if="$MNT/disk0" of=/dev/null bs=4k count=16 iflag=direct status=none || fail "a read failed"
wait_until 10 two_paths
expect_server 3 disconnect nobody
case_end

case_start "drains a session, and the server, without an error"
write_on() { while dd if=/dev/zero of="$MNT/disk0" bs=4k count=100 oflag=direct conv=notrunc status=none; do :; done; }
write_on &
load=$!
sleep 0.3
expect_server 0 drain blya verbose
expect_output "class/rnbd-server/ctl/sessions/host@blya/drain: 1"
expect_server 3 drain nobody
has_disk() { "$RNBD" server show disk.img --socket "$ADMIN" >/dev/null 2>&1; }
wait_until 10 has_disk
expect_server 3 device drain nothing
expect_server 0 device drain disk.img verbose
expect_output "class/rnbd-server/ctl/drain_disk: $disk"
expect_server 3 show disk.img
expect_server 0 device undrain "$IMAGES/disk.img"
expect_server 1 device undrain disk.img
expect_server 0 drain
expect_server 0 session list
expect_output ""
wait_until 10 grep -q "the server is drained: it takes no sessions" "$TEST_DIR/client.log"
expect_server 0 undrain
wait_until 20 two_paths
kill "$load" || fail "a write has failed"
wait "$load" || true
case_end

case_start "fences a session"
dd if=/dev/zero of="$MNT/disk0" bs=4k count=1 oflag=direct conv=notrunc status=none
expect_server 0 fence blya for 1h verbose
expect_output "class/rnbd-server/ctl/fence: host@blya for 1h"
expect_server 0 device list sessname csv noheaders
expect_output "mem"
wait_until 10 grep -q 'session "host@blya" is fenced at the server' "$TEST_DIR/client.log"
# Somebody else may have the disk for writing at once, although its writer was lost.
start_client second "$TEST_DIR/mnt2" --no-state <<YAML
sessions:
  - name: second
    paths: ["unix:$SOCKET"]
    devices:
      - {path: disk.img}
YAML
dd if=/dev/zero of="$TEST_DIR/mnt2/disk.img" bs=4k count=1 oflag=direct conv=notrunc status=none
stop_daemon second
expect_server 1 unfence blya
expect_server 0 unfence host@blya
wait_until 20 two_paths
run_bounded 20 dd if="$MNT/disk0" of=/dev/null bs=4k count=1 iflag=direct status=none
expect_server 2 fence
case_end

case_start "a server that was killed leaves nothing in the way"
stop_daemon client
kill -KILL "${daemon[server]}"
wait_until 10 bash -c "! kill -0 ${daemon[server]}"
[[ -S $ADMIN ]] || fail "the socket is not there"
expect_server 3 list
start_server again < <(cat "$TEST_DIR/server.yaml")
expect_server 0 list
stop_daemon again
[[ ! -e $ADMIN ]] || fail "the socket is still there"
case_end
