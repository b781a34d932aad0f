# shellcheck shell=bash
# shellcheck disable=SC2034  # The variables are for the scripts.
#
# What makes a root file system out of this machine's programs and Debian's kernel, without privileges: for
# guests (build_guest) and for the appliance (server/appliance/build). For sourcing, with the root of the
# tree as the working directory.
#
#   say TEXT..., cannot TEXT... a line on standard error; and exits with 77: something cannot be had
#   set_suite FLAVOUR           6.1 for Debian 12's own kernel, backports for the one in its backports
#   check_programs              cannot, unless what is needed here and what "programs" names is installed
#   compute_key FILE...         prints a key of these files and of the packages that results are made of
#   build_once PREFIX KEY FUNCTION   sets $result to a directory which FUNCTION has filled, as $work/result,
#                               now or in an earlier call with the same arguments. $work is removed at the end
#   find_kernel                 sets $version to the newest of the suite
#   download_packages DIRECTORY PACKAGE...   their files
#   unpack_kernel               the kernel and all of its modules, in $work/root
#   install_programs            "programs", "library_files" and $FILES, in $work/guest, as on this machine
#   install_modules NAME...     these modules and those that they need, in $work/guest
#   has_module NAME             whether the kernel has a module of that name, or it is built in
#   link_applets APPLET...      programs that busybox has, where there is no other
#   write_archive FILE          $work/guest as cpio
#
# The script has these:
#
#   programs                    a function that prints lines "PACKAGE PROGRAM..."
#   library_files               a function that prints libraries, which programs open by name
#   $FILES                      other files, which may be missing

readonly CANNOT=77  # The exit status by which a test knows that it is to be skipped.

say() { echo "$(basename "$0"): $*" >&2; }
cannot() {
  say "$*"
  exit "$CANNOT"
}

set_suite() {
  flavour=$1
  # shellcheck source=/dev/null  # A file of the system.
  suite=$(source /etc/os-release && echo "${VERSION_CODENAME:-}")
  [[ $flavour != backports ]] || suite+=-backports
}

check_programs() {
  local package program
  while read -r package program; do
    for program in $program; do
      type -P "$program" >/dev/null || cannot "package $package is not installed"
    done
  done < <(
    cat <<'TEXT'
apt apt-get
busybox-static busybox
cpio cpio
dpkg dpkg-deb
kmod depmod modprobe
xz-utils xz
TEXT
    programs
  )
  [[ -n $(library_files) ]] || exit "$CANNOT"
}

# --- Results ---

# What a result depends on, besides the version of the kernel, which is the newest when it is built.
compute_key() {
  {
    sha256sum "$@" testing/guest/{copy_programs,root_file_system.sh}
    # shellcheck disable=SC2046  # Names of packages are words.
    dpkg-query --show busybox-static ibverbs-providers libc6 $(programs | cut -d' ' -f1 | sort -u)
  } | sha256sum | cut -c1-16
}

