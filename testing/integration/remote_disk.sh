# shellcheck shell=bash
#
# What integration scripts share: real servers and clients, over TCP on loopback or a Unix socket. For
# sourcing behind testing/shell_test.sh. Each script's own server and files are below $TEST_DIR.
#
#   start_server NAME           starts rnbd-server on the configuration from standard input, and waits for it
#   start_client NAME MOUNT [OPTION...]   starts rnbd-fuse in the foreground on the configuration from
#                               standard input, and waits until it has mounted on the (new) directory MOUNT
#   serving_process NAME        the process of client NAME that serves its mount
#   standby_process NAME        the one that stands by, once it is ready
#   await_standby NAME          waits until one is
#   kill_serving NAME           kills the one that serves, and waits until the next one serves
#   $SOCKET                     where a server may listen
#   make_images SIZE NAME...    sparse image files in $IMAGES
#   serve_images                one server, "server", that lets every session have every image at $SOCKET
#   serve_images_at SOCKET...   the same at other sockets
#   map_images NAME MOUNT IMAGE...   one client that maps images rw, as session NAME
#   attach FILE [OPTION...]     a loop device with direct I/O on a file, in $loop; detached at the end
#   detach                      detaches $loop
#   allocated_kib FILE          disk space that a file has

if [[ -n ${GUEST:-} ]]; then
  RNBD_SERVER=rnbd-server RNBD_FUSE=rnbd-fuse
else
  bin=
  [[ -x server/rnbd-server ]] || bin=bazel-bin/
  RNBD_SERVER=${bin}server/rnbd-server
  RNBD_FUSE=${bin}client/rnbd-fuse
fi
# Not in $TEST_DIR: the path of a socket may have 107 bytes, and Bazel's directories lie deep.
_sockets=$(mktemp -d /tmp/rnbd-test.XXXXXX)
on_exit rm -rf "$_sockets"
SOCKET=$_sockets/rnbd.sock
IMAGES=$TEST_DIR/images
mkdir "$IMAGES"
loop=

start_server() {
  local name=$1
  cat >"$TEST_DIR/$name.yaml"
  start_daemon "$name" "$RNBD_SERVER" --config "$TEST_DIR/$name.yaml"
  wait_until 20 grep -q "rnbd-server is ready" "$TEST_DIR/$name.log"
}

start_client() {
  local name=$1 mount=$2
  shift 2
  cat >"$TEST_DIR/$name.yaml"
  mkdir -p "$mount"
  on_exit _leave_mount "$mount"
  start_daemon "$name" "$RNBD_FUSE" "$mount" --config "$TEST_DIR/$name.yaml" --foreground "$@"
  wait_until 20 mountpoint -q "$mount"
}

# shellcheck disable=SC2154  # daemon is of shell_test.sh
serving_process() { pgrep --parent "${daemon[$1]}" --exact rnbd-fuse; }

standby_process() {
  local pid
  pid=$(pgrep --parent "${daemon[$1]}" --exact rnbd-standby) &&
    grep -q "process $pid stands by" "$TEST_DIR/$1.log" && echo "$pid"
}
await_standby() { _try_for 30 standby_process "$1" >/dev/null || fail "no process of $1 stands by"; }

kill_serving() {
  local name=$1 count pid
  count=$(grep -c "goes on with .* devices after" "$TEST_DIR/$name.log" || true)
  pid=$(serving_process "$name")
  log "kill -9 $pid"
  kill -KILL "$pid"
  _try_for 30 _took_over "$name" "$count" || fail "no process goes on after $pid"
}

_another_serves() { local pid && pid=$(serving_process "$1") && [[ $pid != "$2" ]]; }

_took_over() { (($(grep -c "goes on with .* devices after" "$TEST_DIR/$1.log") > $2)); }

_leave_mount() { ! mountpoint -q "$1" || umount --lazy "$1"; }

make_images() {
  local size=$1 name
  shift
  for name; do truncate -s "$size" "$IMAGES/$name"; done
}

serve_images() { serve_images_at "$SOCKET"; }

serve_images_at() {
  local socket
  start_server server <<YAML
listen:
$(for socket; do echo "  - unix: $socket"; done)
sessions:
  - name: "*"
    dev_search_path: $IMAGES
YAML
}

map_images() {
  local name=$1 mount=$2
  shift 2
  # Not by a pipe: what start_client learns about its process would be lost with the subshell.
  start_client "$name" "$mount" < <(
    printf 'sessions:\n  - name: %s\n    paths: ["unix:%s"]\n    devices:\n' "$name" "$SOCKET"
    printf '      - path: %s\n' "$@"
  )
}

attach() {
  local file=$1
  shift
  loop=$(losetup --find --show --direct-io=on "$@" "$file")
  on_exit _detach_if_attached "$loop" "$file"
  log "$loop is $file"
}

detach() {
  losetup --detach "$loop"
  loop=
}

# Not a device of the same number that another test has got meanwhile.
_detach_if_attached() { [[ $(losetup --noheadings --output BACK-FILE "$1" 2>/dev/null) != "$2"* ]] || losetup --detach "$1"; }

allocated_kib() { du --block-size=1024 "$1" | cut -f1; }
