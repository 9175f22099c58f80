//! The parts played on a segment.

use std::hint::spin_loop;
use std::time::Instant;

use anyhow::{Result, bail};
use pnet_base::MacAddr;

use super::stage::{Part, Role};
use super::{Buffers, CLOCK, Measured, PATIENCE};
use crate::frame::{Gather, Offloads, VnetHeader};
use crate::port::{Port, PortOptions, PortRx, PortTx, Sent, Verdict};
use crate::segment::Segment;

/// The two stations.
const FIRST: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
const SECOND: MacAddr = MacAddr(2, 0, 0, 0, 0, 2);
/// Types of test frames (IEEE 802, local experimental): data, and the last one.
const DATA: [u8; 2] = [0x88, 0xb5];
const LAST: [u8; 2] = [0x88, 0xb6];

/// Joins the segment as one of the two stations.
fn join(part: &Part, mac: MacAddr) -> Result<Port> {
    let options = PortOptions {
        mac: Some(mac),
        name: format!("bench {:?}", part.role),
        offloads: Offloads::ALL,
        ..PortOptions::default()
    };
    Ok(Segment::open(&part.path)?.port(options)?)
}

/// The header of frames above the MTU: to be cut, by whoever is not us.
fn header(part: &Part, port: &Port) -> VnetHeader {
    let ordinary = part.size <= port.segment().mtu() as usize + 14;
    match ordinary {
        true => VnetHeader::default(),
        false => VnetHeader {
            flags: VnetHeader::NEEDS_CHECKSUM,
            gso_type: VnetHeader::GSO_TCPV4,
            gso_size: 1448,
            header_len: 66,
            checksum_start: 34,
            checksum_offset: 16,
        },
    }
}

fn fill(frame: &mut [u8], to: MacAddr, from: MacAddr, kind: [u8; 2]) {
    frame[..6].copy_from_slice(&to.octets());
    frame[6..12].copy_from_slice(&from.octets());
    frame[12..14].copy_from_slice(&kind);
}

/// Sends, however long it takes the receiver to make room.
fn insist(tx: &mut PortTx, header: &VnetHeader, frame: &[u8]) -> Result<()> {
    let parts = [frame.into()];
    let start = Instant::now();
    loop {
        match tx.send(header, &Gather::new(&parts)) {
            Sent::Done => return Ok(()),
            Sent::Dropped(reason) => bail!("A frame was dropped: {reason:?}"),
            Sent::Full(_) => {
                tx.flush();
                spin_loop();
                if start.elapsed() > PATIENCE {
                    bail!("The receiver takes nothing any more");
                }
            }
        }
    }
}

/// Sends bursts for the time given, then the last frame.
pub fn send(part: &Part, ready: impl FnOnce()) -> Result<Measured> {
    let port = join(part, FIRST)?;
    let header = header(part, &port);
    let (mut tx, _rx) = port.split();
    let mut buffers = Buffers::new(part.size);
    for _ in 0..super::BUFFERS {
        fill(buffers.next(part.size), SECOND, FIRST, DATA);
    }
    ready();
    let start = Instant::now();
    let mut bursts = 0u64;
    while !bursts.is_multiple_of(CLOCK) || start.elapsed().as_secs_f64() < part.seconds {
        for _ in 0..part.burst {
            insist(&mut tx, &header, buffers.next(part.size))?;
        }
        tx.flush();
        bursts += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    let last = buffers.next(part.size);
    fill(last, SECOND, FIRST, LAST);
    insist(&mut tx, &header, last)?;
    tx.flush();
    let counters = tx.counters();
    Ok(Measured {
        count: counters.frames,
        bytes: counters.bytes,
        seconds,
        ..Measured::default()
    })
}

/// Receives, by polling, until the last frame; the time is from the first to the last.
pub fn receive(part: &Part, ready: impl FnOnce()) -> Result<Measured> {
    let (_tx, mut rx) = join(part, SECOND)?.split();
    let mut buffers = Buffers::new(part.size);
    ready();
    let mut start = Instant::now();
    let mut idle = 0u64;
    let mut result = Measured::default();
    let mut done = false;
    while !done {
        let taken = rx.recv(part.burst, |frame| {
            if frame.bytes.len() != part.size {
                // Somebody else's.
                return Verdict::Refused;
            }
            let buffer = buffers.next(part.size);
            frame.bytes.copy_to(buffer);
            done = buffer[12..14] == LAST;
            result.bytes += part.size as u64;
            Verdict::Taken
        });
        if taken == 0 {
            spin_loop();
            idle += 1;
            if idle.is_multiple_of(1 << 20) && start.elapsed() > PATIENCE {
                bail!("The sender is gone");
            }
        } else if result.count == 0 {
            start = Instant::now();
        }
        result.count += taken as u64;
    }
    result.seconds = start.elapsed().as_secs_f64();
    Ok(result)
}

/// Waits for a frame; `true` if it is the last.
fn await_frame(rx: &mut PortRx, sleepy: bool) -> Result<bool> {
    let start = Instant::now();
    let mut last = None;
    let mut polls = 0u64;
    loop {
        rx.recv(1, |frame| {
            let mut kind = [0; 2];
            frame.bytes.part(12, 2).copy_to(&mut kind);
            last = Some(kind == LAST);
            Verdict::Taken
        });
        if let Some(last) = last {
            return Ok(last);
        }
        if sleepy {
            rx.wait(PATIENCE);
        } else {
            spin_loop();
        }
        polls += 1;
        if (sleepy || polls.is_multiple_of(1 << 20)) && start.elapsed() > PATIENCE {
            bail!("The other side is gone");
        }
    }
}

/// Round trips for the time given.
pub fn ping(part: &Part, ready: impl FnOnce()) -> Result<Measured> {
    let sleepy = part.role == Role::SleepyPing;
    let (mut tx, mut rx) = join(part, FIRST)?.split();
    let mut frame = vec![0; part.size];
    ready();
    let start = Instant::now();
    let mut trips = Vec::new();
    while start.elapsed().as_secs_f64() < part.seconds {
        fill(&mut frame, SECOND, FIRST, DATA);
        let sent = Instant::now();
        insist(&mut tx, &VnetHeader::default(), &frame)?;
        tx.flush();
        await_frame(&mut rx, sleepy)?;
        trips.push(sent.elapsed().as_nanos() as u32);
    }
    fill(&mut frame, SECOND, FIRST, LAST);
    insist(&mut tx, &VnetHeader::default(), &frame)?;
    tx.flush();
    Ok(Measured::of_round_trips(trips))
}

/// Sends every frame back.
pub fn pong(part: &Part, ready: impl FnOnce()) -> Result<Measured> {
    let sleepy = part.role == Role::SleepyPong;
    let (mut tx, mut rx) = join(part, SECOND)?.split();
    let mut frame = vec![0; part.size];
    fill(&mut frame, FIRST, SECOND, DATA);
    ready();
    while !await_frame(&mut rx, sleepy)? {
        insist(&mut tx, &VnetHeader::default(), &frame)?;
        tx.flush();
    }
    Ok(Measured::default())
}
