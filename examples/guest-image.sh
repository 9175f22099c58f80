#!/usr/bin/env bash
# guest-image.sh - makes what a lab guest boots: a stock Debian kernel and a small initramfs.
#
#   eval "$(examples/guest-image.sh [--cached] [--with PROGRAM]...)"
#   launcher --initrd="$INITRD" 256 "$KERNEL" eth0=10.0.0.1/24
#
# Prints KERNEL=..., INITRD=... and MODULES=... (the folder of all the kernel's modules), quoted
# for a shell; progress goes to stderr. Nothing is installed and root is not needed. The second
# run finds everything in the cache.
#
#   --with PROGRAM  put this program of the host, with the libraries it loads, into the
#                   guest's /usr/bin (repeatable)
#   --package NAME  Debian's kernel of this package (default: linux-image-cloud-amd64); say
#                   linux-image-amd64 for every driver, linux-image-rt-amd64 for real time
#   --cached        print only what the cache holds; exit 3 if it has to be made first
#
#   KERNEL=file     use this kernel instead of Debian's
#   MODULES=folder  its modules (/lib/modules/VERSION); without it the kernel must have
#                   virtio_pci or virtio_mmio, virtio_net and virtio_blk built in
#   GUEST_CACHE=folder  the cache; default: target/guest in this repository
#
# Stations below: the kernel package, the archive; what goes into it is of image.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lab.sh"
. "$here/image.sh"

package=linux-image-cloud-amd64
# What a guest on a segment may want. Each brings what it depends on; `modprobe` in the guest
# finds the rest of the way by alias, so the order here means nothing.
wanted=(virtio_pci virtio_mmio virtio_net virtio_blk virtio-rng virtio_console virtio_balloon
    bridge 8021q vxlan dummy veth tun button evdev)

cached_only=
programs=()
while [ $# -gt 0 ]; do
    case $1 in
        --cached) cached_only=yes; shift ;;
        --package) [ $# -ge 2 ] || die "--package needs the name of a package."
                   package=$2; shift 2 ;;
        --with) [ $# -ge 2 ] || die "--with needs the name of a program."
                path=$(program "$2"); programs+=("$path"); shift 2 ;;
        --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
        *) echo "guest-image.sh: unknown argument \`$1\`; --help lists the arguments." >&2; exit 2 ;;
    esac
done

open_cache "${GUEST_CACHE:-$here/../target/guest}"

# ---- The kernel package ----------------------------------------------------------------

# kernel_package [APT OPTION]...: the real package behind a metapackage, which only depends on
# the kernel of the day. A real one has the kernel's version in its name.
kernel_package() {
    case $package in linux-image-*.*.*) echo "$package"; return ;; esac
    apt-cache "$@" show --no-all-versions "$package" 2>/dev/null |
        sed -n 's/^Depends: *\(linux-image-[^ ,]*\).*/\1/p;T;q'
}

# download [APT OPTION]...: the package file into the current folder.
download() {
    local name
    name=$(kernel_package "$@")
    [ -n "$name" ] || return 1
    # Into a folder of ours: apt's own download user may not be allowed to write there.
    apt-get -qq -o APT::Sandbox::User="$(id -un)" "$@" download "$name" >&2
}

# fetch_kernel DIR: Debian's kernel and modules, unpacked in DIR.
fetch_kernel() {
    local lists=$making/apt private
    command -v apt-get >/dev/null || die "there is no apt-get to fetch Debian's kernel with; name a kernel: KERNEL=file MODULES=folder."
    mkdir "$making/deb" "$1"
    cd "$making/deb"
    if ! download 2>"$making/apt.log"; then
        # No lists, or lists so old that the file they name is gone: fetch fresh ones, for
        # this once and into a folder of our own, which needs no root.
        say "  (apt's package lists are missing or old: fetching them)"
        mkdir -p "$lists/lists/partial" "$lists/cache/archives/partial"
        private=(-o Dir::State::lists="$lists/lists" -o Dir::Cache="$lists/cache")
        apt-get -qq -o APT::Sandbox::User="$(id -un)" "${private[@]}" update >&2 &&
            download "${private[@]}" ||
            { cat "$making/apt.log" >&2; die "could not fetch $package; is there a network? Or name a kernel: KERNEL=file MODULES=folder."; }
    fi
    dpkg-deb --extract ./*.deb "$1"
    cd "$here"
    rm -r "$making/deb"
}

# the_only FILE...: its one argument, if it exists.
the_only() { [ $# -eq 1 ] && [ -e "$1" ] && printf '%s' "$1"; }

if [ -n "${KERNEL:-}" ]; then
    [ -r "$KERNEL" ] || die "cannot read the kernel $KERNEL that KERNEL= names."
    kernel=$(realpath "$KERNEL")
    modules=${MODULES:-}
    [ -z "$modules" ] || [ -e "$modules/modules.order" ] ||
        die "$modules, which MODULES= names, is not a folder of kernel modules like /lib/modules/VERSION."
else
    unpacked=$cache/kernel
    [ "$package" = linux-image-cloud-amd64 ] || unpacked=$cache/kernel-$package
    if ! [ -d "$unpacked" ]; then
        to_make "Debian's kernel of the package $package"
        fetch_kernel "$making/kernel"
        mv -T "$making/kernel" "$unpacked"
    fi
    kernel=$(the_only "$unpacked"/boot/vmlinuz-*) || die "$unpacked holds no kernel; remove that folder and run this again."
    modules=$unpacked/lib/modules/${kernel##*/vmlinuz-}
fi

# ---- The archive -----------------------------------------------------------------------

need_tools "cpio and kmod" cpio depmod modprobe
busybox=$(static_busybox)

# The name says what is inside: another kernel, program or /init makes another archive.
key=$({
    cat "$here/guest-image.sh" "$here/image.sh" "$here/guest-init" "$busybox"
    contents "$kernel"
    echo "modules ${modules:-none}"
    contents "${programs[@]}"
} | key)
initrd=$cache/initrd-$key.cpio

if ! [ -e "$initrd" ]; then
    to_make "the guests' initramfs${programs[*]:+ with ${programs[*]##*/}}"
    root=$making/root
    new_root "$root"
    install -m 755 "$here/guest-init" "$root/init"
    [ -z "$modules" ] || add_modules "$root" "$modules" "${wanted[@]}"
    for program in "${programs[@]}"; do add_program "$root" "$program"; done
    # Not compressed: an emulated CPU would spend longer unpacking than the host spends reading.
    (cd "$root" && find . | sort | cpio --quiet --create --format=newc --owner=0:0) >"$making/initrd"
    mv -T "$making/initrd" "$initrd"
fi

printf 'KERNEL=%q\nINITRD=%q\nMODULES=%q\n' "$kernel" "$initrd" "$modules"
