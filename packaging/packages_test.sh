#!/bin/bash
# The Debian packages, built from the programs at hand: checked by lintian, then installed, used, upgraded and purged in
# a copy of this machine (an overlay that vanishes).

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require dpkg dpkg-deb dpkg-shlibdeps strip chroot setpriv

programs=.
[[ -x server/rnbd-server ]] || programs=bazel-bin
packages=$TEST_DIR/packages
root=$TEST_DIR/root

case_start "builds"
# Not as old as the files of an unpacked tree would make them.
export SOURCE_DATE_EPOCH=1700000000
run_bounded 300 packaging/build_packages --output "$packages" --programs "$programs"
for name in rnbd-common rnbd-server rnbd-fuse; do
  [[ -s $(echo "$packages/${name}"_*.deb) ]] || fail "no $name"
done
dpkg-deb --field "$packages"/rnbd-fuse_*.deb Depends | grep -q "libfuse3-3 (>= " || fail "no computed dependencies"
dpkg-deb --field "$packages"/rnbd-server_*.deb Depends | grep -q "rnbd-common (= " || fail "no dependency on rnbd-common"
case_end

case_start "lintian"
require lintian
run_bounded 300 lintian --allow-root --fail-on error,warning \
  --suppress-tags bogus-mail-host,bogus-mail-host-in-debian-changelog,no-manual-page,systemd-service-file-refers-to-unusual-wantedby-target,initial-upload-closes-no-bugs \
  "$packages"/*.deb
case_end

in_root() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@"; }

case_start "installs"
mkdir -p "$TEST_DIR/layer" "$root"
mount -t tmpfs tmpfs "$TEST_DIR/layer"
on_exit umount --lazy "$TEST_DIR/layer"
mkdir "$TEST_DIR/layer/upper" "$TEST_DIR/layer/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$TEST_DIR/layer/upper,workdir=$TEST_DIR/layer/work" "$root" 2>/dev/null ||
  skip "no overlay of / can be had"
on_exit umount --recursive --lazy "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs tmpfs "$root/run"
in_root dpkg --purge rnbd-server rnbd-fuse rnbd-common >/dev/null 2>&1 || true
mkdir "$root/tmp/packages"
cp "$packages"/*.deb "$root/tmp/packages/"
run_bounded 120 chroot "$root" sh -c "dpkg --install /tmp/packages/*.deb"
in_root getent passwd rnbd >/dev/null || fail "no user rnbd"
[[ $(in_root stat -c '%U %a' /srv/rnbd) == "rnbd 750" ]] || fail "/srv/rnbd: $(in_root stat -c '%U %a' /srv/rnbd)"
for file in lib/systemd/system/rnbd-server.service lib/udev/rules.d/60-rnbd.rules usr/share/man/man8/rnbd.8.gz \
  usr/share/bash-completion/completions/rnbd etc/systemd/system/multi-user.target.wants/rnbd-server.service; do
  [[ -e $root/$file || -L $root/$file ]] || fail "no /$file"
done
in_root dpkg --verify rnbd-server rnbd-fuse rnbd-common || fail "files differ from what was packed"
case_end

case_start "serves and mounts as installed"
name=packed$$
on_exit rm -f "/dev/rnbd/$name"
truncate -s 16M "$root/srv/rnbd/disk0.img"
in_root chown rnbd /srv/rnbd/disk0.img
in_root install -d -o rnbd -g rnbd -m 750 /run/rnbd /var/lib/rnbd-server
in_root rnbd-server --check >/dev/null
start_daemon server chroot "$root" setpriv --reuid rnbd --regid rnbd --clear-groups /usr/sbin/rnbd-server
wait_until 20 grep -q "rnbd-server is ready" "$TEST_DIR/server.log"
mkdir -p "$root/mnt/disks"
cat >"$root/etc/rnbd/client.yaml" <<YAML
sessions: [{name: packed, paths: ["unix:/run/rnbd/rnbd.sock"], devices: [{path: disk0.img, name: $name, loop: auto}]}]
YAML
echo "/etc/rnbd/client.yaml /mnt/disks fuse.rnbd rw,_netdev,noauto 0 0" >>"$root/etc/fstab"
run_bounded 30 chroot "$root" mount /mnt/disks
[[ $(in_root rnbd list devname noheaders) == "$name" ]] || fail "$(in_root rnbd list)"
[[ -b /dev/rnbd/$name ]] || fail "no /dev/rnbd/$name"
if command -v udevadm >/dev/null; then
  in_root udevadm test --action=change "/sys/class/block/$(basename "$(readlink "/dev/rnbd/$name")")" >"$TEST_DIR/udev" 2>&1
  grep -q "^DEVLINKS=.*/dev/rnbd/$name\b" "$TEST_DIR/udev" || fail "udev gives it no name: $(tail -n 20 "$TEST_DIR/udev")"
fi
run_bounded 30 chroot "$root" umount /mnt/disks
! mountpoint -q "$root/mnt/disks" || fail "still mounted"
[[ ! -L /dev/rnbd/$name ]] || fail "/dev/rnbd/$name is there"
case_end

case_start "upgrades, removes and purges"
echo "# of the administrator" >>"$root/etc/rnbd/server.yaml"
run_bounded 120 chroot "$root" sh -c "dpkg --install --force-confold /tmp/packages/rnbd-server_*.deb"
grep -q "of the administrator" "$root/etc/rnbd/server.yaml" || fail "the configuration was overwritten"
stop_daemon server
run_bounded 60 chroot "$root" dpkg --remove rnbd-server rnbd-fuse
[[ -e $root/etc/rnbd/server.yaml && ! -e $root/usr/sbin/rnbd-server ]] || fail "removes the wrong things"
rm "$root/srv/rnbd/disk0.img" "$root/etc/rnbd/client.yaml"
run_bounded 60 chroot "$root" dpkg --purge rnbd-server rnbd-fuse rnbd-common
left=$(find "$root"/{etc,usr,lib,sbin,var/lib,srv} -xdev -name '*rnbd*' -not -path "$root/usr/src/*" 2>/dev/null || true)
left=$(comm -23 <(sort <<<"${left//"$root"/}") <(find /etc /usr /lib /sbin /var/lib /srv -xdev -name '*rnbd*' 2>/dev/null | sort))
[[ -z $left ]] || fail "left: $left"
case_end
