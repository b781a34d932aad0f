# shellcheck shell=bash
#
# What tests of control files share; for sourcing behind testing/shell_test.sh. Messages leave out $CONTROL, the
# directory that they are in.
#
#   store FILE TEXT                  writes it with one write(2), as echo does, and prints the errno's name, or "ok"
#   expect_store RESULT FILE TEXT    what that is to print
#   expect_text TEXT FILE            what a file is to contain
#   expect_mode MODE FILE            its mode, in octal digits
#   expect_names "A B ..." DIRECTORY   what is to be in a directory

store() {
  python3 - "$1" "$2" <<'PYTHON'
import errno, os, sys
path, text = sys.argv[1:]
try:
    file = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)
    print("ok")
except OSError as error:
    print(errno.errorcode[error.errno])
PYTHON
}

expect_store() {
  local expected=$1 file=$2 text=$3 found
  found=$(store "$file" "$text")
  [[ $found == "$expected" ]] || fail "$text > ${file#"$CONTROL"/}: $found instead of $expected"
}

expect_text() {
  local expected=$1 file=$2 found
  found=$(<"$file")
  [[ $found == "$expected" ]] || fail "${file#"$CONTROL"/} is '$found' instead of '$expected'"
}

expect_mode() {
  local expected=$1 file=$2 found
  found=$(stat -c %a "$file")
  [[ $found == "$expected" ]] || fail "${file#"$CONTROL"/} has mode $found instead of $expected"
}

expect_names() {
  local expected=$1 directory=$2 found
  found=$(cd "$directory" && printf '%s ' *)
  [[ $found == "$expected " ]] || fail "${directory#"$CONTROL"/} has '$found' instead of '$expected'"
}
