//! The parts played on a segment: a player is a station with a port.

use std::hint::spin_loop;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use pnet_base::MacAddr;

use super::{Buffers, Measured, Patience, Timer, burst};
use crate::frame::{Gather, Offloads, VnetHeader};
use crate::port::{PortOptions, PortRx, PortTx, Sent, Verdict};
use crate::segment::Segment;

/// Types of test frames (IEEE 802, local experimental): data, and the last one.
const DATA: [u8; 2] = [0x88, 0xb5];
const LAST: [u8; 2] = [0x88, 0xb6];

/// The address of a player.
pub fn mac(player: usize) -> MacAddr {
    MacAddr(2, 0, 0, 0, 0, player as u8)
}

/// A player's port.
#[derive(Debug)]
pub struct Station {
    player: usize,
    tx: PortTx,
    rx: PortRx,
    mtu: usize,
    /// Players wait for each other on one processor: who can't go on gives it away.
    crowded: bool,
}

impl Station {
    /// Joins the segment as that player of so many.
    pub fn join(path: &Path, player: usize, players: usize) -> Result<Self> {
        let options = PortOptions {
            mac: Some(mac(player)),
            name: format!("bench {player}"),
            offloads: Offloads::ALL,
            ..PortOptions::default()
        };
        let segment = Segment::open(path)?;
        let mtu = segment.mtu() as usize;
        let (tx, rx) = segment.port(options)?.split();
        Ok(Self {
            player,
            tx,
            rx,
            mtu,
            crowded: players > 2,
        })
    }

