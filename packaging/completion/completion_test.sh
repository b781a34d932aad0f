#!/bin/bash
# Completion of rnbd in bash and zsh, with a real mount's names and without.

source testing/shell_test.sh
in_private_mounts "$@"

bin=
[[ -x client/rnbd ]] || bin=bazel-bin/
RNBD=$PWD/${bin}client/rnbd
PATH=$(dirname "$RNBD"):$PATH
export RNBD_MOUNTS=$TEST_DIR/mnt
source packaging/completion/rnbd.bash

# As bash calls it at the end of a line; the answers in $found.
complete_line() {
  COMP_LINE=$1
  COMP_POINT=${#COMP_LINE}
  read -ra COMP_WORDS <<<"$COMP_LINE"
  [[ $COMP_LINE != *" " ]] || COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  _rnbd rnbd "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
  found="${COMPREPLY[*]}"
}

expect() {
  complete_line "$1"
  [[ $found == "$2" ]] || fail "'$1' becomes '$found' instead of '$2'"
}

case_start "words in bash"
[[ $(complete -p rnbd) == *"-F _rnbd rnbd"* ]] || fail "rnbd is not registered"
expect "rnbd cl" "client"
expect "rnbd server cl" "close"
expect "rnbd server device cl" "close"
expect "rnbd server device " "close drain help inflight limit list resize show undrain"
expect "rnbd server fe" "fence"
expect "rnbd server unf" "unfence"
expect "rnbd session re" "reconnect recover remap"
expect "rnbd map x from y mi" "migration"
expect "rnbd list no" "noheaders nototals notree"
expect "rnbd nonsense " ""
expect "rnbd show di" ""
case_end

case_start "names of a mount"
require_fuse
source testing/integration/remote_disk.sh
make_images 1M disk.img other.img
start_server server <<YAML
listen:
  - unix: $SOCKET
admin_socket: $_sockets/admin.sock
sessions:
  - name: "*"
    dev_search_path: $IMAGES
YAML
map_images blya "$RNBD_MOUNTS" disk.img other.img
expect "rnbd unmap di" "disk.img"
export RNBD_ADMIN_SOCKET=$_sockets/admin.sock
expect "rnbd server resize o" "other.img"
expect "rnbd server fence b" "blya"
expect "rnbd session show b" "blya"
expect "rnbd map x from b" "blya"
expect "rnbd map x from blya on /" "$RNBD_MOUNTS"
COMP_WORDBREAKS=$' \t\n"\'><=;|&(:@'
expect "rnbd path show unix:/" "$SOCKET"
case_end

case_start "in zsh"
require zsh
# compadd, which is there in completion only, says what it is given.
cat >"$TEST_DIR/try" <<'ZSH'
compadd() { print -l -- ${(P)2} }
words=("$@")
CURRENT=$#words
completion() { . packaging/completion/_rnbd }
completion
ZSH
run_zsh() { zsh -f "$TEST_DIR/try" "$@" | tr '\n' ' '; }
[[ $(run_zsh rnbd cl) == "client " ]] || fail "$(run_zsh rnbd cl)"
[[ $(run_zsh rnbd unmap di) == "disk.img " ]] || fail "$(run_zsh rnbd unmap di)"
[[ -z $(run_zsh rnbd nonsense "") ]] || fail "$(run_zsh rnbd nonsense "")"
head -1 packaging/completion/_rnbd | grep -qx "#compdef rnbd"
stop_daemon blya 15
case_end
