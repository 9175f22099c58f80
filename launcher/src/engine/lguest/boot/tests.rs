//! Whole images, good and bad.

use std::io::Write;

use super::*;
use crate::image::ImageFile;
use crate::image::elf::{ElfImage, Segment};
use crate::image::tests::file_of;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

const MEMORY: u64 = 8;

fn memory() -> GuestMemory {
    GuestMemory::new((MEMORY as u32) << 20 | PAGE).unwrap()
}

fn size() -> MemorySize {
    MemorySize::from_mib(MEMORY).unwrap()
}

/// A kernel's file of two pages, with the tag near its end.
fn code() -> Vec<u8> {
    let mut code = vec![0x90; 8192];
    code[7000..7013].copy_from_slice(tag::TAG);
    code
}

fn elf(segments: &[Segment]) -> Image {
    Image {
        kernel: file_of(&code()),
        format: Format::Elf(ElfImage {
            is_64: false,
            entry: 0,
            segments: segments.to_vec(),
            pvh_entry: None,
            is_lguest: true,
        }),
        initrd: None,
    }
}

const SEGMENT: Segment = Segment {
    offset: 0,
    file_len: 8192,
    physical: 0x10_0000,
    virtual_address: 0xc010_0000,
    memory_len: 0x5000,
};

/// A file with a kernel in gzip behind some other bytes.
fn bz_image(kernel: &[u8]) -> ImageFile {
    let mut packed = GzEncoder::new(vec![0x5a; 5000], Compression::fast());
    packed.write_all(kernel).unwrap();
    let mut bytes = packed.finish().unwrap();
    // flate2 does not know on which system it is.
    bytes[5009] = 3;
    file_of(&bytes)
}

fn bz(kernel: ImageFile) -> Image {
    Image {
        kernel,
        format: crate::image::bzimage::tests::format(),
        initrd: None,
    }
}

fn sentence(image: &Image) -> String {
    load(&mut memory(), image, size(), b"")
        .unwrap_err()
        .to_string()
}

#[test]
fn an_elf_kernel_is_entered_behind_its_tag() {
    let mut memory = memory();
    let start = load(&mut memory, &elf(&[SEGMENT]), size(), b"quiet").unwrap();
    assert_eq!(start.page_offset, 0xc000_0000);
    assert_eq!(start.entry, 0xc010_0000 + 7013);
    let ram = (MEMORY as u32) << 20;
    assert_eq!(start.directory, ram - PAGE);
    // The boot page.
    assert_eq!(memory.load::<u8>(0x1e8), Ok(1));
    assert_eq!(memory.load::<u8>(0x210), Ok(0));
    assert_eq!(memory.load::<u64>(0x2d8), Ok(ram.into()));
    assert_eq!(memory.load::<u32>(0x228), Ok(4096));
    assert_eq!(
        memory.load::<u64>(4096),
        Ok(u64::from_le_bytes(*b"quiet\0\0\0"))
    );
}

#[test]
fn guests_of_one_kernel_have_its_pages_from_the_file() {
    use std::os::unix::fs::MetadataExt;
    let image = elf(&[SEGMENT]);
    let kernel = image.kernel.file.metadata().unwrap().ino().to_string();
    // "from-to permissions offset device inode name" (proc_pid_maps(5)).
    let mapped = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let fields = maps.lines().map(|line| line.split_ascii_whitespace());
        let mut mine = Vec::new();
        for mut fields in fields {
            let (place, permissions) = (fields.next().unwrap(), fields.next().unwrap());
            if fields.nth(2) == Some(&kernel) {
                let (from, to) = place.split_once('-').unwrap();
                let number = |digits| u64::from_str_radix(digits, 16).unwrap();
                mine.push((permissions.to_owned(), number(to) - number(from)));
            }
        }
        mine
    };
    let guests = [memory(), memory()].map(|mut memory| {
        load(&mut memory, &image, size(), b"").unwrap();
        memory
    });
    assert_eq!(mapped(), [("rw-p".into(), 8192), ("rw-p".into(), 8192)]);
    // What one of them writes is its own.
    let [one, other] = guests;
    one.store(0x10_0000, 0x11_u8).unwrap();
    assert_eq!(other.load::<u8>(0x10_0000), Ok(0x90));
    assert_eq!(mapped().len(), 2);
    drop(one);
    assert_eq!(mapped().len(), 1);
}

