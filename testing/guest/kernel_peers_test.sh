#!/bin/bash
# In two guests: the kernel's client in the first, the kernel's server in the second, over two networks
# between them that lose packets or are cut. It is the self-test of joined guests.

source testing/shell_test.sh
source testing/guest/guest_lib.sh

start_rxe eth0
start_rxe eth1

run_server() {
  modprobe brd rd_nr=1 rd_size=16384
  load_kernel_server
  announce "server is ready"
  await "client is done" 500
  check_dmesg
}

# The state of the path to a server's address.
path_state() { cat "/sys/class/rtrs-client/peers/paths/"*"@ip:$1/state"; }
path_is() { [[ $(path_state "$1") == "$2" ]]; }

run_client() {
  load_kernel_client
  await "server is ready"

  case_start "both networks reach the peer"
  run_bounded 20 ping -c 2 -W 5 192.168.100.2
  run_bounded 20 ping -c 2 -W 5 192.168.101.2
  case_end

  case_start "map over two paths"
  map_device peers /dev/ram0 192.168.100.2 path=ip:192.168.101.2
  path_is 192.168.100.2 connected || fail "the first path is $(path_state 192.168.100.2)"
  path_is 192.168.101.2 connected || fail "the second path is $(path_state 192.168.101.2)"
  verify_with_fio "$mapped" --size=4M
  case_end

  case_start "a network that delays, loses and doubles"
  shape_link eth0 delay 3ms loss 0.3% duplicate 1%
  verify_with_fio "$mapped" --size=512k
  shape_link eth0
  case_end

  case_start "one network is cut"
  cut_link eth1
  # The transport gives up after its retries, or the heartbeat does.
  wait_until 90 path_is 192.168.101.2 disconnected
  verify_with_fio "$mapped" --size=512k
  mend_link eth1
  wait_until 120 path_is 192.168.101.2 connected
  verify_with_fio "$mapped" --size=512k
  case_end

  case_start "unmap"
  unmap_device "$mapped"
  wait_until 40 test ! -e /sys/class/rtrs-client/peers
  case_end

  case_start "the kernel has not complained"
  check_dmesg
  case_end
  announce "client is done"
}

if ((GUEST == 1)); then run_client; else run_server; fi
