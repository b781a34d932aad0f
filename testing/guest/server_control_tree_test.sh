#!/bin/bash
# In a guest: our server's control tree beside that of the kernel's server, with the kernel's client on both.

source testing/shell_test.sh
source testing/guest/guest_lib.sh

start_rxe
load_kernel_server dev_search_path=/dev port_nr=1235
load_kernel_client
modprobe brd rd_nr=2 rd_size=65536
modprobe fuse

SYS=$TEST_DIR/sys
cat >"$TEST_DIR/server.yaml" <<YAML
listen:
  - rdma: "[::]:1234"
    required: true
admin_socket: $TEST_DIR/admin.sock
control_mount: $SYS
sessions:
  - name: "ours"
    dev_search_path: /dev
YAML
start_daemon server rnbd-server --config "$TEST_DIR/server.yaml"
wait_until 20 grep -q "rnbd-server is ready" "$TEST_DIR/server.log"

map_device ours ram0 192.168.77.1 access_mode=rw
ours=$mapped
map_device kernels ram1 192.168.77.1 dest_port=1235 access_mode=rw
kernels=$mapped

# The entries below a directory with their modes, but for what sysfs gives every device, and what is ours.
list() {
  local directory=$1 prefix=$2 entry name
  for entry in "$directory"/*; do
    name=${entry##*/}
    case $name in
      power | uevent | subsystem | reload) ;;
      *)
        if [[ -L $entry ]]; then
          echo "link $prefix$name"
        elif [[ -d $entry ]]; then
          echo "directory $prefix$name"
          list "$entry" "$prefix$name/"
        else
          echo "$(stat -c %a "$entry") $prefix$name"
        fi
        ;;
    esac
  done
}

# What a server shows, with the names of its disk and its session taken out.
tree() {
  {
    list "$1/class/rnbd-server/ctl/devices" rnbd-server/
    list "$1/class/rtrs-server/$3" rtrs-server/
  } | sed "s/$2/DISK/; s/$3/SESSION/" | grep -vE "/sessions/SESSION/(inflight|limits|resize)$" # which are ours
}

case_start "names and modes are the kernel's"
tree /sys ram1 kernels >"$TEST_DIR/kernel.txt"
tree "$SYS" ram0 ours >"$TEST_DIR/our.txt"
cat "$TEST_DIR/our.txt"
grep -q force_close "$TEST_DIR/our.txt" || fail "there is nothing"
diff "$TEST_DIR/kernel.txt" "$TEST_DIR/our.txt" || fail "they differ"
case_end

case_start "contents are the kernel's"
end=paths/ip:192.168.77.1@ip:192.168.77.1
for file in hca_name hca_port src_addr dst_addr; do
  diff "/sys/class/rtrs-server/kernels/$end/$file" "$SYS/class/rtrs-server/ours/$end/$file" || fail "$file differs"
done
[[ $(<"$SYS/class/rtrs-server/ours/$end/hca_name") == rxe_dummy0 ]] || fail "hca_name is $(<"$SYS/class/rtrs-server/ours/$end/hca_name")"
our_device=$SYS/class/rnbd-server/ctl/devices/ram0/sessions/ours
kernels_device=/sys/class/rnbd-server/ctl/devices/ram1/sessions/kernels
for file in access_mode read_only; do
  diff "$kernels_device/$file" "$our_device/$file" || fail "$file differs"
done
[[ $(<"$our_device/mapping_path") == ram0 ]] || fail "mapping_path is $(<"$our_device/mapping_path")"
[[ $(readlink "$SYS/class/rnbd-server/ctl/devices/ram0/block_dev") == /sys/block/ram0 ]] || fail "block_dev"
case_end

# Reads and writes of a device, as its server counts them since this was called the last time.
count() {
  local file=$1/class/rtrs-server/$2/$end/stats/rdma
  cat "$file"
  echo 1 >"$file"
}

case_start "traffic is counted as the kernel counts it"
for server in "$SYS ours" "/sys kernels"; do
  # shellcheck disable=SC2086  # two words
  count $server >/dev/null
done
for device in "$ours" "$kernels"; do
  dd if=/dev/zero of="$device" bs=64k count=16 oflag=direct status=none
  dd if="$device" of=/dev/null bs=64k count=8 iflag=direct status=none
done
our_count=$(count "$SYS" ours)
kernels_count=$(count /sys kernels)
log "ours: $our_count, the kernel's: $kernels_count"
[[ $our_count == "$kernels_count" ]] || fail "ours: $our_count, the kernel's: $kernels_count"
case_end

case_start "what cannot be written has the kernel's errno"
for text in 0 2 yes; do
  for file in "rnbd-server/ctl/devices/DISK/sessions/SESSION/force_close" "rtrs-server/SESSION/$end/disconnect" \
    "rtrs-server/SESSION/$end/stats/rdma"; do
    for server in "$SYS ram0 ours" "/sys ram1 kernels"; do
      read -r root disk session <<<"$server"
      path=${file/DISK/$disk}
      path=$root/class/${path/SESSION/$session}
      output=$({ echo "$text" >"$path"; } 2>&1) && fail "$path takes $text"
      [[ $output == *"Invalid argument"* ]] || fail "$path: $output"
    done
  done
done
case_end

case_start "force_close takes the device from the kernel's client, as the kernel's server does"
echo 1 >"$our_device/force_close"
echo 1 >"$kernels_device/force_close"
[[ ! -e $SYS/class/rnbd-server/ctl/devices/ram0 ]] || fail "the disk is still there"
for device in "$ours" "$kernels"; do
  timeout 20 dd if="$device" of=/dev/null bs=4k count=1 iflag=direct status=none 2>/dev/null && fail "$device can be read"
  echo force >"/sys/block/${device#/dev/}/rnbd/unmap_device"
  wait_until 10 test ! -e "/sys/block/${device#/dev/}"
done
map_device ours ram0 192.168.77.1
verify_with_fio "$mapped"
case_end

case_start "the rnbd command ends the path"
state=/sys/class/rtrs-client/ours/$end/state
[[ $(rnbd server path list sessname,hca_name noheaders csv --socket "$TEST_DIR/admin.sock") == ours,rxe_dummy0 ]] || fail "it lists other paths"
rnbd server disconnect ours --socket "$TEST_DIR/admin.sock"
wait_until 20 grep -q disconnected "$state"
wait_until 20 grep -q "session ours: gone" "$TEST_DIR/server.log"
echo 1 >"${state%/state}/reconnect"
grep -q "^connected" "$state" || fail "it cannot be connected again: $(<"$state")"
dd if="$mapped" of=/dev/null bs=4k count=1 iflag=direct status=none || fail "it cannot be read"
unmap_device "$mapped"
case_end

check_dmesg
