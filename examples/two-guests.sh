#!/usr/bin/env bash
# two-guests.sh - two guests on one wire, and a LAN behind one of them.
#
#        lan0 (a segment)            br0 (a bridge)
#   right ------------- left --------------------- lan (a host)
#   10.0.0.2    10.0.0.1  192.168.7.2       192.168.7.1
#   fd00::2      fd00::1      fd07::2           fd07::1
#
# One command, on a fresh machine: installs what is missing, builds, fetches a kernel, starts
# the guests, lets everyone ping everyone who should hear, shows who is on the segment, and
# leaves nothing behind. Needs root: for the bridge, its tap, and a network to keep them in.
#
#   KERNEL=file MODULES=folder  another kernel, see guest-image.sh
#   BIN=folder                  take launcher and lgswitch from here instead of building them
#
# The lab runs in namespaces of its own (network, mounts, processes). The host's network is not
# touched, and however the lab ends - done, failed, ^C, killed - the kernel takes everything in
# it away. The first half below is outside, the second is the lab.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lab.sh"

# ---- Outside: what the lab needs, and its end -------------------------------------------

outside() {
    local needs=(qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio depmod:kmod
        ip:iproute2 unshare:util-linux setpriv:util-linux cc:gcc cc:libc6-dev)
    if [ "$(id -u)" -ne 0 ]; then
        need "for the lab" "${needs[@]}" # lists them, if any is missing, and ends
        die "the lab needs root for its bridge and its tap (in a network namespace of its own; this machine's network is not touched): run \`sudo $0\`."
    fi
    scratch=$(mktemp -d)
    lab=
    trap cleanup EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM

    attended need "for the lab" "${needs[@]}"
    if [ -z "${BIN:-}" ]; then
        need_cargo
        say "Building the launcher and lgswitch ..."
        attended cargo build --manifest-path "$here/../Cargo.toml" --release --quiet -p launcher -p lgswitch
        BIN=${CARGO_TARGET_DIR:-$here/../target}/release
    fi
    PATH=$(cd "$BIN" && pwd):$PATH
    export PATH
    attended "$here/guest-image.sh" >"$scratch/image"
    . "$scratch/image"
    export KERNEL INITRD
    [ -c /dev/net/tun ] || modprobe tun || die "there is no /dev/net/tun, and the kernel module \`tun\` that makes it cannot be loaded."

    # Every process of the lab inherits the writing end of this pipe. Whoever reads the end of
    # file at the other knows that the last of them is gone.
    mkfifo "$scratch/alive"
    cat "$scratch/alive" >/dev/null &
    reader=$!
    # Even if we are killed so that no trap runs, the kernel ends it.
    setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child \
        "$0" --inside </dev/null 7>"$scratch/alive" &
    lab=$!
    wait "$lab"
}

cleanup() {
    trap '' HUP INT TERM # once begun, it is done
    unattend
    if [ -n "$lab" ]; then
        # unshare's one child is the first process of the lab. With it, all others die. (If
        # there is none yet, unshare itself is all there is.)
        local first
        first=$(cat "/proc/$lab/task/$lab/children" 2>/dev/null) || true
        kill -KILL ${first:-"$lab"} 2>/dev/null || true
        wait "$lab" 2>/dev/null || true
        wait "$reader" || true
    fi
    rm -rf "$scratch"
}

# ---- Inside: the lab ---------------------------------------------------------------------

