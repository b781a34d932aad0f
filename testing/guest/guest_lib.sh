# shellcheck shell=bash
# shellcheck disable=SC2034,SC2120  # The variables and arguments are for the scripts.
#
# What scripts that run in a guest share (see run_guest). For sourcing behind testing/shell_test.sh.
#
#   start_rxe [NETDEV [ADDRESS/BITS]]   an RDMA device (soft RoCE) on a network device. By default on a new
#                               dummy one with 192.168.77.1, which reaches itself: one guest can be both ends.
#                               When soft RoCE has to send again, for a lost or reordered packet or for half
#                               a second without a processor, connections of the kernel's RTRS may end or hang:
#                               "mr->lkey not free" in dmesg. How often it had to is logged in the end
#   start_siw [NETDEV [ADDRESS/BITS]]   the same with soft iWARP, which the kernel's RTRS cannot use
#   load_kernel_server [PARAMETER=VALUE...]   the kernel's server: parameters of rtrs_server, rnbd_server
#   load_kernel_client          the kernel's client
#   map_device SESSION DEVICE_PATH SERVER_ADDRESS [OPTION...]   the kernel's client maps a device; OPTION
#                               as in access_mode=ro, path=ip:ADDRESS; its block device is $mapped
#   unmap_device DEVICE [normal|force]
#   verify_with_fio FILE [OPTION...]   writes 16 MiB at random, 8 requests at a time, and reads all back
#   check_dmesg                 fails if the kernel has warned of a fault of its own
#
# With a peer (run_guest --peer; start_rxe eth0 is then what is wanted):
#
#   $ADDRESS, $PEER_ADDRESS     on the first network
#   announce NAME               tells the peer that something is so
#   await NAME [SECONDS]        until the peer has announced it (60 s)
#   shape_link NETDEV OPTION... what this guest sends there is delayed, lost, ... by netem(8)'s options;
#                               without an option no longer
#   cut_link NETDEV, mend_link NETDEV   all that this guest sends there is lost, and no longer
#   power_off                   this guest is off at once, as if it had lost its power; no failure

readonly ADDRESS=192.168.100.${GUEST:-1}
readonly PEER_ADDRESS=192.168.100.$((3 - ${GUEST:-1}))
mapped=

start_rxe() {
  modprobe rdma_rxe
  _start_soft_device rxe "$@"
  on_exit _log_retries "rxe_${1:-dummy0}"
}
start_siw() {
  modprobe siw
  _start_soft_device siw "$@"
}
_start_soft_device() {
  local type=$1 netdev=${2:-dummy0} address=${3:-}
  modprobe rdma_ucm
  if [[ $netdev == dummy0 && ! -e /sys/class/net/dummy0 ]]; then
    modprobe dummy numdummies=0
    ip link add dummy0 type dummy
    address=${address:-192.168.77.1/24}
  fi
  [[ -z $address ]] || ip address add "$address" dev "$netdev"
  # Room for RoCE's largest MTU, 4096: a fourth of the packets, which are what an emulated processor is slow at.
  ip link set "$netdev" mtu 9000 up
  rdma link add "${type}_$netdev" type "$type" netdev "$netdev"
  wait_until 10 _is_active "${type}_$netdev"
}
_is_active() { grep -q ACTIVE "/sys/class/infiniband/$1/ports/1/state"; }
_log_retries() {
  log "$1 has sent again $(cat "/sys/class/infiniband/$1/ports/1/hw_counters/completer_retry_err") times"
}

load_kernel_server() {
  local parameter rtrs=() rnbd=()
  for parameter; do
    case $parameter in
      always_invalidate=* | max_chunk_size=* | sess_queue_depth=*) rtrs+=("$parameter") ;;
      *) rnbd+=("$parameter") ;;
    esac
  done
  log "kernel server $*"
  modprobe rtrs_server "${rtrs[@]}"
  modprobe rnbd_server "${rnbd[@]}"
}

load_kernel_client() { modprobe rnbd_client; }

map_device() {
  local session=$1 path=$2 address=$3 link
  shift 3
  # The port, which may be among the options, counts for the paths behind it.
  log "map $path as session $session from $address $*"
  # In a process of its own, which can be given up: it may take the kernel half a minute to fail.
  # shellcheck disable=SC2016  # Its own shell is to expand it.
  timeout --kill-after=5 100 bash -c 'echo "$1" >/sys/class/rnbd-client/ctl/map_device' - \
    "sessname=$session device_path=$path $* path=ip:$address" || return
  link=/sys/class/rnbd-client/ctl/devices/${path//\//!}@$session
  mapped=/dev/$(basename "$(readlink "$link")")
  wait_until 10 test -b "$mapped"
}

unmap_device() { echo "${2:-normal}" >"/sys/block/${1#/dev/}/rnbd/unmap_device"; }

verify_with_fio() {
  local file=$1
  shift
  run_bounded 120 fio --name=verify --filename="$file" --rw=randwrite --bsrange=4k-64k --size=16M --direct=1 \
    --ioengine=libaio --iodepth=8 --verify=crc32c --verify_fatal=1 --verify_state_save=0 \
    --eta=never --output-format=terse --output="$TEST_DIR/fio.log" "$@"
}

check_dmesg() {
  local faults
  faults=$(dmesg | grep -E -A 20 'WARNING: |BUG: |Oops|general protection|refcount_t: |blocked for more than' |
    head -n 60) || true
  [[ -z $faults ]] || { echo "$faults" && fail "the kernel has complained: $(head -n 1 <<<"$faults")"; }
}

announce() {
  mkdir -p /out/announced
  touch "/out/announced/$GUEST.$1"
}
await() { wait_until "${2:-60}" test -e "/out/announced/$((3 - GUEST)).$1"; }

shape_link() {
  local netdev=$1
  shift
  log "link $netdev: $*"
  modprobe sch_netem
  if (($# > 0)); then
    tc qdisc replace dev "$netdev" root netem "$@"
  else
    tc qdisc delete dev "$netdev" root
  fi
}

cut_link() { shape_link "$1" loss 100%; }
mend_link() { shape_link "$1"; }

power_off() {
  echo 0 >"/out/status$GUEST"
  sync
  echo o >/proc/sysrq-trigger
  sleep 30
}
