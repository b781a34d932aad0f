# shellcheck shell=bash
#
# What test scripts share. A script is a Bazel sh_test with //testing:shell_test among its data, and
# begins with
#
#   source testing/shell_test.sh
#
# (the working directory is the root of the tree, or of the runfiles). From then on any command that
# fails, fails the script; clean-ups run on every exit, also on a signal or Bazel's time-out; and
# the result is written to $XML_OUTPUT_FILE case by case, so that what was skipped is counted as
# skipped. Run by hand, from the root of the tree, a script needs no Bazel.
#
#   log TEXT...                 a line of the log, with the seconds since the start
#   fail TEXT...                ends the script: failed
#   skip REASON...              ends the script: skipped (the open case, or the script if it has none)
#   require COMMAND...          skips unless all these programs are installed
#   require_root, require_fuse, require_loop     skip unless this machine offers it
#   in_private_mounts "$@"      must come first: runs the script again in a mount namespace of its own,
#                               so that no mount of it is seen by, or survives in, another process
#   on_exit COMMAND...          runs the command at the end; the last one registered runs first
#   run_bounded SECONDS COMMAND...   logs and runs an external command; fails after so many seconds
#   wait_until SECONDS COMMAND...    tries a command until it succeeds; fails after so many seconds
#   start_daemon NAME COMMAND...     runs a program in the background, its output in $TEST_DIR/NAME.log;
#                               its process id is ${daemon[NAME]}; on_exit ends it
#   stop_daemon NAME [SECONDS]  SIGTERM; fails unless it ends by itself with status 0 in time (5 s)
#   case_start NAME, case_end   bracket one test case; a script without them is one case itself
#   $TEST_DIR                   an empty directory, removed at the end

set -Eeuo pipefail

_script=$(basename "$0" .sh)
_cleanups=()
_cases=()              # One <testcase> element each, of the cases that have ended.
_case=                 # The name of the open case.
_case_begin=$SECONDS
_failure=              # What went wrong first.
_skipped=
_bounded_pid=
declare -A daemon=()

log() { printf '%s [%3ds] %s\n' "$_script" "$SECONDS" "$*"; }

fail() {
  _failure="$*"
  ((BASH_SUBSHELL == 0)) || log "$*"  # Of a subshell only the status comes out.
  exit 1
}

skip() {
  _skipped="$*"
  echo "SKIP: $*"
  exit 0
}

require() {
  local program
  for program; do
    command -v "$program" >/dev/null || skip "$program is not installed"
  done
}

require_root() { ((EUID == 0)) || skip "needs root"; }

require_fuse() {
  require_root
  (exec 3<>/dev/fuse) 2>/dev/null || skip "/dev/fuse cannot be opened"
}

require_loop() {
  require_root
  require losetup
  losetup --find >/dev/null 2>&1 || skip "no loop device can be had"
}

in_private_mounts() {
  [[ -z ${RNBD_IN_PRIVATE_MOUNTS:-} ]] || return 0
  unshare --mount --propagation private true 2>/dev/null || skip "cannot have a mount namespace"
  rm -rf "$TEST_DIR"  # exec below runs no clean-up.
  RNBD_IN_PRIVATE_MOUNTS=1 exec unshare --mount --propagation private -- "$0" "$@"
}

on_exit() { _cleanups+=("$(printf '%q ' "$@")"); }

run_bounded() {
  local seconds=$1 status=0
  shift
  log "$*"
  # In the background, because bash runs no trap before a command in the foreground has ended.
  timeout --kill-after=5 "$seconds" "$@" <&0 &
  _bounded_pid=$!
  wait "$_bounded_pid" || status=$?
  _bounded_pid=
  if ((status == 124 || status == 137)); then log "not done after $seconds s: $*"; fi
  return "$status"
}

_microseconds() { echo "${EPOCHREALTIME/[.,]/}"; }

# Tries the command until it succeeds; fails after so many seconds.
_try_for() {
  local deadline=$(($(_microseconds) + $1 * 1000000))
  shift
  until "$@" >/dev/null 2>&1; do
    (($(_microseconds) < deadline)) || return 1
    sleep 0.05
  done
}

wait_until() {
  local seconds=$1
  shift
  log "wait until: $*"
  _try_for "$seconds" "$@" || fail "not so after $seconds s: $*"
}

start_daemon() {
  local name=$1
  shift
  log "start $name: $*"
  "$@" >"$TEST_DIR/$name.log" 2>&1 </dev/null &
  daemon[$name]=$!
  on_exit _end_daemon "$name"
}

