#!/bin/bash
# Our Debian packages in a guest that systemd has booted: services, /etc/fstab, watchdogs, and the order in which all of
# it ends when the guest is switched off, with what that leaves on the disk.
#
# Usage: systemd_test.sh service|fstab   see systemd_in_guest.sh, which runs in the guest

source testing/shell_test.sh
require dpkg-deb mkfs.ext4 e2fsck debugfs

readonly WAY=$1
# Bazel may have set it to a directory of this test alone; a guest is built for all.
HOME=$(getent passwd "$EUID" | cut -d: -f6)
export HOME
programs=.
[[ -x server/rnbd-server ]] || programs=bazel-bin
disk=$TEST_DIR/disk.img
root=$TEST_DIR/root
out=$TEST_DIR/out
mkdir "$out" "$root"

case_start "a root file system with the packages"
run_bounded 120 packaging/build_packages --output "$TEST_DIR/packages" --programs "$programs"
for package in "$TEST_DIR"/packages/*.deb; do dpkg-deb --extract "$package" "$root"; done
mkdir -p "$root/etc/systemd/system"/{multi-user,remote-fs}.target.wants "$root/etc/systemd/system"/rnbd-{server,fuse@}.service.d
# What the packages, and "systemctl enable", do.
ln -s /lib/systemd/system/remote-fs.target /lib/systemd/system/rnbd-server.service "$root/etc/systemd/system/multi-user.target.wants/"
# As docs/services.md has them; but for the watchdogs, which are not waited for so long.
printf '[Service]\nSupplementaryGroups=disk\nWatchdogSec=8\n' >"$root/etc/systemd/system/rnbd-server.service.d/test.conf"
printf '[Service]\nWatchdogSec=8\n' >"$root/etc/systemd/system/rnbd-fuse@.service.d/test.conf"
# Over the network, which goes away in its turn.
cat >"$root/etc/rnbd/server.yaml" <<YAML
listen: [{tcp: "127.0.0.1:1234"}]
state_file: /var/lib/rnbd-server/state
drain_timeout: 2s
sessions: [{name: "*", dev_search_path: /dev, devices: [vda]}]
YAML
cat >"$root/etc/rnbd/client.yaml" <<YAML
drain_timeout: 2s
sessions: [{name: guest, paths: ["tcp:127.0.0.1:1234"], devices: [{path: vda, name: disk0, loop: auto}]}]
YAML
if [[ $WAY == service ]]; then
  ln -s /lib/systemd/system/rnbd-fuse@.service "$root/etc/systemd/system/remote-fs.target.wants/rnbd-fuse@client.service"
  echo "/dev/rnbd/disk0 /data ext4 _netdev 0 2"
else
  echo "/etc/rnbd/client.yaml /mnt/rnbd fuse.rnbd _netdev,x-systemd.after=rnbd-server.service 0 0"
  echo "/dev/rnbd/disk0 /data ext4 _netdev,x-systemd.requires-mounts-for=/mnt/rnbd 0 2"
fi >"$root/etc/fstab"
mkdir "$TEST_DIR/files"
head -c 1M /dev/urandom >"$TEST_DIR/files/before"
(cd "$TEST_DIR/files" && sha256sum before | sed 's|before|/data/before|' >before.sha256)
run_bounded 30 mkfs.ext4 -q -d "$TEST_DIR/files" "$disk" 64M
case_end

case_start "booted, used and switched off"
status=0
run_bounded 420 testing/guest/build_guest --kernel backports 2> >(tee "$TEST_DIR/build" >&2) || status=$?
((status != 77)) || skip "no guest: $(tail -n 1 "$TEST_DIR/build")"
((status == 0)) || fail "the guest cannot be built"
run_bounded 320 testing/guest/run_guest --timeout 300 --kernel backports --systemd --output "$out" --tree "$root" --disk "$disk" \
  --binary "$programs/server/rnbd-server:/usr/sbin/rnbd-server" --binary "$programs/client/rnbd-fuse:/usr/sbin/rnbd-fuse" \
  --binary "$programs/client/rnbd:/usr/sbin/rnbd" testing/guest/systemd_in_guest.sh "$WAY" || status=$?
((status != 77)) || skip "no guest with systemd"
((status == 0)) || fail "status $status from the guest"
case_end

# What was said since the program in the guest had ended: on the console, which has also what comes after the end of the
# journal.
sed 's/\r$//' "$out/dmesg1" | awk '/systemd\[1\]: guest.service: Deactivated/ { ended = 1 } ended' >"$TEST_DIR/end"

case_start "it ended in this order: the file system, the client, the server, the network"
last=0
for each in "Unmounted data.mount" \
  "$(if [[ $WAY == service ]]; then echo "Stopped rnbd-fuse@client"; else echo "Unmounted mnt-rnbd.mount"; fi)" \
  "Stopped rnbd-server" "Stopped guest-network"; do
  position=$(grep -n "systemd\[1\]: $each" "$TEST_DIR/end" | head -n 1 | cut -d: -f1) || fail "systemd has not said: $each"
  ((position > last)) || fail "too early: $each"
  last=$position
done
! grep -E "I/O error|EXT4-fs (error|warning)|Aborting journal|[Tt]imed out|with signal SIGKILL|Failed" "$TEST_DIR/end" || fail "not in order"
case_end

case_start "what it left is clean and whole"
run_bounded 60 e2fsck -fn "$disk"
dumpe2fs -h "$disk" 2>/dev/null | grep -q "^Filesystem state: *clean$" || fail "the file system was not unmounted"
run_bounded 30 debugfs -R "dump /after $TEST_DIR/after" "$disk"
(cd "$TEST_DIR" && sha256sum --check "$out/after.sha256")
case_end