build_once() {
  local prefix=$1 key=$2
  cache=${XDG_CACHE_HOME:-${HOME:-$(getent passwd "$EUID" | cut -d: -f6)}/.cache}/rnbd-guest
  mkdir -p "$cache"
  # One at a time: another test may be building the same.
  exec 9>"$cache/lock"
  flock --timeout 900 9 || cannot "another build of a guest has not ended after 900 s"
  result=$cache/$prefix-$key
  if [[ ! -d $result ]]; then
    work=$(mktemp -d "$cache/build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    mkdir "$work/guest" "$work/result"
    "$3"
    mv "$work/result" "$result"
    rm -rf "$work"
    # What has not been used for some days.
    find "$cache" -mindepth 1 -maxdepth 1 -name "$prefix-*" ! -path "$result" -mtime +3 -exec rm -rf {} +
  fi
  touch "$result"
  exec 9>&-
}

write_archive() { (cd "$work/guest" && find . | cpio --quiet -o -H newc --owner=0:0) >"$1"; }

# --- Packages ---

# Apt with lists of our own: that needs no root, changes nothing of the system, and has backports,
# which most systems do not name in their sources.
apt_options=()
prepare_apt() {
  local state=$cache/apt-$flavour
  mkdir -p "$state/lists/partial" "$state/archives/partial"
  # Where Debian's packages come from is known to the system's configuration alone.
  # shellcheck disable=SC2016  # These are apt's own.
  apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 2>/dev/null | sort -u |
    awk -v release="${suite%-backports}" -v suite="$suite" '
      $2 == "main" && index($1, release) == 1 { print "deb", $3, $1, $2 }
      $2 == "main" && $1 == release && suite != release { print "deb", $3, suite, $2 }
    ' >"$state/sources.list"
  [[ -s $state/sources.list ]] || cannot "apt's sources name no ${suite:-Debian}"
  apt_options=(
    -o "Dir::State::Lists=$state/lists" -o "Dir::Cache=$state" -o "Dir::Etc::SourceList=$state/sources.list"
    -o Dir::Etc::SourceParts=- -o APT::Sandbox::User="$(id -un)"
    -o Dir::Cache::pkgcache=pkgcache.bin -o Acquire::Languages=none -o Acquire::Retries=2 -o Acquire::http::Timeout=30
  )
  # Backports do not come by themselves.
  [[ $flavour != backports ]] || apt_options+=(-o APT::Default-Release="$suite")
}

update_lists() {
  say "fetch the lists of packages of $suite"
  timeout 300 apt-get "${apt_options[@]}" -q update >"$cache/apt.log" 2>&1 </dev/null || {
    tail -n 5 "$cache/apt.log" >&2
    cannot "the lists of packages of $suite cannot be had"
  }
}

# The names that a package depends on.
dependencies() {
  { apt-cache "${apt_options[@]}" depends "$1" 2>/dev/null || true; } | awk '$1 == "Depends:" { print $2 }'
}

find_kernel() {
  prepare_apt
  update_lists
  # Like "6.1.0-56-amd64".
  version=$(dependencies linux-image-amd64 | sed -n 's/^linux-image-\([0-9].*-amd64\)$/\1/p' | head -n 1)
  [[ -n $version ]] || cannot "package linux-image-amd64 cannot be had from $suite"
}

download_packages() {
  local directory=$1 package
  shift
  say "fetch $*"
  for package; do
    (cd "$directory" && timeout 600 apt-get "${apt_options[@]}" -q download "$package" >>apt.log 2>&1 </dev/null) ||
      {
        tail -n 5 "$directory/apt.log" >&2
        cannot "package $package cannot be had"
      }
  done
}

# --- The kernel ---

unpack_kernel() {
  download_packages "$work" "linux-image-$version"
  say "unpack the kernel"
  dpkg-deb -x "$work/linux-image-${version}_"*.deb "$work/root"
  rm "$work/linux-image-${version}_"*.deb
  [[ -d $work/root/lib/modules ]] || { mkdir -p "$work/root/lib" && mv "$work/root/usr/lib/modules" "$work/root/lib"; }
}

module_files() { modprobe -d "$work/root" -S "$version" --show-depends "$1" 2>/dev/null; }
has_module() {
  module_files "$1" >/dev/null || grep -q "/${1//[-_]/[-_]}\.ko$" "$work/root/lib/modules/$version/modules.builtin"
}

install_modules() {
  local all=$work/root/lib/modules/$version target=$work/guest/usr/lib/modules/$version module file
  mkdir -p "$target"
  depmod -b "$work/root" "$version"
  for module; do
    has_module "$module" || say "no module $module"
    module_files "$module" || true
  done | awk '$1 == "insmod" { print $2 }' | sort -u | while read -r file; do
    cp "$file" "$target"
    case $file in
      *.xz) xz -d "$target/${file##*/}" ;;
    esac
  done
  strip --strip-debug "$target"/*.ko
  cp "$all"/modules.{order,builtin,builtin.modinfo} "$target"
  depmod -b "$work/guest/usr" "$version" 2>/dev/null || depmod -b "$work/guest" "$version"
}

# --- Programs ---

install_programs() {
  local guest=$work/guest program path
  mkdir -p "$guest"/usr/{bin,sbin,lib,lib64} "$guest"/{dev,etc,proc,root,run,sys,tmp,var}
  for path in bin sbin lib lib64; do ln -s "usr/$path" "$guest/$path"; done
  ln -s ../run "$guest/var/run"
  {
    programs | while read -r _ path; do
      for program in $path; do type -P "$program"; done
    done
    library_files
  } | testing/guest/copy_programs "$guest"
  for path in $FILES; do
    if [[ -e $path ]]; then cp --parents -L "$path" "$guest"; fi
  done
  ln -s bash "$guest/usr/bin/sh"
  cp "$(command -v busybox)" "$guest/usr/bin/busybox"
}

link_applets() {
  local applet
  for applet; do
    [[ -e $work/guest/usr/bin/$applet || -e $work/guest/usr/sbin/$applet ]] ||
      ln -s busybox "$work/guest/usr/bin/$applet"
  done
}
