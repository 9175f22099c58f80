//! A segment with two ports: a plug, which is a process of its own, and the test.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use lgswitch::frame::{Gather, VnetHeader};
use lgswitch::map::SharedBytes;
use lgswitch::port::Verdict;
use lgswitch::{CreateOptions, PortOptions, PortRx, PortTx, Segment};
use tempfile::TempDir;

use super::guest::{Guest, RX, TX, request, soon};

pub struct Plugged {
    process: Child,
    socket: PathBuf,
    told: File,
    tx: PortTx,
    rx: PortRx,
    /// Of the frames sent so far: each is another.
    count: u32,
    _folder: TempDir,
}

impl Plugged {
    /// A plug for a card with so many pairs of queues.
    pub fn new(pairs: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lan");
        let options = CreateOptions {
            slots: 4,
            ..CreateOptions::default()
        };
        let segment = Segment::create(&path, &options).unwrap();
        let socket = folder.path().join("vmm");
        let (reader, writer) = {
            let path = folder.path().join("told");
            let writer = File::create(&path).unwrap();
            (File::open(&path).unwrap(), writer)
        };
        let process = Command::new(env!("CARGO_BIN_EXE_lgswitch"))
            .arg("plug")
            .arg(&path)
            .arg(format!("vhost-user:{}", socket.display()))
            .args(["--queues", &pairs.to_string()])
            .env("NO_COLOR", "1")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(writer)
            .spawn()
            .unwrap();
        let (tx, rx) = segment.port(PortOptions::default()).unwrap().split();
        Self {
            process,
            socket,
            told: reader,
            tx,
            rx,
            count: 0,
            _folder: folder,
        }
    }

    /// A VMM that connects.
    pub fn guest(&self) -> Guest {
        Guest::connect(&self.socket)
    }

    /// What the plug has said since it was last asked, and that it is still there.
    pub fn told(&mut self) -> String {
        let mut told = String::new();
        for _ in 0..500 {
            self.told.read_to_string(&mut told).unwrap();
            if told.ends_with('\n') {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let end = self.process.try_wait().unwrap();
        assert!(end.is_none(), "the plug ended with {end:?}: {told}");
        told
    }

    fn frame(&mut self) -> Vec<u8> {
        self.count += 1;
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
        frame.extend(self.count.to_be_bytes());
        frame.resize(60, 0);
        frame
    }

    /// Sends a frame to everyone; tells which.
    pub fn broadcasts(&mut self) -> Vec<u8> {
        let frame = self.frame();
        let part = [SharedBytes::from(frame.as_slice())];
        self.tx.send(&VnetHeader::default(), &Gather::new(&part));
        self.tx.flush();
        frame
    }

    /// A guest that keeps the rules sends and receives.
    pub fn serves_a_good_guest(&mut self) {
        const BUFFERS: u16 = 4;
        let guest = self.guest();
        assert_ne!(guest.ask(request::GET_FEATURES), 0);
        let (receive, transmit) = (guest.set_up(RX), guest.set_up(TX));

        let frame = self.frame();
        guest.write(0x8000, &[0; 12]);
        guest.write(0x800c, &frame);
        transmit.descriptor(&guest, 0, 0x8000, 12 + 60, 0, 0);
        transmit.make_available(&guest, &[0]);
        transmit.kick_if_wanted(&guest);
        transmit.wait_for_used(&guest, 1);
        soon("the guest's frame arrives", || {
            let mut found = false;
            self.rx.recv(64, |came| {
                found |= came.bytes.to_vec() == frame;
                Verdict::Taken
            });
            found.then_some(())
        });

        // A frame that comes before there is a buffer waits for one.
        let frames: Vec<_> = (0..BUFFERS).map(|_| self.broadcasts()).collect();
        for i in 0..u64::from(BUFFERS) {
            receive.descriptor(&guest, i, 0x1_0000 + i * 0x800, 0x800, 2, 0);
            receive.make_available(&guest, &[i as u16]);
        }
        receive.kick_if_wanted(&guest);
        receive.wait_for_call();
        receive.wait_for_used(&guest, BUFFERS);
        for (i, frame) in (0..).zip(frames) {
            // One buffer, it says, and the frame after that.
            let bytes = guest.read(0x1_0000 + i * 0x800, 12 + frame.len());
            assert_eq!(bytes[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            assert_eq!(bytes[12..], frame);
        }
    }
}

impl Drop for Plugged {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
