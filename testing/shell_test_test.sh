#!/bin/bash
# Tests shell_test.sh with small scripts that pass, fail, skip, hang and are interrupted.

source testing/shell_test.sh

# Runs stdin as a test script; leaves its output, its XML and its exit status in $TEST_DIR.
run_script() {
  local status=0
  { echo 'source testing/shell_test.sh' && cat; } >"$TEST_DIR/example.sh"
  rm -f "$TEST_DIR/xml"
  XML_OUTPUT_FILE=$TEST_DIR/xml TEST_TMPDIR=$TEST_DIR \
    timeout 30 bash "$TEST_DIR/example.sh" >"$TEST_DIR/output" 2>&1 || status=$?
  echo "$status" >"$TEST_DIR/status"
}

expect_status() {
  [[ $(<"$TEST_DIR/status") == "$1" ]] ||
    fail "status $(<"$TEST_DIR/status") instead of $1: $(<"$TEST_DIR/output")"
}

expect_in() {
  grep -qF -- "$2" "$TEST_DIR/$1" || fail "no '$2' in $1: $(<"$TEST_DIR/$1")"
}

expect_count() {
  local count
  count=$(grep -c -- "$2" "$TEST_DIR/xml" || true)
  ((count == $1)) || fail "$count and not $1 of $2: $(<"$TEST_DIR/xml")"
}

expect_clean() {
  local left
  left=$(find "$TEST_DIR" -mindepth 1 -maxdepth 1 -name 'example.*' -type d)
  [[ -z $left ]] || fail "left behind: $left"
}

case_start passes
run_script <<<'true'
expect_status 0
expect_count 1 '<testcase'
expect_in xml 'name="example"'
expect_count 0 '<failure\|<skipped'
expect_clean
case_end

case_start fails_at_the_first_failing_command
run_script <<'SCRIPT'
broken() { grep -q "<no & such>" /dev/null; }
broken
touch "$TEST_TMPDIR/went-on"
SCRIPT
expect_status 1
[[ ! -e $TEST_DIR/went-on ]]
expect_count 1 '<failure'
expect_in xml '&lt;no &amp; such&gt;'
expect_clean
case_end

case_start fails_with_a_message
run_script <<<'fail the device has 3 sectors'
expect_status 1
expect_in xml '<failure message="the device has 3 sectors"/>'
case_end

case_start skips
run_script <<<'skip no card'
expect_status 0
expect_in output 'SKIP: no card'
expect_in xml '<skipped message="no card"/>'
expect_count 1 '<testcase'
case_end

case_start requires_programs
run_script <<<'require bash no-such-program; false'
expect_status 0
expect_in xml '<skipped message="no-such-program is not installed"/>'
run_script <<<'require bash sed'
expect_count 0 '<skipped'
case_end

case_start counts_each_case
run_script <<'SCRIPT'
case_start first; case_end
case_start second; case_end
case_start third; false; case_end
case_start fourth; case_end
SCRIPT
expect_status 1
expect_count 3 '<testcase'
expect_count 1 '<failure'
grep -F '<failure' "$TEST_DIR/xml" | grep -qF 'name="third"'
case_end

case_start skips_one_case
run_script <<'SCRIPT'
case_start first; case_end
case_start second; skip no card; case_end
SCRIPT
expect_status 0
expect_count 2 '<testcase'
grep -F '<skipped' "$TEST_DIR/xml" | grep -qF 'name="second"'
case_end

case_start an_open_case_failed
run_script <<<'case_start first'
expect_status 1
expect_in xml 'case first has not ended'
case_end

case_start cleans_up_in_reverse
run_script <<'SCRIPT'
on_exit echo 'one  two $three;'
on_exit false
on_exit echo three
false
SCRIPT
expect_status 1
[[ $(grep -x 'one  two .three.\|three' "$TEST_DIR/output") == $'three\none  two $three;' ]]
expect_in output 'clean-up failed with status 1'
case_end

case_start cleans_up_after_a_signal
for signal in TERM INT HUP ALRM; do
  rm -f "$TEST_DIR/ready" "$TEST_DIR/cleaned"
  run_script <<SCRIPT
on_exit touch "\$TEST_TMPDIR/cleaned"
(sleep 1; kill -$signal \$\$) &
run_bounded 20 sleep 20
SCRIPT
  expect_status 1
  [[ -e $TEST_DIR/cleaned ]] || fail "no clean-up after SIG$signal"
  expect_in xml '<failure'
  expect_clean
done
case_end

case_start bounds_time
begin=$SECONDS
run_script <<<'run_bounded 1 sleep 20'
expect_status 1
expect_in output 'not done after 1 s: sleep 20'
run_script <<<'wait_until 1 test -e /no/such/file'
expect_status 1
expect_in xml 'not so after 1 s: test -e /no/such/file'
((SECONDS - begin < 10))
run_script <<<'run_bounded 20 true; wait_until 20 true; echo input | run_bounded 20 grep -q input'
expect_status 0
case_end

case_start ends_daemons
run_script <<'SCRIPT'
start_daemon sleeper sleep 100
echo "${daemon[sleeper]}" >"$TEST_TMPDIR/pid"
SCRIPT
expect_status 0
if kill -0 "$(<"$TEST_DIR/pid")" 2>/dev/null; then fail "the daemon still runs"; fi
case_end

case_start a_daemon_must_end_well_on_sigterm
run_script <<'SCRIPT'
start_daemon good bash -c 'trap "exit 0" TERM; echo ready; while :; do sleep 0.1; done'
start_daemon bad bash -c 'trap "echo why; exit 3" TERM; echo ready; while :; do sleep 0.1; done'
wait_until 20 grep -q ready "$TEST_DIR/good.log"
wait_until 20 grep -q ready "$TEST_DIR/bad.log"
stop_daemon good
stop_daemon bad
SCRIPT
expect_status 1
expect_in xml 'bad ended with status 3: '
expect_in xml 'why'
run_script <<'SCRIPT'
start_daemon deaf bash -c 'trap "" TERM; echo ready; while :; do sleep 0.1; done'
echo "${daemon[deaf]}" >"$TEST_TMPDIR/pid"
wait_until 20 grep -q ready "$TEST_DIR/deaf.log"
stop_daemon deaf 1
SCRIPT
expect_status 1
expect_in xml 'deaf still runs 1 s after SIGTERM'
if kill -0 "$(<"$TEST_DIR/pid")" 2>/dev/null; then fail "the daemon still runs"; fi
case_end

case_start private_mounts
require_root
printf '#!/bin/bash\n' >"$TEST_DIR/mounts.sh"
cat >>"$TEST_DIR/mounts.sh" <<'SCRIPT'
source testing/shell_test.sh
in_private_mounts "$@"
[[ $1 == "an argument" ]]
mount -t tmpfs none "$TEST_DIR"
mountpoint -q "$TEST_DIR"
grep -F "$TEST_DIR" /proc/self/mounts
SCRIPT
chmod +x "$TEST_DIR/mounts.sh"
XML_OUTPUT_FILE=$TEST_DIR/xml TEST_TMPDIR=$TEST_DIR "$TEST_DIR/mounts.sh" "an argument" \
  >"$TEST_DIR/output" 2>&1 || fail "$(<"$TEST_DIR/output")"
if grep -F "$TEST_DIR" /proc/self/mounts; then fail "the mount is visible outside"; fi
if grep -qF '<skipped' "$TEST_DIR/xml"; then skip "no mount namespaces here"; fi
case_end
