//! Claims about cards of another VMM, QEMU, that are plugged in with `lgswitch plug`.

use anyhow::{Context, Result, ensure};
use system_tests::plug::{self, Plug};
use system_tests::qemu::{Card, Plugged};
use system_tests::wait::{self, PATIENCE};
use system_tests::{Guest, Lab, Namespace, Need, claim};

fn main() {
    const NEEDS: &[Need] = &[
        Need::Guests,
        Need::Root,
        Need::Tool("qemu-system-x86_64"),
        Need::Tool("ethtool"),
    ];
    system_tests::main(vec![claim(
        "both_processors_of_a_guest_have_their_queues_and_it_outlives_its_plug",
        NEEDS,
        two_queues_and_another_plug,
    )])
}

const MAC: &str = "52:54:00:00:00:01";

fn two_queues_and_another_plug() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    let host = Namespace::new()?;
    let _tap = Plug::tap(&lab, "lan0", &host, "t0", &["10.0.0.1/24".into()])?;
    let card = Card {
        mac: MAC.into(),
        pairs: 2,
        properties: "",
    };
    let mut plugged = Plugged::start(&lab, "guest", "lan0", 2, &[card], "eth0=10.0.0.2/24")?;
    let guest = &mut plugged.guest;
    guest.booted()?;
    guest.pings("10.0.0.1")?;

    // Whoever sends, it is by the queue of its processor.
    for processor in 0..2 {
        let ping = "/usr/bin/ping -n -c 3 -i 0.2 -W 5 10.0.0.1";
        guest.succeeds(&format!("taskset {} {ping}", 1 << processor))?;
    }
    // And of many flows some come in by one queue, some by the other.
    host.within(|| {
        for _ in 0..32 {
            let socket = std::net::UdpSocket::bind("10.0.0.1:0")?;
            socket.send_to(b"to nobody", "10.0.0.2:9")?;
        }
        Ok(())
    })?;
    wait::until_true("packets in all queues", PATIENCE, || {
        let counts = packets(guest)?;
        Ok(counts.len() == 4 && counts.iter().all(|count| *count > 0))
    })
    .with_context(|| format!("{:?}", packets(guest)))?;

    // Killed, it takes nothing along; QEMU comes back to the next one at the same place.
    drop(plugged.plugs.pop());
    guest.fails("/usr/bin/ping -n -c 1 -W 1 10.0.0.1")?;
    let socket = plug::socket(&lab, "guest", 0);
    let _next = Plug::card(&lab, "lan0", &socket, MAC, 2)?;
    wait::until_true("QEMU to come back", PATIENCE, || {
        Ok(guest.run("/usr/bin/ping -n -c 1 -W 1 10.0.0.1")?.status == 0)
    })?;
    let before = packets(guest)?;
    for processor in 0..2 {
        let ping = "/usr/bin/ping -n -c 3 -i 0.2 -W 5 10.0.0.1";
        guest.succeeds(&format!("taskset {} {ping}", 1 << processor))?;
    }
    let after = packets(guest)?;
    ensure!(
        after
            .iter()
            .zip(&before)
            .skip(2)
            .all(|(after, before)| after > before),
        "Not all queues transmit again: {before:?}, then {after:?}"
    );
    Ok(())
}

/// Packets of the receive queues, then of the transmit queues.
fn packets(guest: &mut Guest) -> Result<Vec<u64>> {
    let text = guest.succeeds("ethtool -S eth0")?;
    let counts = |direction: &str| -> Vec<u64> {
        let line = |line: &str| {
            let (name, count) = line.trim().split_once(": ")?;
            let queue = name.strip_prefix(direction)?.strip_suffix("_packets")?;
            queue.parse::<u32>().ok()?;
            count.parse().ok()
        };
        text.lines().filter_map(line).collect()
    };
    Ok([counts("rx_queue_"), counts("tx_queue_")].concat())
}