inside() {
    # Nobody else sees what is mounted here. A /run of our own keeps the segment, the LAN's name
    # and the guests' consoles.
    mount -t proc proc /proc
    mount -t tmpfs run /run
    mkdir /run/lab
    cd /run/lab
    export LGSWITCH_DIR=/run/lgswitch TMPDIR=/run/lab
    ip link set lo up

    echo "A segment: lgswitch create lan0"
    lgswitch create lan0

    echo "A bridge, and behind it a host of the LAN (a network namespace):"
    show ip link add br0 type bridge
    show ip link set br0 up
    show ip netns add lan
    show ip link add port0 master br0 type veth peer name eth0 netns lan
    show ip link set port0 up
    show ip -n lan link set eth0 up
    show ip -n lan address add 192.168.7.1/24 dev eth0
    show ip -n lan address add fd07::1/64 dev eth0 nodad

    echo "Two guests:"
    start left --sharenet=lan0 --tunnet=bridge:br0 \
        eth0=10.0.0.1/24,fd00::1/64 eth1=192.168.7.2/24,fd07::2/64
    start right --sharenet=lan0 eth0=10.0.0.2/24,fd00::2/64
    booted left
    booted right

    echo "Everyone pings:"
    guest_pings left right 10.0.0.2
    guest_pings left right fd00::2
    guest_pings right left 10.0.0.1
    guest_pings right left fd00::1
    guest_pings left lan 192.168.7.1
    guest_pings left lan fd07::1
    lan_pings left 192.168.7.2
    lan_pings left fd07::2

    echo "Who is on the segment: lgswitch inspect lan0"
    lgswitch inspect lan0 | sed 's/^/  /'

    echo "Both power off."
    power_off left
    power_off right
}

# show COMMAND...: runs it and shows it.
show() {
    echo "  $*"
    "$@"
}

# start NAME OPTION... KERNEL-ARGUMENT...: a guest whose console we hold: what is written to
# NAME.in is typed on it, NAME.out is what it shows.
start() {
    local name=$1 options=()
    shift
    while [ $# -gt 0 ] && [[ $1 == --* ]]; do options+=("$1"); shift; done
    echo "  launcher ${options[*]} --initrd=... 256 ${KERNEL##*/} host=$name $*"
    mkfifo "$name.in"
    launcher "${options[@]}" --initrd="$INITRD" 256 "$KERNEL" quiet "host=$name" "$@" \
        <>"$name.in" >"$name.out" 2>"$name.err" &
    echo $! >"$name.pid"
}

# wait_for NAME TEXT [FROM]: until the guest's console shows TEXT, after its first FROM bytes;
# at most a minute.
wait_for() {
    local tries=600
    until tail -c "+$((${3:-0} + 1))" "$1.out" | grep -qF "$2"; do
        kill -0 "$(cat "$1.pid")" 2>/dev/null || failed "$1" "ended before its time"
        [ $((tries -= 1)) -gt 0 ] || failed "$1" "did not show \`$2\` within a minute"
        sleep 0.1
    done
}

# failed NAME WHAT: says what happened to a guest, with its console's last lines, and ends the lab.
failed() {
    echo "The guest $1 $2. Its console's last lines:"
    tail -n 15 "$1.out"
    echo "What its launcher said:"
    cat "$1.err"
    exit 1
} >&2

booted() {
    wait_for "$1" "$1:/root# "
    # An echo and a prompt would be in the way of telling a command from its output.
    echo "stty -echo; PS1=" >"$1.in"
}

# ask NAME COMMAND: types the command on the guest's console; its output is in `answer`, its
# exit status is returned.
ask() {
    local from status
    from=$(stat -c %s "$1.out")
    echo "$2; echo \"=[\$?]=\"" >"$1.in"
    wait_for "$1" "]=" "$from"
    answer=$(tail -c "+$((from + 1))" "$1.out" | tr -d '\r')
    status=${answer##*=[}
    answer=${answer%=[*}
    return "${status%%]=*}"
}

# guest_pings NAME PEER ADDRESS
guest_pings() {
    ask "$1" "ping -q -c 3 $3" || failed "$1" "cannot reach $2 at $3"
    told "$1" "$2" "$3" "$answer"
}

# lan_pings PEER ADDRESS
lan_pings() {
    local answer
    answer=$(ip netns exec lan busybox ping -q -c 3 "$2") || { echo "The LAN's host cannot reach $1 at $2: $answer" >&2; exit 1; }
    told lan "$1" "$2" "$answer"
}

# told WHO PEER ADDRESS PING-OUTPUT
told() { printf '  %-5s -> %-5s  %-12s  %s\n' "$1" "$2" "$3" "$(grep transmitted <<<"$4")"; }

power_off() {
    local status=0
    echo "poweroff -f" >"$1.in"
    wait "$(cat "$1.pid")" || status=$?
    [ $status -eq 0 ] || failed "$1" "powered off, but its launcher ended with $status"
}

case ${1:-} in
    '') outside ;;
    --inside) inside ;;
    *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; [ "$1" = --help ] || exit 2 ;;
esac
