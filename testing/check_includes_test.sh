#!/bin/bash
# Holds check_includes to its rules with small trees, and this tree to check_includes.

source testing/shell_test.sh

check=$PWD/testing/check_includes
# The tree itself, behind the links of the runfiles.
root=$(dirname "$(dirname "$(readlink -f testing/check_includes)")")

# Makes the file $1 including each of the others and checks it.
check_file() {
  local path=$TEST_DIR/$1
  mkdir -p "$(dirname "$path")"
  printf '#include "%s"\n' "${@:2}" >"$path"
  (cd "$TEST_DIR" && "$check" "$1")
}

case_start downward_is_allowed
check_file client/device.cc client/device.h config/client_config.h rtrs/address.h common/status.h \
  sys/types.h absl/status/status.h
check_file server/export.h server/backend.h config/server_config.h rtrs/messages.h
check_file config/client_config.h rtrs/address.h common/status.h
check_file rtrs/fabric.h common/ring.h
check_file testing/fake.cc client/device.h server/backend.h
case_end

case_start upward_is_refused
for pair in common:rtrs rtrs:config rtrs:server config:client config:server; do
  if output=$(check_file "${pair%:*}/x.h" common/status.h "${pair#*:}/y.h"); then
    fail "$pair is allowed"
  fi
  [[ $output == "${pair%:*}/x.h:2: "* ]] || fail "$output"
done
case_end

case_start sideways_is_refused
if check_file client/x.cc server/y.h; then fail "client may include server"; fi
if check_file server/x.cc client/y.h; then fail "server may include client"; fi
case_end

case_start only_tests_include_testing
check_file rtrs/fabric_test.cc testing/hex.h
check_file rtrs/fabric_benchmark.cc testing/hex.h
if check_file rtrs/fabric.cc testing/hex.h; then fail "the program may include testing"; fi
if check_file rtrs/fabric_test.cc server/backend.h; then fail "tests may include upwards"; fi
case_end

case_start this_tree
cd "$root" || fail "no $root"
mapfile -t sources < <(find client common config rtrs server -name '*.cc' -o -name '*.h')
((${#sources[@]} > 20)) || fail "only ${#sources[@]} sources in $root"
testing/check_includes "${sources[@]}"
case_end
