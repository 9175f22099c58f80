# lab.sh - what every lab script here begins with: a voice, and the packages it needs.
#
# Sourced, never run:  . "$(dirname "$0")/lab.sh"

# say WORD...: one line of progress, on stderr so that stdout stays the script's answer.
say() { printf '%s\n' "$*" >&2; }

# die WORD...: the last line of a script that cannot go on.
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# attended COMMAND...: runs something that takes long, such that a signal to the script ends both.
# (A shell runs a trap only after the command in its foreground has ended; so this one is in
# the background, in a process group of its own.) A script that uses it calls `unattend` in its
# EXIT trap.
attended() {
    local status=0
    set -m
    "$@" </dev/null &
    attended=$!
    set +m
    wait "$attended" || status=$?
    attended=
    return $status
}

# unattend: ends what `attended` runs, if it does.
unattend() {
    [ -n "${attended:-}" ] || return 0
    kill -TERM -- "-$attended" 2>/dev/null || true
    wait "$attended" 2>/dev/null || true
}

# need WHY COMMAND:PACKAGE...: makes sure each COMMAND exists, and installs the PACKAGEs of
# those that do not. What is there already is left alone, so a machine without apt that has
# everything is as good as a fresh Debian.
need() {
    local why=$1 pair packages=() install
    shift
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null && continue
        [[ " ${packages[*]} " = *" ${pair#*:} "* ]] || packages+=("${pair#*:}")
    done
    [ ${#packages[@]} -gt 0 ] || return 0

    say "Missing, $why: ${packages[*]}"
    install="apt-get install --no-install-recommends ${packages[*]}"
    command -v apt-get >/dev/null ||
        die "there is no apt-get here; install what Debian calls ${packages[*]}, then run this again."
    [ "$(id -u)" -eq 0 ] ||
        die "installing needs root; run \`sudo $install\`, then run this again."
    say "Installing: $install"
    # A fresh machine has no package lists, an old one has lists that name packages long gone. One source
    # of several that can't be reached need not be the one that matters.
    apt_quietly update || say "\`apt-get update\` failed, at least in part; going on with the lists that are there."
    apt_quietly install --yes --no-install-recommends "${packages[@]}" ||
        die "\`$install\` failed; the reason is above. Is there a network?"
}

# need_cargo: the Rust toolchain is not taken from apt: Debian's is older than this code.
need_cargo() {
    command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    command -v cargo >/dev/null ||
        die "cargo is missing; install Rust 1.90 or newer (https://rustup.rs), then run this again."
}

# apt_quietly ARGUMENT...: apt-get that asks nothing, waits for another apt to finish, and
# shows its output only when it failed.
apt_quietly() {
    local output
    output=$(DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" </dev/null 2>&1) || {
        say "$output"
        return 1
    }
}
