#!/usr/bin/env bash
# guest-image.sh - makes what a lab guest boots: a stock Debian kernel and a small initramfs.
#
#   eval "$(examples/guest-image.sh [--cached] [--with PROGRAM]...)"
#   launcher --initrd="$INITRD" 256 "$KERNEL" eth0=10.0.0.1/24
#
# Prints KERNEL=... and INITRD=..., quoted for a shell; progress goes to stderr. Nothing is
# installed and root is not needed. The second run finds everything in the cache.
#
#   --with PROGRAM  put this program of the host, with the libraries it loads, into the
#                   guest's /usr/bin (repeatable)
#   --cached        print only what the cache holds; exit 3 if it has to be made first
#
#   KERNEL=file     use this kernel instead of Debian's
#   MODULES=folder  its modules (/lib/modules/VERSION); without it the kernel must have
#                   virtio_pci, virtio_net and virtio_blk built in
#   GUEST_CACHE=folder  the cache; default: target/guest in this repository
#
# Stations below: the kernel package, the modules, the programs, the archive.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lab.sh"

package=linux-image-cloud-amd64
# What a guest on a segment may want. Each brings what it depends on; `modprobe` in the guest
# finds the rest of the way by alias, so the order here means nothing.
wanted=(virtio_pci virtio_net virtio_blk virtio-rng virtio_console
    bridge 8021q vxlan dummy veth tun)

cached_only=
programs=()
while [ $# -gt 0 ]; do
    case $1 in
        --cached) cached_only=yes; shift ;;
        --with) [ $# -ge 2 ] || die "--with needs the name of a program."; programs+=("$2"); shift 2 ;;
        --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
        *) echo "guest-image.sh: unknown argument \`$1\`; --help lists the arguments." >&2; exit 2 ;;
    esac
done

cache=${GUEST_CACHE:-$here/../target/guest}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
# One maker at a time; a second one waits and then finds the work done.
exec 9>"$cache/.lock"
flock 9
# Everything is made in here and renamed into place when whole. Whatever an earlier, killed
# run left half made goes first: we hold the lock, so it is nobody's.
rm -rf "$cache"/making.*
making=$(mktemp -d "$cache/making.XXXXXX")
trap 'rm -rf "$making"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# to_make WHAT: the cache does not have it.
to_make() {
    [ -z "$cached_only" ] || { say "guest-image.sh: $1 is not in the cache $cache yet; run without --cached."; exit 3; }
    say "Making $1 ..."
}

# ---- The kernel package ----------------------------------------------------------------

# kernel_package [APT OPTION]...: the real package behind the metapackage, which only depends
# on the kernel of the day.
kernel_package() {
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
    if ! [ -d "$cache/kernel" ]; then
        to_make "Debian's cloud kernel ($package)"
        fetch_kernel "$making/kernel"
        mv -T "$making/kernel" "$cache/kernel"
    fi
    kernel=$(the_only "$cache"/kernel/boot/vmlinuz-*) || die "$cache/kernel holds no kernel; remove that folder and run this again."
    modules=$cache/kernel/lib/modules/${kernel##*/vmlinuz-}
fi

# ---- The modules -----------------------------------------------------------------------

# add_modules ROOT: the wanted modules and what they need, with the indices `modprobe` reads.
add_modules() {
    local version=${modules##*/} all=$making/all module to
    # The package has no indices (its installation would make them): make them, beside it.
    mkdir -p "$all/lib/modules"
    ln -s "$modules" "$all/lib/modules/$version"
    if ! [ -e "$modules/modules.dep" ]; then
        rm "$all/lib/modules/$version"
        cp -rs "$modules" "$all/lib/modules/$version"
        depmod -b "$all" "$version"
    fi
    to=$1/lib/modules/$version
    mkdir -p "$to"
    for module in "${wanted[@]}"; do
        # "insmod FILE" for each module in load order; "builtin NAME" needs nothing.
        modprobe -d "$all" -S "$version" --show-depends "$module" 2>/dev/null || true
    done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u | while read -r module; do
        case $module in # the guest's busybox may not know the compression of the day
            *.xz) xz -dc "$module" >"$to/$(basename "$module" .xz)" ;;
            *.zst) zstd -qdc "$module" >"$to/$(basename "$module" .zst)" ;;
            *.gz) gzip -dc "$module" >"$to/$(basename "$module" .gz)" ;;
            *) cp -L "$module" "$to/" ;;
        esac
    done
    cp -L "$modules"/modules.builtin* "$to/" 2>/dev/null || true
    depmod -b "$1" "$version" 2>/dev/null
}

# ---- The programs ----------------------------------------------------------------------

# add_program ROOT PROGRAM: into /usr/bin, its libraries where its loader will look for them.
add_program() {
    local path library
    path=$(command -v "$2") || die "--with $2: there is no such program on this machine."
    cp -L "$path" "$1/usr/bin/"
    # Lines: "libc.so.6 => /lib/.../libc.so.6 (0x...)" and "/lib64/ld-linux-x86-64.so.2 (0x...)".
    # A static program has none, and ldd says so by failing.
    { ldd "$path" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$1${library%/*}"
        cp -Ln "$library" "$1$library"
    done
}

static_busybox() {
    local path
    for path in /bin/busybox /usr/bin/busybox; do
        # A busybox that needs libraries (Debian's plain `busybox`) would not start in the guest.
        if [ -x "$path" ] && ! ldd "$path" >/dev/null 2>&1; then echo "$path"; return; fi
    done
    die "the guest's programs come from a statically linked busybox; install busybox-static."
}

# ---- The archive -----------------------------------------------------------------------

for program in cpio depmod modprobe; do
    PATH=$PATH:/sbin:/usr/sbin command -v "$program" >/dev/null || die "$program is missing; install cpio and kmod."
done
PATH=$PATH:/sbin:/usr/sbin
busybox=$(static_busybox)

# The name says what is inside: another kernel, program or /init makes another archive.
key=$({
    cat "$here/guest-image.sh" "$here/guest-init" "$busybox"
    stat -Lc '%n %s %Y' "$kernel"
    echo "modules ${modules:-none}"
    for program in "${programs[@]}"; do stat -Lc '%n %s %Y' "$(command -v "$program" || echo /nowhere)" 2>&1; done
} | sha256sum | cut -c1-16)
initrd=$cache/initrd-$key.cpio

if ! [ -e "$initrd" ]; then
    to_make "the guests' initramfs${programs[*]:+ with ${programs[*]}}"
    root=$making/root
    mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,etc,dev,proc,sys,tmp,root,run}
    cp "$busybox" "$root/bin/busybox"
    ln -s busybox "$root/bin/sh"
    install -m 755 "$here/guest-init" "$root/init"
    ln -s /bin/busybox "$root/sbin/modprobe" # where the kernel looks when it wants a module
    [ -z "$modules" ] || add_modules "$root"
    for program in "${programs[@]}"; do add_program "$root" "$program"; done
    # Not compressed: an emulated CPU would spend longer unpacking than the host spends reading.
    (cd "$root" && find . | sort | cpio --quiet --create --format=newc --owner=0:0) >"$making/initrd"
    mv -T "$making/initrd" "$initrd"
fi

printf 'KERNEL=%q\nINITRD=%q\n' "$kernel" "$initrd"
