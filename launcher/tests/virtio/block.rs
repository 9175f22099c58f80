//! Disks.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use launcher::backend::block::Disk;
use launcher::engine::kvm::virtio::block;
use launcher::plan::disk::BlockPlan;
use launcher::seccomp;
use tempfile::NamedTempFile;
use vm_memory::{Bytes, GuestAddress};

use super::driver::*;

crate::tests!(
    what_was_written_is_read_and_is_in_the_file,
    buffers_and_sectors_of_any_alignment_do,
    nothing_outside_the_disk_is_touched_and_the_file_does_not_grow,
    a_disk_that_is_read_only_is_not_written,
    discarded_and_zeroed_sectors_read_as_zeroes,
    a_disk_tells_its_serial_number_and_its_size,
    what_nobody_knows_is_answered_so,
    a_request_without_header_or_place_for_the_answer_breaks_the_device,
    a_disk_serves_again_after_a_reset,
    many_requests_at_once_are_all_done_with_or_without_rings,
    what_is_under_way_at_a_reset_touches_nothing_afterwards,
);

pub const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPPORTED: u8 = 2;

struct Bed {
    file: NamedTempFile,
    driver: Driver,
}

impl Bed {
    fn new(size: u64, options: &str) -> Self {
        Self::made(size, options, true)
    }

    /// With or without an io_uring.
    fn made(size: u64, options: &str, rings: bool) -> Self {
        // Beside the program: /tmp may be a filesystem without direct I/O.
        let folder = std::env::current_exe().unwrap();
        let file = NamedTempFile::new_in(folder.parent().unwrap()).unwrap();
        file.as_file().set_len(size).unwrap();
        let mut value = file.path().as_os_str().to_owned();
        value.push(options);
        let disk = Disk::open(&BlockPlan::parse(&value).unwrap()).unwrap();
        let device = std::thread::spawn(move || {
            if !rings {
                // To be had by nobody from here on.
                seccomp::confine(seccomp::Work::RunningTheGuest);
            }
            block::device(disk, 0).unwrap()
        });
        let driver = Driver::started(device.join().unwrap(), 0);
        Self { file, driver }
    }

    fn request(&self, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (u8, u32) {
        do_request(&self.driver, kind, sector, data)
    }

    fn write(&self, sector: u64, bytes: &[u8]) -> u8 {
        let at = self.driver.put(bytes);
        self.request(1, sector, &[(at, bytes.len() as u32, false)])
            .0
    }

    fn read(&self, sector: u64, len: u32) -> Vec<u8> {
        let at = self.driver.room(len as usize);
        assert_eq!(self.request(0, sector, &[(at, len, true)]), (OK, len + 1));
        self.driver.get(at, len as usize)
    }

    fn range(&self, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
        let mut range = sector.to_le_bytes().to_vec();
        range.extend(sectors.to_le_bytes());
        range.extend(flags.to_le_bytes());
        let at = self.driver.put(&range);
        self.request(kind, 0, &[(at, 16, false)]).0
    }
}

/// Does a request; gives its answer and the bytes said to be written.
pub fn do_request(driver: &Driver, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (u8, u32) {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    let header = driver.put(&header);
    let answer = driver.put(&[0xee]);
    let mut runs = vec![(header, 16, false)];
    runs.extend(data);
    runs.push((answer, 1, true));
    let written = driver.request(0, &runs);
    (driver.get(answer, 1)[0], written)
}

pub fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 9) as u8) ^ seed)
        .collect()
}

fn what_was_written_is_read_and_is_in_the_file() {
    let bed = Bed::new(1 << 20, "");
    let bytes = pattern(8192, 1);
    assert_eq!(bed.write(8, &bytes), OK);
    assert_eq!(bed.request(4, 0, &[]).0, OK, "flush");
    assert_eq!(bed.read(8, 8192), bytes);
    let mut file = vec![0; 8192];
    bed.file.as_file().read_exact_at(&mut file, 4096).unwrap();
    assert_eq!(file, bytes);
}