    /// The header of frames of that size. Above the MTU: to be cut, by whoever is not us.
    fn header(&self, size: usize) -> VnetHeader {
        match size <= self.mtu + 14 {
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

    fn fill(&self, frame: &mut [u8], to: MacAddr, kind: [u8; 2]) {
        frame[..6].copy_from_slice(&to.octets());
        frame[6..12].copy_from_slice(&mac(self.player).octets());
        frame[12..14].copy_from_slice(&kind);
    }

    /// Sends, however long it takes the receiver to make room.
    #[inline(always)]
    fn insist(&mut self, header: &VnetHeader, frame: &[u8]) -> Result<()> {
        let parts = [frame.into()];
        let frame = Gather::new(&parts);
        match self.tx.send(header, &frame) {
            Sent::Done => Ok(()),
            Sent::Dropped(reason) => bail!("A frame was dropped: {reason:?}"),
            Sent::Full(_) => self.insist_long(header, &frame),
        }
    }

    #[cold]
    fn insist_long(&mut self, header: &VnetHeader, frame: &Gather<'_>) -> Result<()> {
        let mut patience = Patience::new();
        loop {
            self.tx.flush();
            if self.crowded {
                std::thread::yield_now();
            }
            patience.poll()?;
            match self.tx.send(header, frame) {
                Sent::Done => return Ok(()),
                Sent::Dropped(reason) => bail!("A frame was dropped: {reason:?}"),
                Sent::Full(_) => {}
            }
        }
    }

    /// Sends bursts for the time given, then the last frame: to one player, or to everyone if `to` are
    /// several. How many there were stands in the last frame.
    pub fn send(
        &mut self,
        to: &[usize],
        size: usize,
        seconds: f64,
        ready: impl FnOnce() -> Result<()>,
    ) -> Result<Measured> {
        let header = self.header(size);
        let mut buffers = Buffers::new(size);
        let address = match *to {
            [one] => mac(one),
            _ => MacAddr::broadcast(),
        };
        for _ in 0..buffers.count() {
            self.fill(buffers.next(size), address, DATA);
        }
        let burst = burst(size);
        let before = self.tx.counters().frames;
        ready()?;
        let start = Instant::now();
        let mut timer = Timer::new(seconds, size);
        loop {
            for _ in 0..burst {
                self.insist(&header, buffers.next(size))?;
            }
            self.tx.flush();
            if timer.is_over() {
                break;
            }
        }
        let count = self.tx.counters().frames - before;
        let seconds = start.elapsed().as_secs_f64();
        // To each by itself: a log is lossy.
        for &player in to {
            let last = buffers.next(size);
            self.fill(last, mac(player), LAST);
            last[14..22].copy_from_slice(&count.to_le_bytes());
            self.insist(&header, last)?;
        }
        self.tx.flush();
        Ok(Measured {
            count,
            bytes: count * size as u64,
            seconds,
            ..Measured::default()
        })
    }

    /// Receives, by polling, until each of `senders` is done. What is counted, and the time, are from
    /// the first frame until the first of them is.
    pub fn receive(
        &mut self,
        senders: usize,
        size: usize,
        ready: impl FnOnce() -> Result<()>,
    ) -> Result<Measured> {
        let mut buffers = Buffers::new(size);
        let mut result = Measured::default();
        let mut from = [0u64; super::arena::MAX_PLAYERS];
        let burst = burst(size);
        let (mut sent, mut done) = (0, 0);
        ready()?;
        let mut start = None;
        let mut patience = Patience::new();
        while done < senders {
            let mut last = 0;
            let taken = self.rx.recv(burst, |frame| {
                if frame.bytes.len() != size {
                    // Somebody else's.
                    return Verdict::Refused;
                }
                let buffer = buffers.next(size);
                frame.bytes.copy_to(buffer);
                if buffer[12..14] == LAST {
                    last += 1;
                    sent += u64::from_le_bytes(std::array::from_fn(|i| buffer[14 + i]));
                }
                if senders > 1 {
                    from[usize::from(buffer[11]) % from.len()] += 1;
                }
                Verdict::Taken
            });
            if taken == 0 {
                if self.crowded {
                    std::thread::yield_now();
                }
                patience.poll()?;
                continue;
            }
            patience = Patience::new();
            let start = *start.get_or_insert_with(Instant::now);
            if done == 0 {
                result.count += taken as u64 - last;
            }
            if done == 0 && last > 0 {
                result.seconds = start.elapsed().as_secs_f64();
                result.bytes = result.count * size as u64;
                result.from = from.to_vec();
            }
            done += last as usize;
        }
        // Of one sender; of several the rest came uncounted.
        result.lost = sent.saturating_sub(result.count);
        Ok(result)
    }

    /// Waits for a frame; `true` if it is the last.
    fn await_frame(&mut self, sleepy: bool) -> Result<bool> {
        let mut last = None;
        let mut patience = Patience::new();
        loop {
            self.rx.recv(1, |frame| {
                let mut kind = [0; 2];
                frame.bytes.part(12, 2).copy_to(&mut kind);
                last = Some(kind == LAST);
                Verdict::Taken
            });
            if let Some(last) = last {
                return Ok(last);
            }
            if sleepy {
                self.rx.wait(Duration::from_secs(1));
                patience.check()?;
            } else {
                spin_loop();
                patience.poll()?;
            }
        }
    }

    /// Round trips of a frame for the time given.
    pub fn ping(
        &mut self,
        to: usize,
        size: usize,
        sleepy: bool,
        seconds: f64,
        ready: impl FnOnce() -> Result<()>,
    ) -> Result<Measured> {
        let header = VnetHeader::default();
        let (mut frame, mut last) = (vec![0; size], vec![0; size]);
        self.fill(&mut frame, mac(to), DATA);
        self.fill(&mut last, mac(to), LAST);
        ready()?;
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        let mut trips = Vec::new();
        let mut sent = Instant::now();
        while sent < end {
            self.insist(&header, &frame)?;
            self.tx.flush();
            self.await_frame(sleepy)?;
            let back = Instant::now();
            trips.push((back - sent).as_nanos() as u32);
            sent = back;
        }
        self.insist(&header, &last)?;
        self.tx.flush();
        Ok(Measured::of_round_trips(trips))
    }

    /// Sends every frame back.
    pub fn pong(
        &mut self,
        to: usize,
        size: usize,
        sleepy: bool,
        ready: impl FnOnce() -> Result<()>,
    ) -> Result<Measured> {
        let mut frame = vec![0; size];
        self.fill(&mut frame, mac(to), DATA);
        ready()?;
        while !self.await_frame(sleepy)? {
            self.insist(&VnetHeader::default(), &frame)?;
            self.tx.flush();
        }
        Ok(Measured::default())
    }
}
