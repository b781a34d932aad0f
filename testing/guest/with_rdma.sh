#!/bin/bash
# Runs a command with an RDMA device at 192.168.77.1: soft RoCE (rxe) or soft iWARP (siw). For run_guest; a
# binary for it comes with --binary. Tests find the address in RNBD_RDMA, and what is below it in
# RNBD_RDMA_NETDEV.
#
# Usage: testing/guest/with_rdma.sh rxe|siw COMMAND...

result=${XML_OUTPUT_FILE:-}
unset XML_OUTPUT_FILE  # Of the command, not of this script.
source testing/shell_test.sh
source testing/guest/guest_lib.sh

"start_$1"
shift
status=0
XML_OUTPUT_FILE=$result RNBD_RDMA=192.168.77.1 RNBD_RDMA_NETDEV=dummy0 "$@" || status=$?
((status == 0)) || fail "status $status from: $*"
check_dmesg
