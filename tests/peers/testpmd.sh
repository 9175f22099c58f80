# testpmd.sh - DPDK's own traffic generator as an end of a wire. Sourced by peers.
#
# Each testpmd has two threads on the same processor: the one that forwards, and the main one. The
# main one sits in a read of its standard input and costs nothing, so an end is one busy thread.
# Memory is ordinary pages (--no-huge, an anonymous file that can be shared), devices are virtual.
#
# All numbers are the receiving testpmd's own: its counters and its clock, between two times
# `show port stats all`.

testpmd_needs=(dpdk-testpmd:dpdk-dev dpdk-testpmd:librte-meta-net)

# testpmd NAME PROCESSOR VDEV... [-- ARGUMENT...]: starts one, fit for frames of $size bytes.
testpmd() {
    local name=$1 processor=$2 devices=() buffer=2176 buffers=4096 memory=128
    shift 2
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        devices+=(--vdev="$1")
        shift
    done
    [ $# -eq 0 ] || shift
    # A frame is one buffer, with DPDK's 128 bytes of headroom.
    if [ "$size" -gt 9000 ]; then
        buffer=65280 buffers=2048 memory=512
    elif [ "$size" -gt 2048 ]; then
        buffer=9344 memory=256
    fi
    mkfifo "$name.in"
    local command=(stdbuf -oL dpdk-testpmd --lcores "0@$processor,1@$processor" --no-huge -m $memory --no-pci --no-telemetry
        --file-prefix "$name" "${devices[@]}" -- -i --mbuf-size=$buffer --total-num-mbufs=$buffers "$@")
    note "mkfifo $name.in; ${command[*]} <>$name.in >$name.log &"
    # The pipe stays open: end of input would be the end of testpmd.
    exec {pipe}<>"$name.in"
    "${command[@]}" <"$name.in" >"$name.log" 2>&1 &
    spawned[$name]=$!
    await "$name" said "$name" '^testpmd> '
}

# tell NAME COMMAND...: types each.
tell() {
    local name=$1 command
    shift
    for command in "$@"; do
        note "echo '$command' >$name.in"
        echo "$command" >"$name.in"
    done
}

# shown NAME: how many times it has shown the rates of its ports.
shown() { grep -c 'Rx-pps' "$1.log" || true; }

# received NAME: frames and bits a second that arrived at all ports of NAME within the time.
received() {
    local name=$1 before ports
    before=$(shown "$name")
    tell "$name" "show port stats all"
    await "$name" more_shown "$name" "$before"
    sleep "$seconds"
    ports=$(shown "$name")
    tell "$name" "show port stats all"
    await "$name" more_shown "$name" "$ports"
    sleep 0.1 # all of it
    tail -n "+$(($(grep -n 'Rx-pps' "$name.log" | sed -n "$((ports + 1))s/:.*//p")))" "$name.log" |
        awk '/Rx-pps/ { frames += $2; bits += $4 } END { printf "%.4f %.3f\n", frames / 1e6, bits / 1e9; exit !frames }' ||
        die "nothing arrived at $name"
}
more_shown() { [ "$(shown "$1")" -gt "$2" ]; }

# idle NAME...: stops forwarding.
idle() {
    local name
    for name in "$@"; do
        tell "$name" stop
        await "$name" said_last "$name" '^Done\.'
    done
}
# said_last NAME TEXT: whether that is among the last things it said.
said_last() { tail -n 5 "$1.log" | grep -q -e "$2"; }

# one_way: from the testpmd `left` to the testpmd `right`.
one_way() {
    local rate
    tell right "set fwd rxonly" start
    tell left "set fwd txonly" "set txpkts $size" start
    sleep 0.3
    rate=$(received right)
    idle left right
    echo "$peer $size $rate"
}

# Two cards of one testpmd (`ends`), virtio-user both, with a switch between them that has the other
# processor to itself. Frames go round: what one card receives the other sends, to the first.
# That way two ends and a switch are two busy threads, not three.
two_cards() {
    testpmd ends "$cpu_a" \
        "net_virtio_user0,mac=02:00:00:00:00:01,path=$1,queue_size=1024${3:-}" \
        "net_virtio_user1,mac=02:00:00:00:00:02,path=$2,queue_size=1024${3:-}" \
        -- --eth-peer=0,02:00:00:00:00:02 --eth-peer=1,02:00:00:00:00:01
}
# round_and_round: 16 bursts of 32 frames each way, which no queue here is too small for.
round_and_round() {
    local rate
    tell ends "set fwd mac" "set txpkts $size" "start tx_first 16"
    sleep 0.3
    rate=$(received ends)
    idle ends
    echo "$peer $size $rate"
}
