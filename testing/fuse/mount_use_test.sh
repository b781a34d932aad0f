#!/bin/bash
#
# What programs do with the files of a mount: fio, dd, cp, losetup and their kin on devices in memory.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require fio dd cp cmp truncate fallocate

readonly MOUNT=$TEST_DIR/mount
readonly DISK=$MOUNT/disk0
readonly SIZE=$((64 << 20))

ended() { ! kill -0 "${daemon[$1]}" 2>/dev/null; }
has_open() { [[ -n $(find "/proc/$1/fd" -lname "$DISK") ]]; }
mounted() { grep -q "^mounted$" "$TEST_DIR/$1.log"; }
unmount() { umount --lazy "$MOUNT" 2>/dev/null || true; }

serve() {
  local name=$1
  shift
  start_daemon "$name" testing/fuse/null_mount --memory --size=$SIZE "$@" "$MOUNT"
  wait_until 30 mounted "$name"
}

fio_verify() {
  run_bounded 60 fio --name=verify --filename="$1" --direct=1 --rw=randwrite --size=32m \
    --iodepth=32 --ioengine=libaio --verify=crc32c --verify_fatal=1 --output="$TEST_DIR/fio.txt" \
    "${@:2}"
}

mkdir "$MOUNT"
on_exit unmount
dd if=/dev/urandom of="$TEST_DIR/image" bs=1M count=8 status=none

case_start shows_size_mode_and_type
serve plain
[[ $(stat -c '%s %a %F' "$DISK") == "$SIZE 600 regular file" ]] || fail "$(stat "$DISK")"
[[ $(ls "$MOUNT") == disk0 ]] || fail "$(ls "$MOUNT")"
grep -q "^rnbd $MOUNT fuse.rnbd " /proc/mounts || fail "$(grep "$MOUNT" /proc/mounts)"
case_end

case_start fio_verifies_mixed_sizes_at_depth
fio_verify "$DISK" --bs=4k
fio_verify "$DISK" --bsrange=512-1m --bs_unaligned=0
case_end

case_start fio_verifies_several_synchronous_writers
run_bounded 60 fio --name=sync --filename="$DISK" --direct=1 --rw=randwrite --size=8m --bs=4k \
  --offset_increment=8m --numjobs=4 --ioengine=psync --verify=crc32c --verify_fatal=1 \
  --output="$TEST_DIR/fio.txt"
case_end

case_start dd_and_cp_write_over_the_device
dd if="$TEST_DIR/image" of="$DISK" bs=64k status=none
run_bounded 30 cmp --bytes=$((8 << 20)) "$TEST_DIR/image" "$DISK"
dd if=/dev/zero of="$DISK" bs=1M count=8 conv=notrunc,fsync oflag=direct status=none
cp "$TEST_DIR/image" "$DISK"
run_bounded 30 cmp --bytes=$((8 << 20)) "$TEST_DIR/image" "$DISK"
[[ $(stat -c %s "$DISK") == "$SIZE" ]] || fail "size is $(stat -c %s "$DISK")"
# Not wiped behind what was copied, and unaligned access.
echo -n marker | dd of="$DISK" bs=1 seek=$((9 << 20)) conv=notrunc status=none
cp "$TEST_DIR/image" "$DISK"
[[ $(dd if="$DISK" bs=1 skip=$((9 << 20)) count=6 status=none) == marker ]] || fail "wiped"
case_end

case_start size_cannot_be_changed
for size in 0 4096 $((SIZE * 2)); do
  if truncate --size=$size "$DISK" 2>"$TEST_DIR/error"; then fail "truncated to $size"; fi
  grep -q "Invalid argument" "$TEST_DIR/error" || fail "$(cat "$TEST_DIR/error")"
done
truncate --size=$SIZE "$DISK"
[[ $(stat -c %s "$DISK") == "$SIZE" ]] || fail "size is $(stat -c %s "$DISK")"
case_end

case_start writing_ends_at_the_end
if dd if=/dev/zero of="$DISK" bs=4096 seek=$((SIZE / 4096)) count=1 conv=notrunc status=none \
  2>"$TEST_DIR/error"; then fail "wrote behind the end"; fi
grep -q "No space left" "$TEST_DIR/error" || fail "$(cat "$TEST_DIR/error")"
# Half of it fits.
if dd if=/dev/zero of="$DISK" bs=8192 seek=$((SIZE - 4096)) oflag=seek_bytes count=1 conv=notrunc \
  2>"$TEST_DIR/error"; then fail "wrote behind the end"; fi
grep -q "^4096 bytes" "$TEST_DIR/error" || fail "$(cat "$TEST_DIR/error")"
[[ $(dd if="$DISK" bs=1M status=none | wc -c) == "$SIZE" ]] || fail "does not read to its end"
case_end

