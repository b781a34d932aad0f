#!/bin/bash
# A short run of the benchmark: rnbd is not behind its peers on the same kind of socket. No absolute number is expected,
# for nobody knows the machine; nor is a difference inside the noise.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require_loop
require fio nbdkit nbdfuse qemu-storage-daemon setpriv

# Exits with 1 where rnbd is behind, with 3 where the machine was too busy for all rounds: what there is was compared.
# leads NAME MINUTES OPTION...
leads() {
  local name=$1 minutes=$2 status=0
  shift 2
  # It has a bound of its own, below this one.
  TMPDIR=$TEST_DIR run_bounded $((minutes * 60 + 90)) testing/bench/run --no-build --must-lead --size 64 \
    --minutes "$minutes" --json "$TEST_DIR/$name.json" --report "$TEST_DIR/$name.md" --plot "$TEST_DIR/$name.svg" "$@" \
    >"$TEST_DIR/$name.log" 2>&1 || status=$?
  sed -n '/^## Mounted file/,/^## Latency/p' "$TEST_DIR/$name.md"
  ((status == 0 || status == 3))
}

# The cells of a run in which rnbd was behind, as a pattern.
behind() { sed -n 's/^BEHIND \(.*\), \(file\|loop\): .*/^\1$/p' "$TEST_DIR/$1.log" | sort -u | paste -sd '|'; }

case_start leads_in_each_cell_of_the_quick_set
if ! leads quick 5 --quick --seconds 0.3; then
  cells=$(behind quick)
  [[ -n $cells ]] || fail "$(tail -n 3 "$TEST_DIR/quick.log")"
  # Of so many comparisons one or two are wrong by chance, where both are as fast; not twice.
  grep BEHIND "$TEST_DIR/quick.log"
  leads again 4 --quick --rounds 9 --seconds 0.3 --cells "$cells" || fail "$(grep BEHIND "$TEST_DIR/again.log" ||
    tail -n 3 "$TEST_DIR/again.log")"
fi
case_end

case_start leaves_nothing_behind
! pgrep -f "$TEST_DIR/rnbd-bench" || fail "processes of the benchmark still run"
! grep "$TEST_DIR/rnbd-bench" /proc/self/mounts || fail "still mounted"
! losetup --noheadings --output BACK-FILE | grep "$TEST_DIR/rnbd-bench" || fail "loop devices are still attached"
! compgen -G "$TEST_DIR/rnbd-bench.*" || fail "files are left"
case_end

case_start draws_and_reads_its_own_samples
testing/bench/run --from "$TEST_DIR/quick.json" --report "$TEST_DIR/redrawn.md" --plot "$TEST_DIR/redrawn.svg"
cmp "$TEST_DIR/quick.md" "$TEST_DIR/redrawn.md"
cmp "$TEST_DIR/quick.svg" "$TEST_DIR/redrawn.svg"
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
