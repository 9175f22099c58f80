//! A wiretap: one more port on the segment, that wants every frame and keeps what it hears.
//!
//! What a port is handed depends on what it says it can take ([`Offloads`]). A tap that takes
//! nothing hears what a plain wire would carry: finished checksums, packets no longer than the
//! MTU. One that takes all hears what guests with offloads really exchange.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use lgswitch::frame::Offloads;
use lgswitch::port::Verdict;
use lgswitch::{PortOptions, PortRx, Segment, VnetHeader};
use pnet_packet::ethernet::{EtherTypes, EthernetPacket};
use pnet_packet::ipv4::Ipv4Packet;
use pnet_packet::tcp::TcpPacket;
use pnet_packet::{Packet, ip::IpNextHeaderProtocols, ipv4, tcp};

use crate::wait::{self, PATIENCE};

/// A frame as it was heard.
#[derive(Clone, Debug)]
pub struct Heard {
    /// What the sender left undone.
    pub header: VnetHeader,
    /// The frame, from its destination address on.
    pub bytes: Vec<u8>,
}

impl Heard {
    /// The frame as Ethernet; `None` if it is too short to be any.
    #[must_use]
    pub fn ethernet(&self) -> Option<EthernetPacket<'_>> {
        EthernetPacket::new(&self.bytes)
    }

    /// The IPv4 packet with a TCP segment in it, if that is what this is.
    #[must_use]
    pub fn tcp4(&self) -> Option<Tcp4> {
        let ethernet = self
            .ethernet()
            .filter(|frame| frame.get_ethertype() == EtherTypes::Ipv4)?;
        let ip = Ipv4Packet::new(ethernet.payload())?;
        let header = usize::from(ip.get_header_length()) * 4;
        let segment = ethernet
            .payload()
            .get(header..usize::from(ip.get_total_length()))?;
        let packet = TcpPacket::new(segment)
            .filter(|_| ip.get_next_level_protocol() == IpNextHeaderProtocols::Tcp)?;
        Some(Tcp4 {
            payload: packet.payload().len(),
            sums_are_right: ipv4::checksum(&ip) == ip.get_checksum()
                && tcp::ipv4_checksum(&packet, &ip.get_source(), &ip.get_destination())
                    == packet.get_checksum(),
        })
    }
}

/// What a claim wants to know of a TCP segment.
#[derive(Clone, Copy, Debug)]
pub struct Tcp4 {
    /// Bytes of payload.
    pub payload: usize,
    /// Whether both the IPv4 header's checksum and TCP's are right.
    pub sums_are_right: bool,
}

/// A promiscuous port with a thread that empties it.
pub struct Wiretap {
    heard: Arc<Mutex<Vec<Heard>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wiretap {
    /// Joins the segment behind `file`. From the moment this returns, every frame is heard.
    ///
    /// # Errors
    /// If the segment cannot be joined.
    pub fn on(file: &Path, offloads: Offloads) -> Result<Wiretap> {
        let options = PortOptions {
            promiscuous: true,
            offloads,
            name: "wiretap".into(),
            ..PortOptions::default()
        };
        let (_, rx) = Segment::open(file)
            .and_then(|segment| segment.port(options))
            .with_context(|| format!("Listening on {}", file.display()))?
            .split();
        let (heard, stop) = (Arc::default(), Arc::default());
        let (into, until) = (Arc::clone(&heard), Arc::clone(&stop));
        let thread = std::thread::spawn(move || listen(rx, &into, &until));
        Ok(Wiretap {
            heard,
            stop,
            thread: Some(thread),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything heard so far.
    #[must_use]
    pub fn heard(&self) -> Vec<Heard> {
        self.lock().clone()
    }

    /// Waits for a frame that `fits`; it may have been heard already.
    ///
    /// # Errors
    /// Names `what` was waited for, and what was heard instead, when time is up.
    pub fn hears(&self, what: &str, fits: impl Fn(&Heard) -> bool) -> Result<Heard> {
        let look = || Ok(self.lock().iter().find(|frame| fits(frame)).cloned());
        wait::until(what, PATIENCE, look).with_context(|| {
            let heads: Vec<_> = self
                .lock()
                .iter()
                .map(|frame| format!("{:?}", frame.ethernet()))
                .collect();
            format!(
                "{} frames were heard on the segment:\n{}",
                heads.len(),
                heads.join("\n")
            )
        })
    }
}

impl Drop for Wiretap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It can only have ended; a panic of it has been reported by the harness.
            let _ = thread.join();
        }
    }
}

fn listen(mut rx: PortRx, into: &Mutex<Vec<Heard>>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let handled = rx.recv(64, |frame| {
            let mut bytes = vec![0; frame.bytes.len()];
            frame.bytes.copy_to(&mut bytes);
            let heard = Heard {
                header: frame.header,
                bytes,
            };
            into.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(heard);
            Verdict::Taken
        });
        if handled == 0 {
            rx.wait(Duration::from_millis(100));
        }
    }
}