fn buffers_and_sectors_of_any_alignment_do() {
    // Direct, and through the cache.
    let sizes = [1 << 20, (1 << 20) + 512];
    for (size, rings) in sizes
        .into_iter()
        .flat_map(|size| [(size, true), (size, false)])
    {
        let bed = Bed::made(size, "", rings);
        let mut whole = pattern(size as usize, 3);
        bed.file.as_file().write_all_at(&whole, 0).unwrap();
        for (turn, (sector, len, skip)) in (5..).zip([
            (0, 512, 0),
            (1, 512, 1),
            (7, 1024, 3),
            (3, 4096, 0),
            (8, 4096, 2),
            (9, 300 << 10, 5),
            (13, 512 * 999, 7),
        ]) {
            // In three runs of odd lengths, at odd addresses.
            let bytes = pattern(len, turn);
            let at = bed.driver.put(&[vec![0; skip], bytes.clone()].concat()) + skip as u64;
            let cuts = [0, len / 3, len / 2 + skip % 2, len];
            let runs = |writes| {
                let runs = cuts
                    .windows(2)
                    .map(move |cut| (at + cut[0] as u64, (cut[1] - cut[0]) as u32, writes));
                runs.collect::<Vec<_>>()
            };
            assert_eq!(bed.request(1, sector, &runs(false)), (OK, 1));
            let place = sector as usize * 512;
            whole[place..place + len].copy_from_slice(&bytes);
            let mut file = vec![0; size as usize];
            bed.file.as_file().read_exact_at(&mut file, 0).unwrap();
            assert!(file == whole, "sector {sector}, {len} bytes, skip {skip}");
            assert_eq!(bed.request(0, sector, &runs(true)), (OK, len as u32 + 1));
            assert!(bed.driver.get(at, len) == bytes);
            bed.driver.reset();
            bed.driver.start(0);
        }
    }
}

fn nothing_outside_the_disk_is_touched_and_the_file_does_not_grow() {
    let bed = Bed::new(1 << 20, "");
    let at = bed.driver.room(4096);
    for (sector, len) in [
        (2048, 512),
        (2047, 1024),
        (u64::MAX, 512),
        (1 << 55, 512),
        (u64::MAX / 512, 4096),
        (0, 511),
        (0, 4095),
    ] {
        for kind in [0, 1] {
            let answer = bed.request(kind, sector, &[(at, len, kind == 0)]);
            assert_eq!(answer, (IOERR, 1), "{kind} {sector} {len}");
        }
    }
    for kind in [11, 13] {
        assert_eq!(bed.range(kind, 2047, 2, 0), IOERR);
        assert_eq!(bed.range(kind, u64::MAX, 1, 0), IOERR);
        assert_eq!(bed.range(kind, 0, u32::MAX, 0), IOERR);
        assert_eq!(bed.range(kind, 0, 8, 0x80), UNSUPPORTED);
    }
    assert_eq!(bed.file.as_file().metadata().unwrap().len(), 1 << 20);
}

fn a_disk_that_is_read_only_is_not_written() {
    let bed = Bed::new(1 << 20, ",ro");
    assert_ne!(bed.driver.offered() & 1 << 5, 0);
    assert_eq!(bed.write(0, &[1; 512]), IOERR);
    assert_eq!(bed.range(11, 0, 8, 0), IOERR);
    assert_eq!(bed.range(13, 0, 8, 0), IOERR);
    assert_eq!(bed.read(0, 512), [0; 512]);
}

fn discarded_and_zeroed_sectors_read_as_zeroes() {
    let bed = Bed::new(1 << 20, "");
    for (kind, flags) in [(11, 0), (13, 0), (13, 1)] {
        let bytes = pattern(64 << 10, 9);
        assert_eq!(bed.write(0, &bytes), OK);
        // Not whole blocks.
        assert_eq!(bed.range(kind, 3, 70, flags), OK);
        let back = bed.read(0, 64 << 10);
        let (start, end) = (3 * 512, 73 * 512);
        assert!(back[..start] == bytes[..start] && back[end..] == bytes[end..]);
        assert!(kind == 11 || back[start..end].iter().all(|&b| b == 0));
    }
    assert_eq!(bed.file.as_file().metadata().unwrap().len(), 1 << 20);
}

