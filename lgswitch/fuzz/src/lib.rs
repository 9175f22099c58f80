#![allow(clippy::unwrap_used, reason = "what can't be set up is a failed test")]
//! What a hostile peer, guest or VMM can hand us, as bytes. Each function takes any bytes at all, and
//! must neither panic nor go on for ever; what it is handed back must be inside its bounds.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;

use lgswitch::layout::{Geometry, HEADER_BYTES, Header, PAIR_HEAD, PAIR_TAIL, slot_record as rec};
use lgswitch::map::Mapping;
use lgswitch::plug::vhost_user::{self, Options};
use lgswitch::plug::virtio::memory::{Access, Memory, Place};
use lgswitch::plug::virtio::virtqueue::{Ring, Virtqueue};
use lgswitch::port::{Sent, Verdict};
use lgswitch::record::{self, Found, Shape};
use lgswitch::report::SegmentReport;
use lgswitch::{CreateOptions, Gather, PortOptions, Segment, VnetHeader};

// No power of two: with a hole to the next one.
const RING: u64 = 320 << 10;
const LOG: u64 = 256 << 10;

fn options() -> CreateOptions {
    CreateOptions {
        slots: 4,
        ring_bytes: RING,
        log_bytes: LOG,
        ..CreateOptions::default()
    }
}

/// Bytes of `base` replaced as `data` says: an offset of two bytes, and what stands there.
fn patch(base: &mut [u8], data: &[u8]) {
    for change in data.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % base.len();
        base[at] = change[2];
    }
}

/// A header page: refused, or one that says what it would be written as.
pub fn header(data: &[u8]) {
    let mut page = Header {
        geometry: Geometry::new(4, RING, LOG).unwrap(),
        mtu: 1500,
        optional_features: 0,
        uuid: Default::default(),
        created: 0,
    }
    .encode();
    match data {
        // Half of all inputs are the page itself.
        [0..128, raw @ ..] => {
            let len = raw.len().min(HEADER_BYTES);
            page[..len].copy_from_slice(&raw[..len]);
        }
        [_, changes @ ..] => patch(&mut page, changes),
        [] => {}
    }
    if let Ok(header) = Header::decode(&page) {
        assert_eq!(header.encode(), page);
    }
}

/// The peers page and the slot table under `lgswitch inspect`: what it shows is fit for a terminal.
pub fn slots(data: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slots");
    let segment = Segment::create(&path, &options()).unwrap();
    let _port = segment.port(PortOptions::default()).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let (macs, records) = data.split_at(data.len().min(24));
    file.write_all_at(macs, 0).unwrap();
    let table = segment.geometry().slot(0);
    let room = records.len().min(4 * 1024);
    file.write_all_at(&records[..room], table).unwrap();
    let live = rec::LIVE.to_le_bytes();
    file.write_all_at(&live, table + rec::STATE).unwrap();
    let report = SegmentReport::of(&Segment::open_read_only(&path).unwrap()).unwrap();
    for port in &report.ports {
        let name = port.name.as_deref().unwrap_or_default();
        assert!(!name.chars().any(char::is_control), "{name:?}");
    }
    serde_json::to_string(&report).unwrap();
}

/// Records of a ring or log, from any position to any other.
pub fn records(data: &[u8]) {
    let file = memory_file(RING);
    let map = Mapping::new(&file, 0, RING, true).unwrap();
    let number = |at: usize| {
        let bytes: [u8; 8] = std::array::from_fn(|i| *data.get(at + i).unwrap_or(&0));
        u64::from_le_bytes(bytes)
    };
    // Positions near enough that some are plausible.
    let start = number(0) / 64 * 64 % (1 << 62);
    let published = start.wrapping_add(number(8) % (2 * RING));
    let body = data.get(16..).unwrap_or_default();
    let shape = Shape::of(RING);
    let first = shape.place(start).min(RING);
    let room = body.len().min((RING - first) as usize);
    map.write(first, &body[..room]);
    map.write(0, &body[room..body.len().min(room + first as usize)]);
    let mut position = start;
    while let Found::Frame(found) = record::read(&map, shape, position, published) {
        assert!(found.end > position && found.end <= published);
        assert!((14..=lgswitch::layout::MAX_FRAME).contains(&found.frame.len()));
        let _ = found.frame.to_vec();
        position = found.end;
    }
}

