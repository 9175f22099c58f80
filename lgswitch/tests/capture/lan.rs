//! A segment of its own, and stations on it.

use std::sync::Arc;

use lgswitch::frame::Offloads;
use lgswitch::port::counters::TxDrop;
use lgswitch::port::{Sent, Verdict};
use lgswitch::report::{SegmentReport, SlotReport};
use lgswitch::{CreateOptions, Gather, MacAddr, PortOptions, PortRx, PortTx, Segment, VnetHeader};

pub const BROADCAST: MacAddr = MacAddr(0xff, 0xff, 0xff, 0xff, 0xff, 0xff);

pub fn mac(n: u8) -> MacAddr {
    MacAddr(2, 0, 0, 0, 0, n)
}

/// A segment in a folder that goes with the test.
pub struct Lan {
    folder: tempfile::TempDir,
    segment: Arc<Segment>,
}

impl Lan {
    pub fn new() -> Self {
        Self::with_slots(16)
    }

    pub fn with_slots(slots: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = CreateOptions {
            slots,
            ..CreateOptions::default()
        };
        let segment = Segment::create(&folder.path().join("lan0"), &options).unwrap();
        Self { folder, segment }
    }

    pub fn folder(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    pub fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.folder())
    }

    pub fn name(&self) -> String {
        self.file("lan0")
    }

    /// A station with address `n` that takes every offload, and calls itself `name`.
    pub fn station(&self, n: u8, name: &str) -> Station {
        let options = PortOptions {
            mac: Some(mac(n)),
            name: name.into(),
            offloads: Offloads::ALL,
            ..PortOptions::default()
        };
        let (tx, rx) = self.segment.port(options).unwrap().split();
        Station { tx, rx }
    }

    /// What `inspect` would show of the capture.
    pub fn capture(&self) -> SlotReport {
        let viewed = Segment::open_read_only(self.segment.path()).unwrap();
        let report = SegmentReport::of(&viewed).unwrap();
        let is_capture = |port: &SlotReport| port.name.as_deref() == Some("capture");
        report.ports.into_iter().find(is_capture).unwrap()
    }
}

pub struct Station {
    tx: PortTx,
    rx: PortRx,
}

impl Station {
    pub fn slot(&self) -> usize {
        self.tx.slot().get()
    }

    pub fn send(&mut self, frame: &[u8]) {
        self.send_with(&VnetHeader::default(), frame);
    }

    pub fn send_with(&mut self, header: &VnetHeader, frame: &[u8]) {
        let parts = [frame.into()];
        assert_eq!(self.tx.send(header, &Gather::new(&parts)), Sent::Done);
        self.tx.flush();
    }

    /// Copies for the capture that its ring had no room for.
    pub fn copies_lost(&self) -> u64 {
        self.tx.counters().dropped[TxDrop::CopyFull as usize]
    }

    /// Takes what there is.
    pub fn receive(&mut self) {
        while self.rx.recv(64, |_| Verdict::Taken) > 0 {}
    }
}