_is_gone() { ! kill -0 "$1"; }

_end_daemon() {
  local pid=${daemon[$1]:-}
  if [[ -n $pid ]] && kill -TERM "$pid" 2>/dev/null && ! _try_for 5 _is_gone "$pid"; then
    kill -KILL "$pid"
  fi
}

stop_daemon() {
  local name=$1 seconds=${2:-5} status=0
  local pid=${daemon[$name]}
  log "stop $name"
  kill -TERM "$pid" 2>/dev/null || true
  _try_for "$seconds" _is_gone "$pid" || fail "$name still runs $seconds s after SIGTERM"
  unset "daemon[$name]"
  wait "$pid" || status=$?
  ((status == 0)) || fail "$name ended with status $status: $(tail -n 5 "$TEST_DIR/$name.log")"
}

case_start() {
  [[ -z $_case ]] || fail "case_start $1: case $_case has not ended"
  _case=$1
  _case_begin=$SECONDS
  log "case $_case"
}

case_end() {
  [[ -n $_case ]] || fail "case_end without case_start"
  _record_case "$_case" ""
  _case=
}

_xml_escape() {
  printf '%s' "$*" | tr -d '\000-\010\013-\037' |
    sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g' -e 's/>/\&gt;/g' -e 's/"/\&quot;/g'
}

_record_case() {
  _cases+=("<testcase classname=\"$(_xml_escape "$_script")\" name=\"$(_xml_escape "$1")\" \
status=\"run\" time=\"$((SECONDS - _case_begin))\">$2</testcase>")
}

_write_xml() {
  [[ -n ${XML_OUTPUT_FILE:-} ]] || return 0
  {
    echo '<?xml version="1.0" encoding="UTF-8"?>'
    echo "<testsuites><testsuite name=\"$(_xml_escape "$_script")\">"
    printf '%s\n' "${_cases[@]}"
    echo '</testsuite></testsuites>'
  } >"$XML_OUTPUT_FILE"
}

_note_failed_command() {
  local status=$1 line=$2 command=$3
  # In a subshell there is nobody to tell: its status fails the command around it.
  ((BASH_SUBSHELL == 0)) || return 0
  # Of a failure inside this library the script's own line tells more; it fails next.
  [[ ${BASH_SOURCE[1]} != "${BASH_SOURCE[0]}" ]] || return 0
  [[ -n $_failure ]] || _failure="line $line: status $status from: $command"
}

_finish() {
  local status=$? name i
  trap - EXIT ERR
  trap '' HUP INT TERM ALRM  # The clean-up is not to be interrupted.
  set +e
  if ((status != 0)); then
    [[ -n $_failure ]] || _failure="ended with status $status"
    status=1
    log "FAILED: $_failure"
    for name in "$TEST_DIR"/*.log; do
      [[ -s $name ]] && log "end of $(basename "$name"):" && tail -n 30 "$name"
    done
  fi
  if [[ -n $_bounded_pid ]]; then
    kill -TERM "$_bounded_pid" 2>/dev/null && wait "$_bounded_pid" 2>/dev/null
  fi
  for ((i = ${#_cleanups[@]} - 1; i >= 0; --i)); do
    log "clean up: ${_cleanups[i]}"
    eval "${_cleanups[i]}" || log "clean-up failed with status $?"
  done
  rm -rf --one-file-system "$TEST_DIR"

  if ((status == 0)) && [[ -n $_case && -z $_skipped ]]; then
    _failure="case $_case has not ended"
    status=1
  fi
  if ((status != 0)); then
    _record_case "${_case:-$_script}" "<failure message=\"$(_xml_escape "$_failure")\"/>"
  elif [[ -n $_skipped ]]; then
    _record_case "${_case:-$_script}" "<skipped message=\"$(_xml_escape "$_skipped")\"/>"
  elif ((${#_cases[@]} == 0)); then
    _record_case "$_script" ""
  fi
  _write_xml
  exit "$status"
}

TEST_DIR=$(mktemp -d "${TEST_TMPDIR:-${TMPDIR:-/tmp}}/$_script.XXXXXX")
trap '_note_failed_command $? $LINENO "$BASH_COMMAND"' ERR
trap _finish EXIT
trap 'fail "signal HUP"' HUP
trap 'fail "signal INT"' INT
trap 'fail "signal TERM"' TERM
trap 'fail "time-out"' ALRM
