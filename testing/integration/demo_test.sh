#!/bin/bash
# testing/demo, without its build: it works, and interrupted after any of its steps it leaves no mount, loop
# device, process or file behind.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require_loop
require mkfs.ext4 e2fsck setsid
source testing/integration/remote_disk.sh

# What the demo expects around it.
mkdir -p "$TEST_DIR/tree/testing" "$TEST_DIR/files"
cp testing/demo "$TEST_DIR/tree/testing/demo"
ln -s "$PWD/$bin" "$TEST_DIR/tree/bazel-bin"
for i in $(seq 300); do seq "$i" $((i * 7)) >"$TEST_DIR/files/$i"; done

# Below it lies all that the demo makes.
work=
nothing_is_left() {
  [[ -n $work ]] || return 0
  ! grep -F "$work/" /proc/self/mounts || return 1
  # The path of a file whose mount is gone has only its end.
  ! losetup --noheadings --output BACK-FILE | grep "^\($work.*\|\)/disk0" || return 1
  ! pgrep --list-full -f -- "$work/" || return 1
  [[ ! -e $work ]]
}
start_demo() {
  # As a terminal would: a group of its own, in which SIGINT is not ignored.
  RNBD_DEMO_BUILT=1 setsid env --default-signal=INT "$TEST_DIR/tree/testing/demo" --size 200M \
    --tree "$TEST_DIR/files" >"$TEST_DIR/demo.log" 2>&1 </dev/null &
  demo_pid=$!
}
demo_has_ended() { ! kill -0 "$demo_pid"; }
find_work() { work=$(grep -o -m1 '/tmp/rnbd-demo\.[A-Za-z0-9]*' "$TEST_DIR/demo.log" || true); }

case_start "to its end"
start_demo
wait_until 60 demo_has_ended
wait "$demo_pid"
grep -q "All of it worked" "$TEST_DIR/demo.log"
find_work
nothing_is_left || fail "something is left"
mapfile -t steps < <(grep '^\$ ' "$TEST_DIR/demo.log" | cut -d' ' -f2-3 | sed "s|$work.*||" | awk '{ print ++seen[$0] "\t" $0 }')
((${#steps[@]} > 15)) || fail "these are not all steps: ${steps[*]}"
case_end

case_start "interrupted after each step"
reached() { (($(grep -cF -- "\$ ${step#*$'\t'}" "$TEST_DIR/demo.log") >= ${step%%$'\t'*})); }
reached_or_ended() { reached || demo_has_ended; }
for step in "${steps[@]}"; do
  start_demo
  wait_until 60 reached_or_ended
  kill -INT -- "-$demo_pid" 2>/dev/null || true
  wait_until 30 demo_has_ended
  status=0
  wait "$demo_pid" || status=$?
  # At the last step it may have been faster.
  ((status == 130 || status == 0)) || fail "status $status after $step"
  find_work
  nothing_is_left || fail "something is left after $step"
done
case_end
