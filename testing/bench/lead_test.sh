#!/bin/bash
# A short run of the benchmark: rnbd is not behind its peers on the same kind of socket. No absolute number is expected,
# for nobody knows the machine; nor is a difference inside the noise.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require_loop
require fio nbdkit nbdfuse qemu-storage-daemon setpriv

readonly MEASURED=(tcp unix nbdfuse-tcp nbdfuse-unix qemu-tcp qemu-unix null)

# run_benchmark NAME OPTION...
run_benchmark() {
  local name=$1
  shift
  # It has a bound of its own, below this one.
  TMPDIR=$TEST_DIR run_bounded 170 testing/bench/run --no-build --minutes 1.5 --size 64 --json "$TEST_DIR/$name.json" \
    --report "$TEST_DIR/$name.md" --plot "$TEST_DIR/$name.svg" "$@" >"$TEST_DIR/$name.log" 2>&1
}

case_start leads_with_many_small_requests
status=0
run_benchmark lead --must-lead --rounds 3 --seconds 0.4 --cells '^4 KiB random (read|write), depth 32' \
  "${MEASURED[@]}" || status=$?
# With 3 the machine was too busy for all rounds; what there is was compared.
((status == 0 || status == 3)) || fail "$(grep BEHIND "$TEST_DIR/lead.log" || tail -n 3 "$TEST_DIR/lead.log")"
sed -n '/^## Mounted file/,/^## Figures/p' "$TEST_DIR/lead.md"
case_end

case_start leaves_nothing_behind
! pgrep -f "$TEST_DIR/rnbd-bench" || fail "processes of the benchmark still run"
! grep "$TEST_DIR/rnbd-bench" /proc/self/mounts || fail "still mounted"
! losetup --noheadings --output BACK-FILE | grep "$TEST_DIR/rnbd-bench" || fail "loop devices are still attached"
! compgen -G "$TEST_DIR/rnbd-bench.*" || fail "files are left"
case_end

case_start draws_and_reads_its_own_samples
testing/bench/run --from "$TEST_DIR/lead.json" --report "$TEST_DIR/again.md" --plot "$TEST_DIR/again.svg"
cmp "$TEST_DIR/lead.md" "$TEST_DIR/again.md"
cmp "$TEST_DIR/lead.svg" "$TEST_DIR/again.svg"
case_end

case_start leaves_nothing_behind_when_interrupted
TMPDIR=$TEST_DIR start_daemon interrupted testing/bench/run --no-build --size 64 --places file --rounds 500 \
  --seconds 0.2 --cells 'read, depth 32' tcp null
wait_until 40 grep -q "^round 1 of" "$TEST_DIR/interrupted.log"
kill -INT "${daemon[interrupted]}"
wait_until 20 _is_gone "${daemon[interrupted]}"
! pgrep -f "$TEST_DIR/rnbd-bench" || fail "processes of the benchmark still run"
! compgen -G "$TEST_DIR/rnbd-bench.*" || fail "files are left"
case_end

case_start every_limit_of_sockets_is_measured
for transport in tcp unix; do
  for exchange in ping_pong stream; do
    for direction in read write; do
      run_bounded 20 testing/bench/socket_limits --transport="$transport" --exchange="$exchange" \
        --direction="$direction" --block=65536 --seconds=0.1 >"$TEST_DIR/limit"
      grep -Eq '"requests": [1-9]' "$TEST_DIR/limit" || fail "$transport $exchange $direction: $(<"$TEST_DIR/limit")"
    done
  done
done
case_end
