#!/usr/bin/env bash
# hundred.sh - a hundred guests on one segment, in one terminal.
#
# Builds the guest in guest/, starts it a hundred times with 4 MiB each on one segment, lets one
# more ping all of them, shows what they cost while idle, and leaves nothing behind. Needs no
# root and no hardware virtualisation.
#
#   hundred.sh [NUMBER]   how many guests, 1 to 200 instead of 100
#   BIN=folder            take launcher and lgswitch from here instead of building them
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lab.sh"

number=${1:-100}
[[ $number =~ ^[0-9]+$ ]] && [ "$number" -ge 1 ] && [ "$number" -le 200 ] || die "the number of guests is 1 to 200, not '$number'."
patience=60 # seconds until all must have started

lab=$(mktemp -d)
guests=()
cleanup() {
    trap '' HUP INT TERM
    unattend
    # A guest stays until it is ended; its port and its memory go with its launcher.
    [ ${#guests[@]} -eq 0 ] || kill "${guests[@]}" 2>/dev/null || true
    wait
    rm -rf "$lab"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

attended need "to build the guest" cc:gcc
if [ -z "${BIN:-}" ]; then
    need_cargo
    say "Building the launcher and lgswitch ..."
    attended cargo build --manifest-path "$here/../Cargo.toml" --release --quiet -p launcher -p lgswitch
    BIN=${CARGO_TARGET_DIR:-$here/../target}/release
fi
"$here/guest/build.sh" "$lab/guest"
"$BIN/lgswitch" create "$lab/lan"

# guest ARGUMENT...: one guest on the segment, in place of the (sub)shell that calls it, so that its
# process is known. The path has a slash, so it is no bare name.
guest() {
    exec "$BIN/launcher" --engine=lguest --sharenet="$lab/lan" 4 "$lab/guest" "$@" </dev/null
}

say "Starting $number guests ..."
for ((i = 1; i <= number; i++)); do
    guest ip="10.0.0.$i" echo >"$lab/$i.out" 2>&1 &
    guests+=($!)
done
for ((tenths = 0; ; tenths++)); do
    up=$(cat "$lab"/*.out | grep -c 'is up' || true)
    [ "$up" -lt "$number" ] || break
    [ $((tenths / 10)) -lt $patience ] || die "only $up of $number guests have started; one says: $(tail -n 1 "$lab/1.out")"
    sleep 0.1
done

# Proportional set size: a page that n processes share counts one n-th for each.
memory=0
for pid in "${guests[@]}"; do
    memory=$((memory + $(awk '/^Pss:/ { print $2 }' "/proc/$pid/smaps_rollup")))
done
# Ticks that all of them have used: of user and of system time.
ticks() { for pid in "${guests[@]}"; do cat "/proc/$pid/stat"; done | sed 's/.*) //' | awk '{ n += $12 + $13 } END { print n }'; }
seconds=5
before=$(ticks)
sleep $seconds
after=$(ticks)

say "All $number are up. Together they take:"
awk -v kib="$memory" -v ticks=$((after - before)) -v rate="$(getconf CLK_TCK)" -v seconds=$seconds \
    'BEGIN { printf "  %.0f MiB of memory, and, idle, %.2f %% of one core\n", kib / 1024, 100 * ticks / rate / seconds }'

echo "One more pings them all:"
guest ip=10.0.0.254 count=3 interval=0 ping=10.0.0.1..10.0.0."$number" off 2>&1 | tr -d '\r' | sed 's/^/  /' | tee "$lab/answers"
asked=$((3 * number))
grep -q "ping: $asked of $asked answered" "$lab/answers" || die "not all of them answered."
