//! Files: disks in layers, kernels. Each function tells whether it was one.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

use flate2::Compression;
use flate2::write::GzEncoder;
use launcher::backend::block::layers::{self, Layer};
use launcher::cli::{self, Invocation};
use launcher::engine::{kvm, lguest};
use launcher::image::Image;
use launcher::plan::GuestPlan;
use launcher::plan::disk::DiskFormat;

use super::{memory_file, patch};

/// Bytes of a cluster, the least there may be.
const CLUSTER: usize = 512;
/// Bytes of the disk in the image: two tables' worth.
const DISK: u64 = 64 << 10;

/// A qcow2 image (QEMU's `docs/interop/qcow2.txt`): header, table of reference counts and a block of them,
/// table of tables, a table, and data.
fn qcow2() -> Vec<u8> {
    const CLUSTERS: u64 = 7;
    let at = |cluster: u64| (cluster * CLUSTER as u64).to_be_bytes();
    let mut image = vec![0; CLUSTERS as usize * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let long = |value: u32| value.to_be_bytes();
    put(0, b"QFI\xfb");
    put(4, &long(3));
    // Bits of a cluster's size; the disk's size.
    put(20, &long(9));
    put(24, &DISK.to_be_bytes());
    // Tables: entries and place of the first, place and clusters of the reference counts'.
    put(36, &long(2));
    put(40, &at(3));
    put(48, &at(1));
    put(56, &long(1));
    // Counts of 16 bits; the header's length.
    put(96, &long(4));
    put(100, &long(104));
    put(CLUSTER, &at(2));
    for cluster in 0..CLUSTERS as usize {
        put(2 * CLUSTER + 2 * cluster, &1u16.to_be_bytes());
    }
    const COPIED: u64 = 1 << 63;
    let entry = |cluster: u64| ((cluster * CLUSTER as u64) | COPIED).to_be_bytes();
    put(3 * CLUSTER, &entry(4));
    put(4 * CLUSTER, &entry(5));
    put(4 * CLUSTER + 8, &entry(6));
    // All zeroes.
    put(4 * CLUSTER + 16, &1u64.to_be_bytes());
    image
}

/// A disk's image, changed anywhere, and what a guest does with the disk that it is.
pub fn disk_image(data: &[u8]) -> bool {
    let mut image = qcow2();
    let (first, rest) = data.split_first().unwrap_or((&0, &[]));
    let (acts, changes) = rest.split_at(rest.len().min(usize::from(first % 32) * 4));
    patch(&mut image, changes);
    let mut layers = [Layer {
        path: "image".into(),
        file: memory_file(&image),
        direct: false,
        is_device: false,
        format: DiskFormat::Qcow2,
    }];
    let Ok(mut disk) = layers::open(&mut layers, true) else {
        return false;
    };
    let size = disk.size();
    let mut bytes = vec![0xa5; 8 << 10];
    for act in acts.chunks_exact(4) {
        let at = u64::from(u16::from_le_bytes([act[1], act[2]]));
        // What the guest asks for is inside the disk.
        let len = (usize::from(act[3]) * 64).min(bytes.len());
        if at + len as u64 > size {
            continue;
        }
        let _ = match act[0] % 8 {
            0..3 => disk.read(&mut bytes[..len], at),
            3..5 => disk.write(&bytes[..len], at),
            5 => disk.write_zeroes(at, len as u64),
            6 => disk.discard_to_zero(at, len as u64),
            _ => disk.discard_to_any(at, len as u64),
        };
    }
    let _ = disk.flush();
    true
}

/// A kernel's head, with all that says what is where.
fn head(form: u8) -> Vec<u8> {
    let mut file = vec![0; 16 << 10];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    match form % 4 {
        // bzImage, protocol 2.15 (Documentation/arch/x86/boot.rst).
        0 => {
            put(0x1f1, &[1]);
            put(0x1f4, &0x200u32.to_le_bytes());
            put(0x1fe, &[0x55, 0xaa]);
            put(0x202, b"HdrS\x0f\x02");
            put(0x211, &[1]);
            put(0x22c, &0x7fff_ffffu32.to_le_bytes());
            put(0x230, &0x20_0000u32.to_le_bytes());
            put(0x234, &[1]);
            put(0x236, &[3]);
            put(0x238, &2047u32.to_le_bytes());
            put(0x258, &0x10_0000u64.to_le_bytes());
            put(0x260, &0x10_0000u32.to_le_bytes());
        }
        // ELF, 64 bits and 32, two parts and a note, which says PVH's entry.
        1 | 2 => {
            let wide = form % 4 == 1;
            let word = |value: u64| match wide {
                true => value.to_le_bytes().to_vec(),
                false => (value as u32).to_le_bytes().to_vec(),
            };
            let mut bytes = vec![0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, 1, 1];
            bytes.resize(16, 0);
            bytes.extend([2, 0, if wide { 62 } else { 3 }, 0, 1, 0, 0, 0]);
            let headers = if wide { 64 } else { 52 };
            for value in [0x10_0000, headers, 0] {
                bytes.extend(word(value));
            }
            let (header, entry) = if wide { (64u16, 56u16) } else { (52, 32) };
            bytes.extend(0u32.to_le_bytes());
            for value in [header, entry, 3, 0, 0, 0] {
                bytes.extend(value.to_le_bytes());
            }
            let parts = [
                (1u32, 0x1000u64, 0x10_0000u64, 0x1800u64),
                (1, 0x3000, 0x20_0000, 0x1000),
                (4, 0x200, 0, 20),
            ];
            for (kind, offset, physical, len) in parts {
                bytes.extend(kind.to_le_bytes());
                if wide {
                    bytes.extend(5u32.to_le_bytes());
                }
                for value in [offset, 0xc000_0000 + physical, physical, len, len + 0x100] {
                    bytes.extend(word(value));
                }
                if !wide {
                    bytes.extend(5u32.to_le_bytes());
                }
                bytes.extend(word(0x1000));
            }
            put(0, &bytes);
            put(0x200, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
            put(0x20c, b"Xen\0\0\0\x10\0");
            put(0x1400, b"GenuineLguest");
        }
        _ => {}
    }
    file
}

/// The plan of a guest of 16 MiB with this kernel and an initrd.
fn plan(kernel: &File, initrd: &File) -> Box<GuestPlan> {
    let path = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
    let initrd = format!("--initrd={}", path(initrd));
    let line = ["launcher", &initrd, "16", &path(kernel), "quiet"].map(OsString::from);
    match cli::parse(line) {
        Ok(Invocation::Run(options)) => Box::new(options.plan),
        other => panic!("it is a good command line: {other:?}"),
    }
}

/// A kernel's file, loaded as the engine `kvm` does.
pub fn kernel_image(data: &[u8]) -> bool {
    let (form, changes) = data.split_first().unwrap_or((&0, &[]));
    let mut file = head(*form);
    patch(&mut file, changes);
    file.truncate(file.len() - usize::from(*form) / 4 * 200);
    let (kernel, initrd) = (memory_file(&file), memory_file(&[7; 5000]));
    let plan = plan(&kernel, &initrd);
    let Ok(image) = Image::open(&plan) else {
        return false;
    };
    let memory = kvm::memory::allocate(plan.memory).unwrap();
    let _ = image.check_arguments(&plan.arguments);
    kvm::boot::load(&image, &memory, plan.memory, &plan.arguments, 0xe_0000).is_ok()
}

/// A kernel's file, loaded as the engine `lguest` does, which also unpacks.
pub fn lguest_image(data: &[u8]) -> bool {
    let (form, changes) = data.split_first().unwrap_or((&0, &[]));
    let mut file = head(*form);
    if form % 4 == 0 {
        // Behind the head a kernel in gzip; half of all changes are to what is packed.
        let (outer, inner) = changes.split_at(changes.len() / 6 * 3);
        let mut kernel = head(2);
        // Its loader guesses where it runs by the addresses it loads from.
        for at in (0x1500..).step_by(8).take(5) {
            kernel[at..at + 5].copy_from_slice(&[0xa1, 0, 0, 0x10, 0xc0]);
        }
        patch(&mut kernel, inner);
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&kernel).unwrap();
        let packed = packed.finish().unwrap();
        file[0x1000..0x1000 + packed.len()].copy_from_slice(&packed);
        // Made on Unix, as its loader wants it.
        file[0x1009] = 3;
        patch(&mut file, outer);
    } else {
        patch(&mut file, changes);
    }
    let (kernel, initrd) = (memory_file(&file), memory_file(&[7; 5000]));
    let plan = plan(&kernel, &initrd);
    let Ok(image) = Image::open(&plan) else {
        return false;
    };
    let mut memory = lguest::memory::GuestMemory::new((16 << 20) + 4096).unwrap();
    let arguments = plan.arguments.as_os_str().as_encoded_bytes();
    lguest::boot::load(&mut memory, &image, plan.memory, arguments).is_ok()
}