case_start fallocate_zeroes_or_says_that_it_cannot
cp "$TEST_DIR/image" "$DISK"
fallocate --punch-hole --offset 4096 --length 8192 "$DISK"
cmp <(head -c 8192 /dev/zero) <(dd if="$DISK" bs=4096 skip=1 count=2 status=none)
fallocate --zero-range --offset 65536 --length 4096 "$DISK"
cmp <(head -c 4096 /dev/zero) <(dd if="$DISK" bs=4096 skip=16 count=1 status=none)
cmp --bytes=4096 "$TEST_DIR/image" "$DISK"
if fallocate --length 4096 "$DISK" 2>"$TEST_DIR/error"; then fail "allocated"; fi
grep -q "not supported" "$TEST_DIR/error" || fail "$(cat "$TEST_DIR/error")"
case_end

case_start nothing_can_be_created_or_removed
for command in "touch $MOUNT/new" "mkdir $MOUNT/new" "rm -f $DISK" "mv $DISK $MOUNT/new" \
  "ln $DISK $MOUNT/new"; do
  if $command 2>"$TEST_DIR/error"; then fail "$command"; fi
  grep -q "not permitted" "$TEST_DIR/error" || fail "$command: $(cat "$TEST_DIR/error")"
done
case_end

case_start attributes_can_be_changed
chmod 640 "$DISK"
chown 1:2 "$DISK"
touch -d @1234567890 "$DISK"
[[ $(stat -c '%a %u %g %Y' "$DISK") == "640 1 2 1234567890" ]] || fail "$(stat "$DISK")"
case_end

case_start ends_on_sigterm
stop_daemon plain
if grep -q " $MOUNT fuse" /proc/mounts; then fail "still mounted"; fi
case_end

case_start ends_when_unmounted
serve unmounted
fusermount3 -u "$MOUNT"
wait_until 5 ended unmounted
case_end

case_start busy_mount_is_refused_with_what_uses_it
serve busy
exec 8<"$DISK"
kill -INT "${daemon[busy]}"
wait_until 5 grep -q "process $$ (.*) has $DISK open" "$TEST_DIR/busy.log"
[[ -e $DISK ]] || fail "gone"
exec 8<&-
stop_daemon busy
case_end

case_start ends_on_sigterm_under_load
serve load
fio --name=load --filename="$DISK" --direct=1 --rw=randrw --bs=4k --iodepth=32 --thread \
  --ioengine=libaio --size=32m --time_based --runtime=60 --output="$TEST_DIR/load.txt" \
  2>/dev/null &
fio=$!
wait_until 20 has_open $fio
sleep 0.5
stop_daemon load
wait $fio && fail "fio saw no error"
case_end

case_start read_only_devices_stay_so
serve readonly --read_only
[[ $(stat -c %a "$DISK") == 400 ]] || fail "$(stat "$DISK")"
if dd if=/dev/zero of="$DISK" bs=512 count=1 conv=notrunc status=none 2>"$TEST_DIR/error"; then
  fail "written"
fi
grep -q "Read-only file system" "$TEST_DIR/error" || fail "$(cat "$TEST_DIR/error")"
stop_daemon readonly
case_end

case_start one_worker_and_few_buffers_are_enough
serve few --workers=1 --small_buffers=2 --large_buffers=2 --in_next_turn
fio_verify "$DISK" --bs=4k
fio_verify "$DISK" --bs=256k
stop_daemon few
case_end

case_start many_devices
serve many --devices=100 --size=$((1 << 20))
[[ $(find "$MOUNT" -name 'disk*' -size 1024k | wc -l) == 100 ]] || fail "$(ls "$MOUNT")"
stop_daemon many
case_end

# Last, for it changes what this namespace has as /dev/fuse.
case_start users_without_privileges_mount_through_fusermount3
require setpriv mknod fusermount3
readonly NODE=$TEST_DIR/fuse AS_USER=(setpriv --reuid=65534 --regid=65534 --clear-groups)
mknod "$NODE" c 10 229
chmod 666 "$NODE"
mount --bind "$NODE" /dev/fuse
chmod 755 "$TEST_DIR"
chown 65534:65534 "$MOUNT"
"${AS_USER[@]}" test -x testing/fuse/null_mount || skip "the program is out of reach for others"
start_daemon user "${AS_USER[@]}" testing/fuse/null_mount --memory --size=$SIZE "$MOUNT"
wait_until 30 mounted user
[[ $("${AS_USER[@]}" stat -c '%u %a' "$DISK") == "65534 600" ]] || fail "$(stat "$DISK")"
"${AS_USER[@]}" cp "$TEST_DIR/image" "$DISK"
run_bounded 30 "${AS_USER[@]}" cmp --bytes=$((8 << 20)) "$TEST_DIR/image" "$DISK"
stop_daemon user
if grep -q " $MOUNT fuse" /proc/mounts; then fail "still mounted"; fi
case_end
