#!/bin/bash
# In a guest: the kernel's client with the kernel's server. It is the self-test of the guests.

source testing/shell_test.sh
source testing/guest/guest_lib.sh

start_rxe
load_kernel_server
load_kernel_client

map_and_verify() {
  map_device "$1" "$2" 192.168.77.1
  [[ $(<"/sys/block/${mapped#/dev/}/rnbd/state") == open ]] || fail "$mapped is not open"
  [[ $(blockdev --getsize64 "$mapped") == $(blockdev --getsize64 "$2") ]] || fail "$mapped has another size"
  verify_with_fio "$mapped"
  cmp "$mapped" "$2" || fail "$2 has other bytes than $mapped"
  unmap_device "$mapped"
  wait_until 10 test ! -e "/sys/block/${mapped#/dev/}"
}

case_start "ramdisk"
modprobe brd rd_nr=1 rd_size=16384
map_and_verify ram /dev/ram0
case_end

case_start "null_blk"
modprobe null_blk nr_devices=1 gb=1 memory_backed=1
map_device null /dev/nullb0 192.168.77.1
verify_with_fio "$mapped"
unmap_device "$mapped"
case_end

case_start "refusals"
status=0
map_device none /dev/none 192.168.77.1 || status=$?
((status != 0)) || fail "a device that does not exist was mapped"
case_end

case_start "modules can be unloaded"
wait_until 10 modprobe -r rnbd_client
wait_until 10 modprobe -r rnbd_server
case_end

case_start "the kernel has not complained"
check_dmesg
case_end