/// A whole port, sending and receiving, with everything it reads written by somebody else.
pub fn port(data: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("port");
    let segment = Segment::create(&path, &options()).unwrap();
    let (_a_tx, _a_rx) = segment.port(PortOptions::default()).unwrap().split();
    let (mut tx, mut rx) = segment.port(PortOptions::default()).unwrap().split();
    let g = *segment.geometry();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let control = Mapping::new(&file, 0, g.rings(), true).unwrap();
    for chunk in data.chunks(256) {
        let number = |at: usize| u64::from(*chunk.get(at).unwrap_or(&0));
        let body = chunk.get(12..).unwrap_or_default();
        let place = match number(0) % 2 {
            0 => g.ring(0, 1),
            _ => g.log(0),
        };
        file.write_all_at(body, place + number(1) * 64).unwrap();
        let words = [
            (g.pair(0, 1) + PAIR_HEAD, number(2) * 64),
            (g.pair(1, 0) + PAIR_TAIL, number(4) << (number(5) % 64)),
            (g.slot(0) + rec::FLOOD_HEAD, number(3) * 64),
            (g.slot(0) + rec::FLOOD_RESERVED, number(2) * number(3) * 64),
            (g.slot(0) + rec::FLOOD_FRAMES, number(2)),
            (g.slot(0) + rec::GENERATION, number(6)),
            (g.slot(0) + rec::OFFLOADS, number(7)),
            (g.slot(1) + rec::PENDING, u64::MAX),
        ];
        for (at, value) in words {
            control.word64(at).store(value, Ordering::Relaxed);
        }
        // Both slots' addresses, and one nobody has; the frame is for one of the first, or all.
        control.write(0, &[2, 0, 0, 0, 0, 1 + (number(8) & 1) as u8]);
        control
            .byte(0)
            .store(2 | (number(8) >> 1 & 1) as u8, Ordering::Relaxed);
        let to = match number(9) % 3 {
            0 => [0xff; 6],
            to => [2, 0, 0, 0, 0, to as u8],
        };
        let mut frame = [to, [2, 0, 0, 0, 0, 9]].concat();
        frame.extend(body);
        let header = VnetHeader {
            flags: number(10) as u8,
            gso_type: number(11) as u8,
            gso_size: number(1) as u16,
            checksum_start: number(2) as u16,
            checksum_offset: number(3) as u16,
            ..VnetHeader::default()
        };
        if let Sent::Full(_) = tx.send(&header, &Gather::new(&[frame.as_slice().into()])) {
            tx.give_up();
        }
        tx.flush();
        let handled = rx.recv(64, |frame| {
            assert!(frame.bytes.to_vec().len() >= 14);
            Verdict::Taken
        });
        assert!(handled <= 64);
    }
}

/// Messages of a VMM: the card ends the conversation, and goes away when told to.
pub fn vhost_user(data: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let segment = Segment::create(&folder.path().join("card"), &options()).unwrap();
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let port = segment.port(PortOptions::default()).unwrap();
    let service = vhost_user::serve(port, listener, Options::new("fuzzed")).unwrap();
    let vmm = UnixStream::connect(&socket).unwrap();
    vmm.set_nonblocking(true).unwrap();
    for message in data.chunks(64) {
        let mut bytes = Vec::new();
        let (kind, body) = message.split_at(message.len().min(3));
        let byte = |at: usize| *kind.get(at).unwrap_or(&0);
        // The first byte says how honest the message is.
        let (flags, size) = match byte(0) % 8 {
            0 => (
                u32::from(byte(2)),
                body.len() as u32 ^ u32::from(byte(1)) << 8,
            ),
            1 => (1 | 8, body.len() as u32),
            _ => (1, body.len() as u32),
        };
        bytes.extend(u32::from(byte(1) % 42).to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(size.to_le_bytes());
        bytes.extend(body);
        let sent = match byte(0) / 8 % 3 {
            0 => (&vmm).write(&bytes).is_ok(),
            _ => send_with_file(&vmm, &bytes),
        };
        if !sent {
            break;
        }
    }
    drop(vmm);
    drop(service);
}

/// A guest's descriptors, rings and buffers: all of its memory is `data`.
pub fn virtqueue(data: &[u8]) {
    const MEMORY: u64 = 1 << 14;
    let number = |at: usize| u64::from(*data.get(at).unwrap_or(&0));
    let mut ring = Ring {
        size: 1 << (number(0) % 12),
        descriptors: number(1) * 64,
        available: number(2) * 64,
        used: number(3) * 64,
        next_available: number(4) as u32,
        next_used: number(5) as u32,
        event_index: number(6) % 2 == 1,
        quiet: number(6) % 4 > 1,
    };
    let body = data.get(7..).unwrap_or_default();
    let file = memory_file(MEMORY);
    file.write_all_at(&body[..body.len().min(MEMORY as usize)], 0)
        .unwrap();
    // Two regions that touch, so that buffers may lie across.
    let half = |guest_address| Place {
        guest_address,
        vmm_address: guest_address,
        size: MEMORY / 2,
        offset: guest_address,
    };
    let file = || file.try_clone().unwrap().into();
    let memory = Memory::map(vec![(half(0), file()), (half(MEMORY / 2), file())]).unwrap();
    let Some(mut queue) = Virtqueue::open(&memory, &mut ring) else {
        return;
    };
    let access = [Access::Read, Access::Write][(number(6) / 4 % 2) as usize];
    let count = queue.available().unwrap_or(0).min(queue.size());
    for ahead in 0..count {
        queue.prefetch_descriptor(ahead);
        queue.prefetch_buffer(ahead, access);
        let mut bytes = 0;
        let head = queue.chain(ahead, access, |run| {
            bytes += run.len();
            match access {
                Access::Read => assert_eq!(run.bytes().to_vec().len(), run.len()),
                Access::Write => run.write(0, &vec![0; run.len()]),
            }
        });
        let Ok(head) = head else {
            break;
        };
        assert!(bytes <= (queue.size() as usize + 1) * MEMORY as usize);
        queue.give_back(head, bytes as u32);
    }
    queue.take(count);
    queue.show();
    queue.enable_kicks(1);
    queue.disable_kicks();
}

fn memory_file(len: u64) -> File {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let file = File::from(nix::sys::memfd::memfd_create(c"fuzz", flags).unwrap());
    file.set_len(len).unwrap();
    file
}

/// With memory, or what may pass for an event descriptor.
fn send_with_file(socket: &UnixStream, bytes: &[u8]) -> bool {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let file = memory_file(1 << 16);
    let files = [file.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&files)];
    let parts = [std::io::IoSlice::new(bytes)];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &parts,
        &rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .is_ok()
}
