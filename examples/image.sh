# image.sh - what images are made of: a cache, kernel modules, programs with their libraries.
#
# Sourced after lab.sh, never run. guest-image.sh makes the guests' initramfs of it, and
# tests/host-image the disk of a whole host.

# Debian puts some of the tools where only root's PATH looks.
PATH=$PATH:/usr/sbin:/sbin

# need_tools PACKAGES COMMAND...: all of these are there, or the last line says what to install.
need_tools() {
    local packages=$1 tool
    shift
    for tool in "$@"; do
        command -v "$tool" >/dev/null || die "$tool is missing; install $packages."
    done
}

# ---- The cache -------------------------------------------------------------------------

# open_cache FOLDER: sets `cache` to it, ours alone until this script ends, and `making` to a
# folder in it: everything is made in there and renamed into place when whole.
open_cache() {
    mkdir -p "$1"
    cache=$(cd "$1" && pwd)
    # One maker at a time; a second one waits and then finds the work done.
    exec 9>"$cache/.lock"
    flock 9
    # Whatever an earlier, killed run left half made goes first: we hold the lock, so it is
    # nobody's.
    rm -rf "$cache"/making.*
    making=$(mktemp -d "$cache/making.XXXXXX")
    trap 'rm -rf "$making"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# to_make WHAT: the cache does not have it. With `cached_only` set that is the end.
to_make() {
    [ -z "${cached_only:-}" ] || { say "${0##*/}: $1 is not in the cache $cache yet; run without --cached."; exit 3; }
    say "Making $1 ..."
}

# contents FILE...: for the key of what is made of these files: another size or age, another key.
contents() {
    local file
    for file in "$@"; do stat -Lc '%n %s %Y' "$file" 2>&1 || true; done
}

# key < TEXT: a short name for all that went into something.
key() { sha256sum | cut -c1-16; }

# ---- Parts -----------------------------------------------------------------------------

# new_root ROOT: the folders and the shell every image has.
new_root() {
    mkdir -p "$1"/{bin,sbin,usr/bin,usr/sbin,etc,dev,proc,sys,tmp,root,run}
    cp "$(static_busybox)" "$1/bin/busybox"
    ln -s busybox "$1/bin/sh"
    ln -s /bin/busybox "$1/sbin/modprobe" # where the kernel looks when it wants a module
}

static_busybox() {
    local path
    for path in /bin/busybox /usr/bin/busybox; do
        # A busybox that needs libraries (Debian's plain `busybox`) would not start in the guest.
        if [ -x "$path" ] && ! ldd "$path" >/dev/null 2>&1; then echo "$path"; return; fi
    done
    die "the guest's programs come from a statically linked busybox; install busybox-static."
}

# add_modules ROOT MODULES MODULE...: of the folder MODULES (/lib/modules/VERSION) these and what
# they need, with the indices `modprobe` reads.
add_modules() {
    local root=$1 modules=$2 version=${2##*/} all=$making/all module to
    shift 2
    # The package has no indices (its installation would make them): make them, beside it.
    mkdir -p "$all/lib/modules"
    ln -s "$modules" "$all/lib/modules/$version"
    if ! [ -e "$modules/modules.dep" ]; then
        rm "$all/lib/modules/$version"
        cp -rs "$modules" "$all/lib/modules/$version"
        depmod -b "$all" "$version"
    fi
    to=$root/lib/modules/$version
    mkdir -p "$to"
    for module in "$@"; do
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
    depmod -b "$root" "$version" 2>/dev/null
}

# program PROGRAM: the file behind a name on PATH, or behind a path.
program() { command -v "$1" || die "--with $1: there is no such program on this machine."; }

# add_program ROOT PATH: into /usr/bin, its libraries where its loader will look for them.
add_program() {
    local path=$2 library
    cp -L "$path" "$1/usr/bin/"
    # Lines: "libc.so.6 => /lib/.../libc.so.6 (0x...)" and "/lib64/ld-linux-x86-64.so.2 (0x...)".
    # A static program or a script has none, and ldd says so by failing.
    { ldd "$path" 2>/dev/null || true; } | sed -n 's|^[^/]*\(/[^ ]*\) (0x.*|\1|p' | while read -r library; do
        mkdir -p "$1${library%/*}"
        cp -Ln "$library" "$1$library"
    done
}
