//! What a disk of the engine `kvm` does a second: its driver keeps so many requests in its queue, of
//! so many bytes each, on a file beside this program, which is on whatever disk the build is on.
//!
//! `cargo bench -p launcher --bench disk`. No guest and no KVM: it is the device that is measured.

#![allow(
    clippy::unwrap_used,
    reason = "what a measurement does to set itself up either works or there is none"
)]

#[path = "../tests/virtio/driver.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod driver;

use std::io::Write;
use std::time::{Duration, Instant};

use driver::{Driver, SIZE};
use launcher::backend::block::Disk;
use launcher::engine::kvm::virtio::block;
use launcher::engine::kvm::virtio::device::borrow;
use launcher::plan::disk::BlockPlan;
use nix::poll::{PollFd, PollFlags, poll};
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Of the file, in bytes.
const FILE: u64 = 512 << 20;
/// How long each load lasts.
const TIME: Duration = Duration::from_secs(3);
/// Where the requests are, behind the driver's own pages, and how far apart: data, then the rest.
const REQUESTS: u64 = 8 << 20;
const APART: u64 = 2 << 20;
const REST: u64 = 1 << 20;

#[derive(Clone, Copy)]
enum Order {
    Random,
    Sequential,
}

/// Requests of so many bytes each, so many of them at a time.
#[derive(Clone, Copy)]
struct Load(&'static str, u32, Order, u32, u16);

const READ: u32 = 0;
const WRITE: u32 = 1;

const LOADS: [Load; 8] = [
    Load("4 KiB random reads, 1", READ, Order::Random, 4096, 1),
    Load("4 KiB random reads, 4", READ, Order::Random, 4096, 4),
    Load("4 KiB random reads, 16", READ, Order::Random, 4096, 16),
    Load("4 KiB random writes, 1", WRITE, Order::Random, 4096, 1),
    Load("4 KiB random writes, 16", WRITE, Order::Random, 4096, 16),
    Load("1 MiB reads, 1", READ, Order::Sequential, 1 << 20, 1),
    Load("1 MiB reads, 4", READ, Order::Sequential, 1 << 20, 4),
    Load("1 MiB writes, 4", WRITE, Order::Sequential, 1 << 20, 4),
];

fn main() {
    let folder = std::env::current_exe().unwrap();
    let mut file = tempfile::NamedTempFile::new_in(folder.parent().unwrap()).unwrap();
    for _ in 0..FILE >> 20 {
        file.write_all(&[0x5a; 1 << 20]).unwrap();
    }
    file.as_file().sync_all().unwrap();
    let disk = Disk::open(&BlockPlan::parse(file.path().as_os_str()).unwrap()).unwrap();
    println!("direct I/O: {}", disk.direct);
    let bytes = REQUESTS + APART * u64::from(SIZE);
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes as usize)]).unwrap();
    let driver = Driver::with_memory(block::device(disk, 0).unwrap(), memory);
    for load in LOADS {
        driver.start(0);
        let per_second = f64::from(run(&driver, load)) / TIME.as_secs_f64();
        driver.reset();
        let mib = per_second * f64::from(load.3) / f64::from(1 << 20);
        println!("{:<26} {per_second:>8.0}/s {mib:>7.1} MiB/s", load.0);
    }
}

/// Keeps the queue as full as the load wants; tells how many requests were done.
fn run(driver: &Driver, load: Load) -> u32 {
    let Load(_, _, order, bytes, depth) = load;
    let blocks = FILE / u64::from(bytes);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut place = 0;
    let mut offer = |slot: u16| {
        place = match order {
            Order::Sequential => (place + 1) % blocks,
            Order::Random => {
                // Xorshift: numbers that look like chance, the same in each run.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % blocks
            }
        };
        put(driver, load, slot, place * u64::from(bytes) / 512);
    };
    let (start, mut done, mut seen) = (Instant::now(), 0, 0u16);
    (0..depth).for_each(&mut offer);
    driver.kick(0);
    while start.elapsed() < TIME {
        await_interrupt(driver);
        let used = driver.used_count(0);
        if seen == used {
            continue;
        }
        while seen != used {
            offer(driver.used(0, seen).0 as u16);
            seen = seen.wrapping_add(1);
            done += 1;
        }
        driver.kick(0);
    }
    done
}

fn await_interrupt(driver: &Driver) {
    let mut fds = [PollFd::new(borrow(&driver.interrupt), PollFlags::POLLIN)];
    poll(&mut fds, 20_000u16).unwrap();
    assert!(
        driver.interrupted(),
        "it takes too long until an interrupt comes"
    );
}

/// Makes one request available: header, data, answer, by way of an indirect table.
fn put(driver: &Driver, Load(_, kind, _, bytes, _): Load, slot: u16, sector: u64) {
    let data = REQUESTS + APART * u64::from(slot);
    let (header, answer, table) = (data + REST, data + REST + 16, data + REST + 32);
    let to_guest = if kind == READ { VRING_DESC_F_WRITE } else { 0 };
    driver
        .memory
        .write_obj([u64::from(kind), sector], GuestAddress(header))
        .unwrap();
    let parts = [
        (header, 16, VRING_DESC_F_NEXT),
        (data, bytes, VRING_DESC_F_NEXT | to_guest),
        (answer, 1, VRING_DESC_F_WRITE),
    ];
    for (number, (at, len, flags)) in (0u64..).zip(parts) {
        let rest = u64::from(len) | u64::from(flags) << 32 | (number + 1) << 48;
        let place = GuestAddress(table + 16 * number);
        driver.memory.write_obj([at, rest], place).unwrap();
    }
    driver.descriptor(0, slot, table, 48, VRING_DESC_F_INDIRECT, 0);
    driver.make_available(0, slot);
}
