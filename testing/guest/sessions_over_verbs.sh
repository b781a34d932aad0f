#!/bin/bash
# Runs tests of sessions over verbs, with a soft RoCE device of three addresses: one guest for several of
# them. The cases are those of the tests.
#
# Usage: testing/guest/sessions_over_verbs.sh TEST...

result=${XML_OUTPUT_FILE:-}
unset XML_OUTPUT_FILE  # Of the tests, not of this script.
source testing/shell_test.sh
source testing/guest/guest_lib.sh

readonly ADDRESSES="192.168.77.1 192.168.77.2 192.168.77.3"

has_addresses() {
  # The device's port has each address as a GID, in hexadecimal.
  (($(grep -il c0a8:4d0 /sys/class/infiniband/rxe_dummy0/ports/1/gids/* | wc -l) >= 3))
}

start_rxe
for address in ${ADDRESSES#* }; do ip address add "$address/24" dev dummy0; done
wait_until 10 has_addresses

failed=()
for name; do
  XML_OUTPUT_FILE=$TEST_DIR/$name.xml RNBD_RDMA=$ADDRESSES run_bounded 300 "$name" || failed+=("$name")
  # Not if it ended in the middle.
  [[ -s $TEST_DIR/$name.xml ]] || fail "no report from $name"
done

if [[ -n $result ]]; then
  {
    echo '<?xml version="1.0" encoding="UTF-8"?>'
    echo '<testsuites>'
    for file in "$TEST_DIR"/*.xml; do sed -n '/<testsuite /,/<\/testsuite>/p' "$file"; done
    echo '</testsuites>'
  } >"$result"
fi
((${#failed[@]} == 0)) || fail "failed: ${failed[*]}"
check_dmesg