#[test]
fn segments_land_where_they_belong_whatever_their_offsets() {
    for (offset, physical, len) in [
        (0u64, 0x10_0000u64, 8192u64),
        (100, 0x10_0064, 8000),
        (100, 0x10_0065, 8000),
        (4090, 0x20_0ffa, 3000),
        (6900, 0x10_0000, 200),
    ] {
        let segment = Segment {
            offset,
            file_len: len,
            physical,
            virtual_address: physical + 0xc000_0000,
            memory_len: len,
        };
        let mut memory = memory();
        load(&mut memory, &elf(&[segment]), size(), b"").unwrap();
        let mut got = vec![0; len as usize];
        memory.read_bytes(physical as u32, &mut got).unwrap();
        let offset = offset as usize;
        assert_eq!(got, code()[offset..offset + len as usize]);
        assert_eq!(memory.load::<u8>((physical + len) as u32), Ok(0));
        assert_eq!(memory.load::<u8>(physical as u32 - 1), Ok(0));
    }
}

#[test]
fn an_initrd_is_at_the_top_and_the_tables_below_it() {
    let mut image = elf(&[SEGMENT]);
    image.initrd = Some(file_of(&[7; 5000]));
    let mut memory = memory();
    let start = load(&mut memory, &image, size(), b"").unwrap();
    let at = ((MEMORY as u32) << 20) - 2 * PAGE;
    assert_eq!(start.directory, at - PAGE);
    assert_eq!(memory.load::<u8>(0x210), Ok(0xff));
    assert_eq!(memory.load::<u32>(0x218), Ok(at));
    assert_eq!(memory.load::<u32>(0x21c), Ok(2 * PAGE));
    assert_eq!(memory.load::<u8>(at + 4999), Ok(7));
    assert_eq!(memory.load::<u8>(at + 5000), Ok(0));
}

#[test]
fn a_packed_kernel_is_unpacked_and_tells_its_page_offset() {
    let mut kernel = code();
    for n in 0..4 {
        kernel.extend([0xa1, n, 0, 0, 0xc0]);
    }
    let mut memory = memory();
    let start = load(&mut memory, &bz(bz_image(&kernel)), size(), b"").unwrap();
    assert_eq!(start.entry, 0xc010_0000 + 7013);
    assert_eq!(memory.load::<u8>(0x10_0000), Ok(0x90));
}

#[test]
fn a_packed_guest_is_known_by_its_tag_wherever_it_is() {
    for at in [0, 65_530, 65_536, 65_540, 200_000] {
        let mut kernel = vec![0; at];
        assert!(!bzimage::has_tag(&bz_image(&kernel)));
        kernel.extend(tag::TAG);
        assert!(bzimage::has_tag(&bz_image(&kernel)), "{at}");
    }
    assert!(!bzimage::has_tag(&file_of(tag::TAG)));
}

