#!/bin/bash
# rnbd-fuse --upgrade: another program goes on with a mount that is in use.

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require_loop
require fio pgrep
source testing/integration/remote_disk.sh

make_images 64M disk.img
serve_images
mount=$TEST_DIR/mnt
new=$TEST_DIR/new/rnbd-fuse
mkdir "$TEST_DIR/new"
cp --dereference "$RNBD_FUSE" "$new"

_nobody_runs() { ! pgrep --full "^$1 "; }

serving_program() { readlink "/proc/$(serving_process client)/exe"; }

case_start "under load through loop, again and again"
map_images client "$mount" disk.img
keeper=${daemon[client]}
attach "$mount/disk.img"
timeout 100 fio --name=load --filename="$loop" --rw=randwrite --bs=4k --size=64m --rate_iops=3000,3000 \
  --ioengine=libaio --iodepth=32 --direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1 --verify_state_save=0 \
  --output="$TEST_DIR/fio.log" &
fio_pid=$!
for program in "$new" "$RNBD_FUSE" "$new"; do
  sleep 2
  before=$(serving_process client)
  run_bounded 20 "$program" --upgrade "$mount"
  [[ $(serving_process client) != "$before" ]] || fail "the process is still the same"
  [[ $(serving_program) -ef $program ]] || fail "$(serving_program) serves"
  [[ /proc/$keeper/exe -ef $program ]] || fail "$(readlink "/proc/$keeper/exe") keeps the mount"
done
wait "$fio_pid" || fail "fio: $(tail -n 5 "$TEST_DIR/fio.log")"
grep -h "goes on with $mount" "$TEST_DIR/client.log"
case_end

case_start "killed after an upgrade"
kill_serving client
[[ $(serving_program) -ef $new ]] || fail "$(serving_program) serves"
head -c 4096 "$loop" >/dev/null
case_end

case_start "the file has changed, under load"
timeout 60 fio --name=load --filename="$loop" --rw=randwrite --bs=4k --size=64m --rate_iops=2000,2000 --time_based --runtime=6 \
  --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 --do_verify=0 --verify_state_save=0 \
  --output="$TEST_DIR/fio.log" &
fio_pid=$!
make_images 8M second.img
sleep 1
cp "$TEST_DIR/client.yaml" "$TEST_DIR/good.yaml"
echo "      - path: second.img" >>"$TEST_DIR/client.yaml"
run_bounded 20 "$new" --upgrade "$mount"
wait_until 10 test -e "$mount/second.img"
echo second | dd of="$mount/second.img" bs=512 count=1 conv=sync,notrunc,fsync status=none
[[ $(head -c 6 "$IMAGES/second.img") == second ]] || fail "the device that the file has now does not work"
sleep 1
cp "$TEST_DIR/good.yaml" "$TEST_DIR/client.yaml"
run_bounded 20 "$new" --upgrade "$mount"
[[ ! -e $mount/second.img ]] || fail "the device that the file does not have any more is still there"
wait "$fio_pid" || fail "fio: $(tail -n 5 "$TEST_DIR/fio.log")"
case_end

case_start "a program that cannot go on changes nothing"
before=$(serving_process client)
cp "$TEST_DIR/client.yaml" "$TEST_DIR/good.yaml"
echo "nonsense: 1" >>"$TEST_DIR/client.yaml"
! "$new" --upgrade "$mount" 2>"$TEST_DIR/message" || fail "upgraded to a program that does not understand its file"
grep -q "nothing has changed" "$TEST_DIR/message" || fail "$(cat "$TEST_DIR/message")"
grep -q "nonsense" "$TEST_DIR/message" || fail "$(cat "$TEST_DIR/message")"
cp "$TEST_DIR/good.yaml" "$TEST_DIR/client.yaml"
[[ $(serving_process client) == "$before" ]] || fail "another process serves"
head -c 4096 "$loop" >/dev/null
case_end

case_start "ends as ever"
detach
stop_daemon client
! mountpoint -q "$mount" || fail "the mount is still there"
! "$new" --upgrade "$mount" 2>"$TEST_DIR/message" || fail "upgraded what is not there"
grep -q "No such file" "$TEST_DIR/message" || fail "$(cat "$TEST_DIR/message")"
case_end

case_start "in the background"
cd "$TEST_DIR"  # The file's name is relative, and the program leaves this directory.
OLD=$OLDPWD/$RNBD_FUSE
[[ $RNBD_FUSE != /* ]] || OLD=$RNBD_FUSE
run_bounded 20 "$OLD" "$mount" --config client.yaml
cd "$OLDPWD"
exec 5<>"$mount/disk.img"
run_bounded 20 "$new" --upgrade "$mount"
echo written >&5
exec 5>&-
run_bounded 10 fusermount3 -u "$mount"
wait_until 10 grep -q written "$IMAGES/disk.img"
wait_until 10 _nobody_runs "$new"
case_end
