#!/bin/bash
# The rnbd command on the mounts that it finds: what it prints, what it changes, and its exit status.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require python3
source testing/integration/remote_disk.sh

MNT=$TEST_DIR/mnt
RNBD=${bin}client/rnbd
export RNBD_MOUNTS=$MNT

make_images 16M disk.img other.img
serve_images_at "$SOCKET" "$SOCKET.2"

# Runs rnbd, which is to end with this status; its output is in $output.
expect() {
  local expected=$1 status=0
  shift
  output=$("$RNBD" "$@" 2>"$TEST_DIR/stderr") || status=$?
  ((status == expected)) || fail "rnbd $*: status $status: $output $(<"$TEST_DIR/stderr")"
}

expect_output() { [[ $output == "$1" ]] || fail "printed '$output' instead of '$1'"; }

says() { grep -qF "$1" "$TEST_DIR/stderr" || fail "it does not say '$1': $(<"$TEST_DIR/stderr")"; }

case_start "without a mount"
expect 3 list
says "no mount of rnbd-fuse"
expect 0 help
[[ $output == *"rnbd client device map"* ]] || fail "$output"
expect 2 sesion list
says 'did you mean "session"?'
case_end

start_client client "$MNT" --no-state <<YAML
sessions:
  - name: blya
    paths: ["unix:$SOCKET"]
    reconnect: {min: 50ms, max: 200ms}
    devices:
      - path: disk.img
        name: disk0
YAML

case_start "lists and shows"
expect 0 list csv
expect_output $'Session,Mapping Path,Device,State,Access Mode\nblya,disk.img,disk0,open,rw'
expect 0 client devices list mapping_path,devpath noheaders
expect_output "disk.img  $MNT/disk0"
expect 0 show disk0 devname,mount json
python3 -c 'import json, sys; assert json.loads(sys.argv[1]) == {"devices": [{"devname": "disk0", "mount": sys.argv[2]}]}, sys.argv' "$output" "$MNT"
expect 0 show "$MNT/disk0" devname xml
expect_output $'<devices>\n  <device>\n    <devname>disk0</devname>\n  </device>\n</devices>'
expect 0 session list sessname,state,path_uu,mp,path_cnt csv
expect_output $'Session name,State,PS,MP Policy,Path cnt\nblya,connected,U,min-inflight,1'
expect 0 session list sessname
expect_output $'Session name\nblya\n'"  unix:@unix:${SOCKET//\//!} connected"
expect 0 path list dst_addr,hca_name,state csv noheaders
expect_output "unix:$SOCKET,unix,connected"
dd if="$MNT/disk0" of=/dev/null bs=1M count=3 iflag=direct status=none
expect 0 show disk0 rx_sect K noheaders
expect_output "3072"
expect 3 show nothing
expect 2 list devnam
says 'did you mean "devname"?'
RNBD_ADMIN_SOCKET=$SOCKET.none expect 3 server list
says "no rnbd-server answers"
case_end

case_start "maps and unmaps"
expect 0 map other.img from blya ro as second
expect_output "$MNT/second"
expect 0 show second access_mode noheaders
expect_output ro
expect 1 map other.img from blya
says "File exists"
expect 1 map missing.img from blya
says "No such file"
exec 5<"$MNT/second"
expect 1 unmap second
says "force"
exec 5<&-
expect 0 unmap other.img verbose
expect_output "$MNT/sys/block/second/rnbd/unmap_device: normal"
expect 3 unmap second
expect 0 map other.img from "unix:$SOCKET.2"
expect_output "$MNT/other.img"
expect 0 show other.img sessname noheaders
[[ $output == *"@unix--"* ]] || fail "the session is $output"
expect 0 remap other.img force
expect 0 unmap other.img
expect 0 session list sessname notree noheaders
expect_output blya
case_end

case_start "resizes"
expect 0 resize disk0 8 M
[[ $(stat -c %s "$MNT/disk0") == 8388608 ]] || fail "it has $(stat -c %s "$MNT/disk0") bytes"
expect 2 resize disk0 1000
expect 2 resize disk0 big
expect 0 resize disk0 16M
case_end

case_start "paths"
expect 0 path add blya "unix:$SOCKET.2"
expect 1 path add blya "unix:$SOCKET.2"
expect 0 session show blya path_uu noheaders notree
expect_output UU
expect 0 path disconnect "unix:$SOCKET.2"
expect 0 session show blya act_path_cnt noheaders notree
expect_output 1
expect 0 session recover blya
expect 0 session show blya path_uu noheaders notree
expect_output UU
expect 0 path disconnect blya "unix:$SOCKET"
expect 0 recover all
expect 0 session show blya path_uu noheaders notree
expect_output UU
expect 0 session reconnect blya
expect 0 path readd "unix:$SOCKET.2"
expect 0 path delete "unix:$SOCKET.2"
expect 1 path delete "unix:$SOCKET"
expect 0 path list dst_addr noheaders
expect_output "unix:$SOCKET"
case_end

