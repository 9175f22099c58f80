//! How often a guest's processor leaves the guest for a thousand frames it receives, while more
//! frames come than it can take.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lgswitch::frame::Gather;
use lgswitch::map::SharedBytes;
use lgswitch::port::Sent;
use lgswitch::{PortOptions, Segment, VnetHeader};

use super::table::{Goal, Table, median};
use super::vmm::{BOTH, Vmm, Wanted, Wire};
use super::{Rounds, cost, tried};
use crate::lab::Lab;
use crate::{inspect, machine};

const SEGMENT: &str = "receive";

/// The card's address.
const CARD: &str = "02:00:00:00:00:01";

/// A frame to that address of the type for local experiments (IEEE 802), which the guest's kernel
/// counts and forgets.
const FRAME: [u8; 256] = {
    let mut frame = [0; 256];
    (frame[0], frame[5]) = (0x02, 0x01);
    (frame[6], frame[11]) = (0x02, 0x77);
    (frame[12], frame[13]) = (0x88, 0xb5);
    frame
};

/// Frames in a burst, and the pause after one.
const BURST: usize = 64;
const PAUSE: Duration = Duration::from_millis(1);

const WARM_UP: Duration = Duration::from_secs(2);
const WINDOW: Duration = Duration::from_secs(5);

pub(super) fn measure(lab: &Lab, rounds: Rounds, table: &mut Table) -> Result<()> {
    cost::show_counts()?;
    lab.lgswitch(&["create", SEGMENT])?;
    let mut taken = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    for round in 1..=rounds.0 {
        for (vmm, (exits, rates)) in BOTH.iter().zip(&mut taken) {
            let (left, rate) = tried(|| once(lab, *vmm))?;
            eprintln!("receive {round}, {vmm:?}: {left:.1} exits, {rate:.0} frames a second");
            exits.push(left);
            rates.push(rate);
        }
    }
    lab.lgswitch(&["rm", SEGMENT])?;
    let [(our_exits, our_rates), (their_exits, their_rates)] = taken;
    table.row(
        "exits for 1,000 frames received at load",
        median(our_exits),
        Some(median(their_exits)),
        Goal::Times(1.0),
    );
    table.row(
        "frames received a second then",
        median(our_rates),
        Some(median(their_rates)),
        Goal::None,
    );
    Ok(())
}

/// Exits for a thousand frames, and frames a second.
fn once(lab: &Lab, vmm: Vmm) -> Result<(f64, f64)> {
    let image = machine::image()?;
    let wanted = Wanted {
        name: "guest",
        memory: 256,
        kernel: &image.kernel,
        initrd: &image.initrd,
        arguments: "quiet host=guest eth0=10.0.0.1/24",
        wire: Some((Wire::Sharenet(SEGMENT), CARD)),
    };
    let mut running = vmm.start(lab, &wanted)?;
    running.guest.booted()?;
    let file = lab.segment(SEGMENT);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(&file, &stop));
        let measured = watch(lab, &running.guest);
        stop.store(true, Ordering::Relaxed);
        sender
            .join()
            .unwrap_or_else(|_| Err(anyhow::anyhow!("The sender panicked")))?;
        measured
    })
}

fn watch(lab: &Lab, guest: &crate::Guest) -> Result<(f64, f64)> {
    std::thread::sleep(WARM_UP);
    let look = || anyhow::Ok((cost::exits(guest)?, received(lab)?, Instant::now()));
    let before = look()?;
    std::thread::sleep(WINDOW);
    let after = look()?;
    let frames = after.1 - before.1;
    Ok((
        (after.0 - before.0) / frames * 1000.0,
        frames / (after.2 - before.2).as_secs_f64(),
    ))
}

/// Frames the card's port has handed to the guest.
fn received(lab: &Lab) -> Result<f64> {
    let report = lab.inspect(SEGMENT)?;
    inspect::held(&report)
        .iter()
        .find(|port| port["mac"] == CARD)
        .and_then(|port| port["received"]["frames"].as_f64())
        .with_context(|| format!("The card's port counts nothing: {report}"))
}

/// Sends until told to stop.
fn send(file: &std::path::Path, stop: &AtomicBool) -> Result<()> {
    let options = PortOptions {
        name: "sender".into(),
        ..PortOptions::default()
    };
    let (mut tx, _rx) = Segment::open(file)
        .and_then(|segment| segment.port(options))
        .context("Joining the segment")?
        .split();
    let part = [SharedBytes::from(FRAME.as_slice())];
    let frame = Gather::new(&part);
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BURST {
            if let Sent::Full(_) = tx.send(&VnetHeader::default(), &frame) {
                tx.give_up();
                break;
            }
        }
        tx.flush();
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