fn a_disk_tells_its_serial_number_and_its_size() {
    let bed = Bed::new(1 << 20, ",serial=root-disk");
    let at = bed.driver.room(20);
    assert_eq!(bed.request(8, 0, &[(at, 20, true)]), (OK, 21));
    assert_eq!(bed.driver.get(at, 20), *b"root-disk\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(bed.driver.config(0, 8), 2048u64.to_le_bytes());
}

fn what_nobody_knows_is_answered_so() {
    let bed = Bed::new(1 << 20, "");
    for kind in [2, 3, 14, 26, u32::MAX] {
        assert_eq!(bed.request(kind, 0, &[]), (UNSUPPORTED, 1), "{kind}");
    }
}

fn a_request_without_header_or_place_for_the_answer_breaks_the_device() {
    let bed = Bed::new(1 << 20, "");
    let at = bed.driver.room(64);
    for runs in [
        vec![(at, 15, false), (at, 1, true)],
        vec![(at, 64, false)],
        vec![(at, 64, true)],
        vec![(at, 16, false), (at, 1, true), (at, 1, false)],
    ] {
        bed.driver.offer(0, &runs);
        bed.driver.wait_until_broken();
        assert_eq!(bed.driver.used_count(0), 0);
        bed.driver.reset();
        bed.driver.start(0);
    }
}

fn a_disk_serves_again_after_a_reset() {
    let bed = Bed::new(1 << 20, "");
    for turn in 0..5 {
        assert_eq!(bed.write(turn, &[turn as u8 + 1; 512]), OK);
        bed.driver.reset();
        bed.driver.start(0);
        assert_eq!(bed.read(turn, 512), [turn as u8 + 1; 512]);
    }
}

/// Makes requests of one run each available together: kind, sector, address, length. Gives where their
/// answers will be.
fn offer_all(bed: &Bed, requests: &[(u32, u64, u64, u32)]) -> Vec<u64> {
    let driver = &bed.driver;
    let mut answers = Vec::new();
    for (number, &(kind, sector, at, len)) in (0u16..).zip(requests) {
        let head = 3 * number;
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        let header = driver.put(&header);
        let answer = driver.put(&[0xee]);
        driver.descriptor(0, head, header, 16, 1, head + 1);
        driver.descriptor(
            0,
            head + 1,
            at,
            len,
            1 | if kind == 0 { 2 } else { 0 },
            head + 2,
        );
        driver.descriptor(0, head + 2, answer, 1, 2, 0);
        answers.push(answer);
    }
    for number in (0u16..).take(requests.len()) {
        driver.make_available(0, 3 * number);
    }
    driver.kick(0);
    answers
}

fn many_requests_at_once_are_all_done_with_or_without_rings() {
    for rings in [true, false] {
        let bed = Bed::made(4 << 20, "", rings);
        let before = pattern(4 << 20, 7);
        bed.file.as_file().write_all_at(&before, 0).unwrap();
        for turn in 0..20u16 {
            let at = |unit: usize| bed.driver.room(64 << 10).next_multiple_of(4096) + unit as u64;
            // The third is one that can't be handed on.
            let places = [at(0), at(0), at(1), at(0), at(0)];
            let sectors = [0, 128, 257, 1024, 4096].map(|sector| sector + 8 * u64::from(turn));
            let requests: Vec<_> = sectors
                .into_iter()
                .zip(places)
                .map(|(sector, place)| (0, sector, place, 16 << 10))
                .collect();
            let answers = offer_all(&bed, &requests);
            let mut heads: Vec<_> = (0..5).map(|place| bed.driver.used(0, place).0).collect();
            heads.sort_unstable();
            assert_eq!(heads, [0, 3, 6, 9, 12]);
            for ((sector, place), answer) in sectors.into_iter().zip(places).zip(answers) {
                assert_eq!(bed.driver.get(answer, 1), [OK]);
                let start = sector as usize * 512;
                assert!(bed.driver.get(place, 16 << 10) == before[start..][..16 << 10]);
            }
            assert_eq!(bed.driver.used_count(0), 5);
            bed.driver.reset();
            bed.driver.start(0);
        }
    }
}

fn what_is_under_way_at_a_reset_touches_nothing_afterwards() {
    let bed = Bed::new(4 << 20, "");
    // On the medium, so that to read it takes a while.
    let bytes = pattern(4 << 20, 1);
    bed.file.as_file().write_all_at(&bytes, 0).unwrap();
    bed.file.as_file().sync_all().unwrap();
    for turn in 0..100 {
        let at = bed.driver.room((2 << 20) + 4096).next_multiple_of(4096);
        let piece = 512 << 10;
        let requests = [0, 1, 2, 3].map(|n| (0, 0, at + n * piece, piece as u32));
        offer_all(&bed, &requests);
        // At first before it is begun, at last when it is done.
        std::thread::sleep(Duration::from_micros(20 * turn));
        bed.driver.reset();
        // The guest has another use for it.
        bed.driver
            .memory
            .write_slice(&[0xaa; 2 << 20], GuestAddress(at))
            .unwrap();
        bed.driver.start(0);
        // It serves again, elsewhere.
        bed.driver.room((2 << 20) + 8192);
        assert_eq!(bed.request(0, 0, &[(HIGH, 4096, true)]).0, OK);
        assert!(bed.driver.get(at, 2 << 20).iter().all(|&byte| byte == 0xaa));
        bed.driver.reset();
        bed.driver.start(0);
    }
}