case_start "inflight and fail"
expect 0 inflight
expect_output ""
expect 0 path disconnect "unix:$SOCKET"
dd if="$MNT/disk0" of=/dev/null bs=4k count=1 skip=2 iflag=direct status=none 2>/dev/null &
reader=$!
_waits() { [[ $("$RNBD" inflight disk0 place,operation,offset,length csv noheaders) == "held,read,8192,4096" ]]; }
wait_until 10 _waits
expect 0 inflight devname,sessname,place json
python3 -c 'import json, sys; assert json.loads(sys.argv[1]) == {"requests": [{"devname": "disk0", "sessname": "blya", "place": "held"}]}, sys.argv' "$output"
expect 0 inflight disk0 age_us csv noheaders
((output > 0)) || fail "its age is $output"
expect 0 inflight disk0 place xml
expect_output $'<requests>\n  <request>\n    <place>held</place>\n  </request>\n</requests>'
expect 0 inflight disk0
pattern='^Device +Session +Age +Place +Operation +Offset +Length
disk0 +blya +[0-9.]+m?s +held +read +8192 +4096$'
[[ $output =~ $pattern ]] || fail "printed '$output'"
expect 3 inflight nothing
expect 2 inflight disk0 plac
says 'did you mean "place"?'
expect 0 fail disk0 verbose
expect_output "$MNT/sys/block/disk0/rnbd/fail: 1"
! wait "$reader" || fail "a read did not fail"
expect 0 inflight
expect_output ""
expect 0 session recover blya
wait_until 10 grep -q open "$MNT/sys/block/disk0/rnbd/state"
expect 1 fail disk0
says "it is open"
expect 3 fail nothing
dd if="$MNT/disk0" of=/dev/null bs=4k count=1 iflag=direct status=none
case_end

case_start "top"
_write() {
  until [[ -e $TEST_DIR/enough ]]; do dd if=/dev/zero of="$MNT/disk0" bs=64k count=64 oflag=direct conv=notrunc status=none; done
}
_write &
writer=$!
expect 0 top -n 2 -d 0.2
[[ $(grep -c "^rnbd top " <<<"$output") == 2 ]] || fail "printed '$output'"
grep -qE "^disk0 +blya +open +0 +[1-9][0-9]* +0 +[0-9.]+[KMG] " <<<"$output" || fail "no line of disk0: '$output'"
grep -qE "^unix:@unix:.* blya +connected " <<<"$output" || fail "no line of the path: '$output'"
[[ $output != *$'\x1b'* ]] || fail "there are escapes in '$output'"
touch "$TEST_DIR/enough"
wait "$writer"
expect 3 top -n 1 on "$TEST_DIR/nothing"
cat >"$TEST_DIR/terminal" <<'PYTHON'
import fcntl, os, pty, re, select, struct, sys, termios, time

def resize(columns, rows):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

def read_until(done):
    text, end = "", time.monotonic() + 10
    while not done(text):
        assert time.monotonic() < end, f"it printed only {text!r}"
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                text += os.read(terminal, 65536).decode()
            except OSError:  # the other end has gone
                return text
    return text

pid, terminal = pty.fork()
if pid == 0:
    time.sleep(0.3)  # until the terminal has its size
    os.execv(sys.argv[1], sys.argv[1:])
resize(50, 5)
text = read_until(lambda text: text.count("\x1b[J") == 1)
assert text.startswith("\x1b[?1049h\x1b[?25l\x1b[H"), text
frame = re.sub(r"\x1b\[[?0-9]*[A-Za-z]", "", text.replace("\r", "")).split("\n")
assert frame[0].startswith("rnbd top  ") and any(line.startswith("DEVICE") for line in frame), frame
assert len(frame) <= 5 and max(map(len, frame)) <= 50, frame
resize(160, 30)
text = read_until(lambda text: "HEARTBEAT us" in text and text.endswith("\x1b[J"))
if sys.argv[-1] == "60":
    os.write(terminal, b"q")
else:
    os.write(terminal, b"\x03")
text = read_until(lambda text: "\x1b[?1049l" in text)
assert text.endswith("\x1b[?25h\x1b[?1049l"), text
assert os.waitpid(pid, 0)[1] == 0
PYTHON
timeout 60 python3 "$TEST_DIR/terminal" "$RNBD" top -d 60 || fail "it does not work in a terminal"
timeout 60 python3 "$TEST_DIR/terminal" "$RNBD" top -d 61 || fail "Ctrl-C does not end it"
case_end

case_start "several mounts"
start_client another "$TEST_DIR/mnt2" --no-state <<YAML
sessions: []
YAML
export RNBD_MOUNTS=$MNT:$TEST_DIR/mnt2
expect 2 map other.img from "unix:$SOCKET.2"
says "on $TEST_DIR/mnt2"
expect 0 map other.img from "unix:$SOCKET" on "$TEST_DIR/mnt2"
expect_output "$TEST_DIR/mnt2/other.img"
expect 0 list devname,mount noheaders notree
expect_output "disk0      $MNT
other.img  $TEST_DIR/mnt2"
expect 0 unmap other.img
case_end

case_start "a mount that does not answer holds up no other"
still=$(serving_process another)
on_exit kill -CONT "$still"
kill -STOP "$still"
expect 0 list devname,mount noheaders notree
expect_output "disk0  $MNT"
says "$TEST_DIR/mnt2 is left out, it has not answered within 5s"
before=$SECONDS
expect 0 list devname,mount noheaders notree on "$MNT"
((SECONDS - before < 4)) || fail "waits for a mount that nobody has asked for"
expect 3 map other.img from "unix:$SOCKET" on "$TEST_DIR/mnt2"
says "no mount of rnbd-fuse that answers; $TEST_DIR/mnt2 does not"
kill -CONT "$still"
expect 0 map other.img from "unix:$SOCKET" on "$TEST_DIR/mnt2"
stop_daemon another
stop_daemon client
case_end
