#!/bin/bash
# In a guest that the appliance is joined to: the kernel's client with a disk of it. For appliance_test.sh.
#
# Usage: testing/guest/kernel_client_of_appliance.sh ADDRESS DISK

source testing/shell_test.sh
source testing/guest/guest_lib.sh

start_rxe eth0
load_kernel_client
map_device kernel "$2" "$1"
verify_with_fio "$mapped" --size=2M --fsync=32
unmap_device "$mapped"
wait_until 10 test ! -e "/sys/block/${mapped#/dev/}"
check_dmesg
