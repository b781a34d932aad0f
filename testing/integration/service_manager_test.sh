#!/bin/bash
# A service manager that keeps descriptors, as systemd does: the mount outlives every process of ours.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require pgrep python3
source testing/integration/remote_disk.sh

# Starts a program, keeps what it stores, and starts it again with that when it was killed. Writes down its
# process id, and each state that it tells.
cat >"$TEST_DIR/manager" <<'PYTHON'
import array, os, signal, socket, sys, time
directory, program = sys.argv[1], sys.argv[2:]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind("\0rnbd-manager-%d" % os.getpid())
stored = {}
child = 0

def start():
    global child
    child = os.fork()
    if child == 0:
        environment = dict(os.environ, NOTIFY_SOCKET="@rnbd-manager-%d" % os.getppid())
        if stored:
            high = [os.dup2(fd, 100 + i) for i, fd in enumerate(stored.values())]
            for i, fd in enumerate(high):
                os.dup2(fd, 3 + i, inheritable=True)
            environment.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(stored)),
                               LISTEN_FDNAMES=":".join(stored))
        os.execve(program[0], program, environment)
    with open(directory + "/main_pid", "w") as file:
        file.write(str(child))

def receive():
    data, control, _, _ = notify.recvmsg(4096, 256)
    words = dict(line.split("=", 1) for line in data.decode().split("\n"))
    for _, kind, value in control:
        fds = array.array("i")
        fds.frombytes(value)
        if "FDSTORE" in words:
            stored[words["FDNAME"]] = fds[0]
    if "FDSTOREREMOVE" in words:
        stored.pop(words["FDNAME"], None)
    with open(directory + "/states", "a") as file:
        file.write(data.decode().replace("\n", " ") + "\n")

signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
notify.settimeout(0.02)
start()
while True:
    try:
        receive()
        continue
    except socket.timeout:
        pass
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended and os.WIFSIGNALED(status):
        start()
    elif ended:
        print("left in store:", *stored, flush=True)
        sys.exit(os.WEXITSTATUS(status))
PYTHON

make_images 8M disk.img
serve_images
mount=$TEST_DIR/mnt
mkdir "$mount"
cat >"$TEST_DIR/client.yaml" <<YAML
sessions:
  - name: client
    paths: ["unix:$SOCKET"]
    devices:
      - path: disk.img
YAML
on_exit _leave_mount "$mount"
start_daemon manager python3 "$TEST_DIR/manager" "$TEST_DIR" "$RNBD_FUSE" "$mount" \
  --config "$TEST_DIR/client.yaml" --foreground
on_exit pkill_main

pkill_main() { kill -TERM "$(cat "$TEST_DIR/main_pid")" 2>/dev/null || true; }
ready_times() { grep -c "READY=1" "$TEST_DIR/states"; }
ready() { (($(ready_times) == $1)); }

case_start "tells that it is ready, and has its descriptors kept"
wait_until 20 ready 1
grep -q "FDSTORE=1 FDNAME=rnbd-fuse" "$TEST_DIR/states"
grep -q "FDSTORE=1 FDNAME=rnbd-state" "$TEST_DIR/states"
case_end

case_start "all processes are killed"
exec 5<>"$mount/disk.img"
for ((i = 2; i < 5; ++i)); do
  main=$(cat "$TEST_DIR/main_pid")
  kill -KILL "$main" "$(pgrep --parent "$main" --exact rnbd-fuse)"
  echo "written $i" >&5
  wait_until 20 ready "$i"
done
[[ $(head -n 3 "$mount/disk.img" | tr '\n' ' ') == "written 2 written 3 written 4 " ]] || fail "$(head -n 3 "$mount/disk.img")"
case_end

case_start "only the keeper is killed"
main=$(cat "$TEST_DIR/main_pid")
serving=$(pgrep --parent "$main" --exact rnbd-fuse)
kill -KILL "$main"
echo "written 5" >&5
wait_until 20 ready 5
wait_until 20 _is_gone "$serving"
[[ $(sed -n 4p "$mount/disk.img") == "written 5" ]] || fail "$(head -n 4 "$mount/disk.img")"
exec 5>&-
case_end

case_start "nothing is left at the end"
stop_daemon manager 10
! mountpoint -q "$mount" || fail "the mount is still there"
grep -q "^left in store:$" "$TEST_DIR/manager.log" || fail "$(grep "left in" "$TEST_DIR/manager.log")"
case_end
