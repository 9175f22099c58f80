# interfaces.sh - two hosts, each a network namespace with an interface eth0. Sourced by peers.
#
# Frames are sent and received by packet sockets, 32 a system call; TCP is iperf3's.

interfaces_needs=(iperf3:iperf3 ss:iproute2 taskset:util-linux)

hosts() {
    show ip netns add left
    show ip netns add right
}

# mtu: of the interfaces; a frame's size has its 14 bytes of Ethernet header.
mtu() { [ "$size" = tcp ] || [ "$size" -le 1514 ] && echo 1500 || echo $((size - 14)); }

# move LEFT RIGHT: makes these two interfaces the hosts' eth0.
move() {
    local host interface=$1 number=1
    for host in left right; do
        show ip link set "$interface" netns "$host"
        show ip -n "$host" link set "$interface" name eth0 address "02:00:00:00:00:0$number" mtu "$(mtu)"
        # No word but ours on the wire.
        show ip -n "$host" link set eth0 addrgenmode none
        show ip -n "$host" link set eth0 up
        show ip -n "$host" address add "10.0.0.$number/24" dev eth0
        interface=$2 number=2
    done
}

# frames_or_tcp: from left to right.
frames_or_tcp() {
    if [ "$size" = tcp ]; then tcp; else frames "ip netns exec right" packet:eth0 "ip netns exec left" packet:eth0; fi
}

# frames WRAPPER RECEIVER WRAPPER SENDER: peer-ends at both ends.
frames() {
    rm -f receiving sending # sockets of the time before
    # shellcheck disable=SC2086 # wrappers are several words or none
    spawn receiver $1 peer-ends receive "$2" --size "$size" --seconds "$seconds" --processor "$cpu_b"
    sleep 0.2
    # shellcheck disable=SC2086
    spawn sender $3 peer-ends send "$4" --size "$size" --seconds 30 --processor "$cpu_a"
    finish receiver
    end sender
    echo "$peer $size $(cat receiver.log)"
}

# tcp: iperf3 between the two hosts, in whole seconds, of which it knows no other.
tcp() {
    local whole
    whole=$(awk "BEGIN { s = $seconds; print (s > int(s)) ? int(s) + 1 : int(s) }")
    spawn server ip netns exec right taskset -c "$cpu_b" iperf3 --server --one-off
    await server listening
    show ip netns exec left taskset -c "$cpu_a" iperf3 --client 10.0.0.2 --time "$whole" --omit 1 --connect-timeout 5000 --json >answer ||
        die "iperf3: $(grep -o '"error".*' answer)"
    end server
    python3 -c '
import json
print("'"$peer"' tcp -", round(json.load(open("answer"))["end"]["sum_received"]["bits_per_second"] / 1e9, 3))'
}
listening() { ip netns exec right ss -Hltn 'sport = :5201' | grep -q .; }
