#!/bin/bash
# In a guest with systemd (see systemd_test.sh): both services as the packages bring them, and ext4 on a loop device,
# all of it mounted at boot. Leaves something that is not written back yet when the guest is switched off.
#
# Usage: systemd_in_guest.sh service|fstab   how the client is started: rnbd-fuse@client, or a line of /etc/fstab

source testing/shell_test.sh

readonly WAY=$1
case $WAY in
  service) CLIENT=rnbd-fuse@client.service MOUNT=/mnt/client ;;
  fstab) CLIENT=mnt-rnbd.mount MOUNT=/mnt/rnbd ;;
esac
readonly CLIENT MOUNT DISK=/dev/rnbd/disk0

state_of() { systemctl show --property "$2" --value "$1"; }
is_active() { [[ $(state_of "$1" ActiveState) == active ]]; }
# What the journal says since the boot, or since the mark that was set last.
mark() { since=$(date +%s.%6N); }
journal() { journalctl --sync && journalctl --output cat --no-pager ${since:+--since "@$since"} "$@"; }
said() { journal --unit "$1" | grep -i "$2" >/dev/null || fail "not said: $2: $(journal --unit "$1")"; }
since=

# The position of a message in the journal, after the mark.
position_of() {
  local line
  line=$(journal _PID=1 | grep -n "^$1" | head -n 1)
  [[ -n $line ]] || fail "systemd has not said: $1"
  echo "${line%%:*}"
}
in_order() {
  local last=0 each position
  for each; do
    position=$(position_of "$each")
    ((position > last)) || fail "'$each' came too early: $(journal _PID=1 | grep -E 'Mounted|Unmounted|Started|Stopped')"
    last=$position
  done
}

keeper() { cat "$MOUNT/sys/class/rnbd-client/ctl/keeper_pid"; }
serving() { pgrep --parent "$(keeper)" --exact rnbd-fuse; }
another_keeper() { local now && now=$(timeout 2 cat "$MOUNT/sys/class/rnbd-client/ctl/keeper_pid") && [[ -n $now && $now != "$1" ]]; }
another_main() { local now && now=$(state_of "$1" MainPID) && ((now != 0 && now != $2)) && is_active "$1"; }

case_start "booted"
wait_until 60 is_active guest.service
[[ $(systemctl is-system-running --wait) == running ]] || fail "$(systemctl --failed --no-pager)"
for unit in rnbd-server.service "$CLIENT" data.mount systemd-fsck@dev-rnbd-disk0.service; do
  is_active "$unit" || fail "$(systemctl status --no-pager "$unit")"
done
[[ $(ps -o user= -p "$(state_of rnbd-server MainPID)") == rnbd ]] || fail "the server has another user"
[[ $(findmnt --noheadings --output SOURCE /data) == "$(readlink -f $DISK)" ]] || fail "$(findmnt /data)"
sha256sum --check --status /data/before.sha256 || fail "the file system has something else"
in_order "Started rnbd-server.service" "$(if [[ $WAY == service ]]; then echo Started; else echo Mounted; fi) $CLIENT" "Mounted data.mount"
case_end

# An endless load, whose status is 0, or 128 when it was told to end.
start_load() {
  start_daemon load fio --name=load --filename=/data/load --rw=randwrite --bsrange=4k-64k --size=8M --direct=1 \
    --ioengine=libaio --iodepth=8 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --time_based --runtime=600
  wait_until 20 test -s /data/load
}
stop_load() {
  local status=0
  kill -INT "${daemon[load]}"
  wait "${daemon[load]}" || status=$?
  unset "daemon[load]"
  ((status == 0 || status == 128)) || fail "the load: status $status, $(tail -n 5 "$TEST_DIR/load.log")"
  ! grep -E "error=|err= *[1-9]" "$TEST_DIR/load.log" || fail "the load had errors"
}
# Something is read and written after what was done.
goes_on() { timeout 30 dd if=/dev/urandom of=/data/probe bs=64k count=1 oflag=direct conv=fsync status=none; }

start_load
main=$(state_of rnbd-server MainPID)

case_start "the server is reloaded and restarted under load"
systemctl reload rnbd-server
[[ $(state_of rnbd-server MainPID) == "$main" ]] || fail "it was restarted"
goes_on
systemctl restart rnbd-server
another_main rnbd-server.service "$main" || fail "it was not restarted"
goes_on
case_end

case_start "the serving process of the client is killed"
kill -KILL "$(serving)"
goes_on
case_end

if [[ $WAY == service ]]; then
  case_start "the client is reloaded under load"
  main=$(state_of "$CLIENT" MainPID)
  process=$(serving)
  systemctl reload "$CLIENT"
  [[ $(state_of "$CLIENT" MainPID) == "$main" && $(serving) != "$process" ]] || fail "$(systemctl status "$CLIENT")"
  goes_on
  case_end

  case_start "the client stands still, and systemd starts it anew"
  mark
  process=$(keeper)
  kill -STOP "$(serving)"
  wait_until 60 another_main "$CLIENT" "$process"
  said "$CLIENT" "watchdog timeout"
  goes_on
  case_end
else
  case_start "a file that is wrong is not loaded"
  cp /etc/rnbd/server.yaml "$TEST_DIR/"
  echo "nonsense: yes" >>/etc/rnbd/server.yaml
  ! systemctl reload rnbd-server 2>/dev/null || fail "it was"
  is_active rnbd-server || fail "the server has ended"
  cp "$TEST_DIR/server.yaml" /etc/rnbd/
  goes_on
  case_end

  case_start "the server stands still, and systemd starts it anew"
  mark
  main=$(state_of rnbd-server MainPID)
  kill -STOP "$main"
  wait_until 60 another_main rnbd-server.service "$main"
  said rnbd-server "watchdog timeout"
  goes_on
  case_end
fi
stop_load

case_start "a stop unmounts first what lies on it"
mark
systemctl stop "$CLIENT"
! mountpoint -q /data || fail "/data is mounted"
! mountpoint -q "$MOUNT" || fail "$MOUNT is mounted"
[[ ! -e $DISK ]] || fail "$DISK is there"
[[ -z $(losetup --all) ]] || fail "$(losetup --all)"
in_order "data.mount: Deactivated" "$(if [[ $WAY == service ]]; then echo Stopped; else echo Unmounted; fi) $CLIENT"
case_end

has_restarted() { (($(state_of "$1" NRestarts) >= $2)); }

case_start "all of it comes back"
if [[ $WAY == service ]]; then
  systemctl stop rnbd-server
  systemctl start --no-block "$CLIENT" data.mount
  # Without a server it fails, and is tried again.
  wait_until 60 has_restarted "$CLIENT" 1
  systemctl start rnbd-server
  wait_until 60 is_active data.mount
else
  systemctl start data.mount
fi
is_active "$CLIENT" || fail "$CLIENT was not started"
goes_on
case_end

case_start "no error"
! journal _TRANSPORT=kernel | grep -E "I/O error|EXT4-fs (error|warning)|JBD2: |blocked for more" || fail "the kernel has complained"
[[ $(systemctl is-system-running) == running ]] || fail "$(systemctl --failed --no-pager)"
case_end

# Not synced: to be written back when it is unmounted.
head -c 8M /dev/urandom >/data/after
(cd /data && sha256sum after) >/out/after.sha256