#[test]
fn each_bad_image_has_a_sentence_of_its_own() {
    let but = |change: fn(&mut Segment)| {
        let mut segment = SEGMENT;
        change(&mut segment);
        sentence(&elf(&[SEGMENT, segment]))
    };
    let mut wide = elf(&[SEGMENT]);
    if let Format::Elf(elf) = &mut wide.format {
        elf.is_64 = true;
    }
    let mut no_tag = elf(&[SEGMENT]);
    no_tag.kernel = file_of(&[0x90; 8192]);
    let mut no_offset = code();
    no_offset.extend([0xa1, 0, 0, 0, 0xc0].repeat(3));
    let whole = bz_image(&vec![0; 8 << 20]);
    let mut cut = bz_image(&code());
    cut.size -= 100;
    cut.file.set_len(cut.size).unwrap();
    let sentences = [
        (sentence(&wide), "one of 64 bits"),
        (sentence(&no_tag), "no GenuineLguest"),
        (
            but(|s| s.virtual_address += 4096),
            "one segment is 0xc0000000 above",
        ),
        (
            sentence(&elf(&[Segment {
                virtual_address: 0xc010_1000,
                ..SEGMENT
            }])),
            "not a multiple of 4 MiB",
        ),
        (
            sentence(&elf(&[Segment {
                virtual_address: 0x1000,
                ..SEGMENT
            }])),
            "not a multiple of 4 MiB",
        ),
        (
            but(|s| (s.physical, s.virtual_address) = (0x1000, 0xc000_1000)),
            "boot parameters",
        ),
        (but(|s| s.memory_len = 8 << 20), "too small"),
        (sentence(&bz(file_of(&[0x1f; 9000]))), "no gzip header"),
        (
            sentence(&bz(bz_image(&no_offset))),
            "does not show its page offset",
        ),
        (sentence(&bz(whole)), "too small"),
        (sentence(&bz(cut)), "can't be unpacked"),
    ];
    for (sentence, words) in sentences {
        assert!(sentence.contains(words), "{sentence}");
        assert!(!sentence.contains('\n'));
    }
}

#[test]
fn memory_arguments_and_initrd_have_their_limits() {
    let mut image = elf(&[SEGMENT]);
    let too_long = load(&mut memory(), &image, size(), &[b'a'; 2048]);
    assert!(too_long.unwrap_err().to_string().contains("2047 at most"));
    assert!(load(&mut memory(), &image, size(), &[b'a'; 2047]).is_ok());
    assert_eq!(
        ram(MemorySize::from_mib(892).unwrap(), 0xc000_0000).unwrap(),
        892 << 20
    );
    let much = ram(MemorySize::from_mib(893).unwrap(), 0xc000_0000);
    assert!(much.unwrap_err().to_string().contains("892 MiB"));
    assert!(ram(MemorySize::from_mib(u64::MAX).unwrap(), 0).is_err());
    image.initrd = Some(file_of(&vec![0; 8 << 20]));
    assert!(sentence(&image).contains("does not fit"));
    image.initrd = Some(file_of(&vec![0; 7 << 20]));
    assert!(load(&mut memory(), &image, size(), b"").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_segments_are_loaded_or_refused(
        segments in proptest::collection::vec((0u64..8192, 0u64..8192, any::<u32>(), any::<u32>(), any::<u32>()), 1..4)
    ) {
        let segments: Vec<_> = segments.into_iter().map(|(offset, len, physical, above, memory_len)| Segment {
            offset,
            file_len: len.min(8192 - offset),
            physical: (physical >> (above % 16)).into(),
            virtual_address: u64::from((physical >> (above % 16)).wrapping_add(above & 0xffc0_0000)),
            memory_len: u64::from(memory_len >> 8).max(len),
        }).collect();
        let _ = load(&mut memory(), &elf(&segments), size(), b"");
    }

    #[test]
    fn any_packed_bytes_are_unpacked_or_refused(
        damage in proptest::collection::vec((5000usize..13_000, any::<u8>()), 0..4),
    ) {
        let mut kernel = code();
        kernel.extend([0xa1, 0, 0, 0, 0xc0].repeat(4));
        let file = bz_image(&kernel);
        let mut bytes = vec![0; file.size as usize];
        std::os::unix::fs::FileExt::read_exact_at(&file.file, &mut bytes, 0).unwrap();
        for (at, byte) in damage {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        let _ = load(&mut memory(), &bz(file_of(&bytes)), size(), b"");
    }
}
