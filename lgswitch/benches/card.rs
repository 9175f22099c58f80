#![allow(clippy::unwrap_used, reason = "what can't be set up can't be measured")]
//! The round trip of a frame between two guests' cards, each a `lgswitch plug` of its own, with
//! everybody asleep whenever there is nothing to do: what a ping takes, less the guests' own kernels.
//!
//! `cargo bench -p lgswitch --bench card -- [TRIPS] [LGSWITCH]` prints quantiles in microseconds; `LGSWITCH` is
//! another build's program to compare with.

#[allow(
    dead_code,
    reason = "the tests say more to a plug than is measured here"
)]
#[path = "../tests/plug/guest.rs"]
mod guest;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use guest::{Guest, Queue, RX, TX};
use lgswitch::{CreateOptions, Segment};

/// Long enough for everyone to give up looking and lie down.
const PAUSE: Duration = Duration::from_millis(1);
/// Buffers of a guest, in its memory.
const SENDS: u64 = 0x8000;
const RECEIVES: u64 = 0x1_0000;
/// The header of 12 bytes, and the frame.
const LEN: u32 = 12 + 64;
/// Chains to receive into.
const CHAINS: u16 = 32;

/// A guest that has its card on the segment.
struct End {
    guest: Guest,
    receive: Queue,
    transmit: Queue,
    plug: Child,
    /// Frames that came.
    came: u16,
}

impl End {
    fn new(number: u8, program: &str, folder: &Path) -> Self {
        let socket = folder.join(format!("vmm{number}"));
        let plug = Command::new(program)
            .arg("plug")
            .arg(folder.join("lan"))
            .arg(format!("vhost-user:{}", socket.display()))
            .args(["--mac", &format!("02:00:00:00:00:0{number}")])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let guest = Guest::connect(&socket);
        let (receive, transmit) = (guest.set_up(RX), guest.set_up(TX));
        let mut frame = vec![0; LEN as usize];
        frame[12..18].copy_from_slice(&[2, 0, 0, 0, 0, 3 - number]);
        frame[18..26].copy_from_slice(&[2, 0, 0, 0, 0, number, 0x88, 0xb5]);
        guest.write(SENDS, &frame);
        transmit.descriptor(&guest, 0, SENDS, LEN, 0, 0);
        for i in 0..CHAINS {
            let at = RECEIVES + u64::from(i) * 0x800;
            receive.descriptor(&guest, i.into(), at, 0x800, 2, 0);
            receive.make_available(&guest, &[i]);
        }
        receive.kick();
        Self {
            guest,
            receive,
            transmit,
            plug,
            came: 0,
        }
    }

    fn send(&self) {
        self.transmit.make_available(&self.guest, &[0]);
        self.transmit.kick_if_wanted(&self.guest);
    }

    fn receive(&mut self) {
        self.receive.wait_for_call();
        self.receive
            .make_available(&self.guest, &[self.came % CHAINS]);
        self.came += 1;
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.plug.kill();
        let _ = self.plug.wait();
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|word| word != "--bench");
    let trips: usize = arguments.next().map_or(2000, |n| n.parse().unwrap());
    let program = arguments.next();
    let program = program.as_deref().unwrap_or(env!("CARGO_BIN_EXE_lgswitch"));
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path: PathBuf = folder.path().join("lan");
    Segment::create(&path, &CreateOptions::default()).unwrap();
    let mut near = End::new(1, program, folder.path());
    let mut far = End::new(2, program, folder.path());
    std::thread::sleep(100 * PAUSE);
    let answering = std::thread::spawn(move || {
        for _ in 0..trips {
            far.receive();
            far.send();
        }
        far
    });
    let mut taken: Vec<_> = (0..trips)
        .map(|_| {
            std::thread::sleep(PAUSE);
            let start = Instant::now();
            near.send();
            near.receive();
            start.elapsed()
        })
        .collect();
    drop(answering.join());
    taken.sort();
    let quantile = |of: usize| taken[(trips - 1) * of / 100].as_secs_f64() * 1e6;
    let [a, b, c, d] = [10, 50, 90, 99].map(quantile);
    println!("round trip, us: 10% {a:.1}  50% {b:.1}  90% {c:.1}  99% {d:.1}");
}
