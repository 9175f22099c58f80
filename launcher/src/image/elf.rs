//! ELF: a linked kernel, as the build leaves it (`vmlinux`), or a small kernel of somebody's own.
//!
//! Read with goblin, header by header: only the tables a loader needs, never symbols or sections,
//! so a `vmlinux` with half a gigabyte of debug information costs nothing.

use goblin::container::Ctx;
use goblin::elf::Elf;
use goblin::elf::header::{
    EI_CLASS, EI_DATA, ELFCLASS64, ELFDATA2LSB, EM_386, EM_X86_64, ET_DYN, ET_EXEC,
};
use goblin::elf::header::{Header, machine_to_str};
use goblin::elf::note::NoteDataIterator;
use goblin::elf::program_header::{PT_LOAD, PT_NOTE, ProgramHeader};

use super::{ImageError, ImageFile};

/// Xen's name on its notes, and the type of the one with the entry point for 32-bit protected
/// mode with physical addresses (`XEN_ELFNOTE_PHYS32_ENTRY`, xen/include/public/elfnote.h): the
/// PVH start, which stock kernels have since 4.21 (`CONFIG_PVH`).
const PVH_NOTE: (&str, u32) = ("Xen", 18);

/// A kernel that can be an lguest guest has this before its entry point (LGUEST ABI).
const LGUEST_TAG: &[u8] = b"GenuineLguest";

/// More notes than any kernel has, in bytes.
const MAX_NOTES: u64 = 1 << 20;

/// How much of a segment is looked at in one go, in bytes.
const SCAN_STEP: u64 = 1 << 20;

/// A 32-bit or 64-bit x86 kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElfImage {
    /// 64-bit x86 rather than 32-bit.
    pub is_64: bool,
    /// Where it says it starts. Linux gives a physical address, others a virtual one.
    pub entry: u64,
    /// What is to be loaded.
    pub segments: Vec<Segment>,
    /// Where it starts by the PVH protocol, if it can (a physical address).
    pub pvh_entry: Option<u32>,
    /// Whether it was built to be an lguest guest.
    pub is_lguest: bool,
}

/// One piece to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it stands in the file, in bytes.
    pub offset: u64,
    /// How much of it does, in bytes.
    pub file_len: u64,
    /// Its physical address.
    pub physical: u64,
    /// Its virtual address.
    pub virtual_address: u64,
    /// Its length in memory, in bytes; what the file does not fill is zero.
    pub memory_len: u64,
}

impl ElfImage {
    pub(super) fn read(kernel: &ImageFile) -> Result<Self, ImageError> {
        let header = read_header(kernel)?;
        let is_64 = header.e_ident[EI_CLASS] == ELFCLASS64;
        let programs = read_program_headers(kernel, &header)?;
        let segments = loadable(kernel, &programs)?;
        let is_lguest = !is_64 && has_lguest_tag(kernel, &segments)?;
        let pvh_entry = find_pvh_entry(kernel, &programs, is_64)?;
        Ok(Self {
            is_64,
            entry: header.e_entry,
            segments,
            pvh_entry,
            is_lguest,
        })
    }

    /// The first byte of guest memory the kernel does not need.
    pub fn memory_end(&self) -> u64 {
        self.segments
            .iter()
            .map(|s| s.physical.saturating_add(s.memory_len))
            .max()
            .unwrap_or(0)
    }
}

/// The header proper: an executable for x86.
fn read_header(kernel: &ImageFile) -> Result<Header, ImageError> {
    let class = kernel.read_at(0, 16, "its header")?[EI_CLASS];
    let len = if class == ELFCLASS64 { 64 } else { 52 };
    let bytes = kernel.read_at(0, len, "its header")?;
    let header = Elf::parse_header(&bytes)
        .map_err(|e| kernel.malformed(format!("its ELF header says nonsense ({e})")))?;

    let is_64 = header.e_ident[EI_CLASS] == ELFCLASS64;
    let is_x86 = header.e_ident[EI_DATA] == ELFDATA2LSB
        && (header.e_machine == EM_X86_64 && is_64 || header.e_machine == EM_386 && !is_64);
    if !is_x86 {
        let bits = if is_64 { 64 } else { 32 };
        let machine = match machine_to_str(header.e_machine) {
            name if name.to_ascii_uppercase().contains("UNKNOWN") => {
                format!("machine type {}", header.e_machine)
            }
            name => name.to_owned(),
        };
        return Err(ImageError::OtherMachine {
            path: kernel.path.clone(),
            machine: format!("{machine} ({bits} bits)"),
        });
    }
    if header.e_type != ET_EXEC && header.e_type != ET_DYN {
        return Err(kernel.malformed(
            "it is an ELF file but not a program: an object file, a module or a core dump",
        ));
    }
    Ok(header)
}

fn read_program_headers(
    kernel: &ImageFile,
    header: &Header,
) -> Result<Vec<ProgramHeader>, ImageError> {
    let context = context(header.e_ident[EI_CLASS] == ELFCLASS64);
    let count = u64::from(header.e_phnum);
    let each = ProgramHeader::size(context) as u64;
    if count == 0 {
        return Err(kernel.malformed("it is an ELF file with nothing to load"));
    }
    if u64::from(header.e_phentsize) != each {
        return Err(kernel.malformed(format!(
            "its program headers are {} bytes each, not {each}",
            header.e_phentsize
        )));
    }
    // At most 65,535 of at most 56 bytes: no size to be afraid of.
    let bytes = kernel.read_at(header.e_phoff, count * each, "its program header table")?;
    ProgramHeader::parse(&bytes, 0, count as usize, context)
        .map_err(|e| kernel.malformed(format!("its program headers say nonsense ({e})")))
}

fn context(is_64: bool) -> Ctx {
    use goblin::container::{Container, Endian};
    Ctx::new(
        if is_64 {
            Container::Big
        } else {
            Container::Little
        },
        Endian::Little,
    )
}

/// What is to be loaded, each piece inside the file and inside the address space.
fn loadable(kernel: &ImageFile, programs: &[ProgramHeader]) -> Result<Vec<Segment>, ImageError> {
    let mut segments = Vec::new();
    for program in programs
        .iter()
        .filter(|p| p.p_type == PT_LOAD && p.p_memsz > 0)
    {
        kernel.require("a segment", program.p_offset.checked_add(program.p_filesz))?;
        if program.p_filesz > program.p_memsz {
            return Err(kernel.malformed("a segment is longer in the file than in memory"));
        }
        if program.p_paddr.checked_add(program.p_memsz).is_none() {
            return Err(kernel.malformed("a segment ends past the end of all addresses"));
        }
        segments.push(Segment {
            offset: program.p_offset,
            file_len: program.p_filesz,
            physical: program.p_paddr,
            virtual_address: program.p_vaddr,
            memory_len: program.p_memsz,
        });
    }
    if segments.is_empty() {
        return Err(kernel.malformed("it is an ELF file with nothing to load"));
    }
    Ok(segments)
}

/// Looks for the PVH entry point among the notes. Notes that make no sense are none.
fn find_pvh_entry(
    kernel: &ImageFile,
    programs: &[ProgramHeader],
    is_64: bool,
) -> Result<Option<u32>, ImageError> {
    for program in programs
        .iter()
        .filter(|p| p.p_type == PT_NOTE && p.p_filesz <= MAX_NOTES)
    {
        let notes = kernel.read_at(program.p_offset, program.p_filesz, "its notes")?;
        // Notes are aligned to 4 bytes, except where the segment says 8 (gABI, "Note Section").
        let alignment = if program.p_align == 8 { 8 } else { 4 };
        let notes = NoteDataIterator {
            data: &notes,
            size: notes.len(),
            offset: 0,
            ctx: (alignment, context(is_64)),
        };
        for note in notes
            .map_while(Result::ok)
            .filter(|note| (note.name, note.n_type) == PVH_NOTE)
        {
            // As wide as the kernel's words, though the address always fits in 32 bits.
            if let Some(entry) = note.desc.first_chunk::<4>() {
                return Ok(Some(u32::from_le_bytes(*entry)));
            }
        }
    }
    Ok(None)
}

/// Whether the loaded bytes hold lguest's tag.
fn has_lguest_tag(kernel: &ImageFile, segments: &[Segment]) -> Result<bool, ImageError> {
    let overlap = LGUEST_TAG.len() as u64 - 1;
    for segment in segments {
        let mut done = 0;
        while done < segment.file_len {
            let len = (segment.file_len - done).min(SCAN_STEP + overlap);
            let bytes = kernel.read_at(segment.offset + done, len, "a segment")?;
            if bytes
                .windows(LGUEST_TAG.len())
                .any(|window| window == LGUEST_TAG)
            {
                return Ok(true);
            }
            done += SCAN_STEP;
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Format;
    use crate::image::tests::file_of;

    /// A 64-bit kernel: header, two program headers (load, note), the note, some code.
    fn vmlinux() -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut put = |field: &[u8]| bytes.extend_from_slice(field);
        put(&2u16.to_le_bytes()); // ET_EXEC
        put(&62u16.to_le_bytes()); // EM_X86_64
        put(&1u32.to_le_bytes());
        for word in [0x10_0000u64, 64, 0] {
            put(&word.to_le_bytes()); // entry, phoff, shoff
        }
        put(&0u32.to_le_bytes());
        for half in [64u16, 56, 2, 0, 0, 0] {
            put(&half.to_le_bytes()); // ehsize, phentsize, phnum, …
        }
        for (kind, offset, file, memory) in [(1u32, 0u64, 208u64, 8192u64), (4, 176, 20, 20)] {
            put(&kind.to_le_bytes());
            put(&5u32.to_le_bytes());
            for word in [offset, 0xffff_ffff_8010_0000, 0x10_0000, file, memory, 4] {
                put(&word.to_le_bytes());
            }
        }
        for word in [4u32, 4, 18, u32::from_le_bytes(*b"Xen\0"), 0x10_1234] {
            put(&word.to_le_bytes());
        }
        put(&[0x90; 12]);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<ElfImage, ImageError> {
        Format::read(&file_of(bytes)).map(|format| match format {
            Format::Elf(image) => image,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn a_whole_one_is_read_with_its_pvh_entry() {
        let image = read(&vmlinux()).unwrap();
        assert!(image.is_64 && !image.is_lguest);
        assert_eq!((image.entry, image.pvh_entry), (0x10_0000, Some(0x10_1234)));
        assert_eq!(image.memory_end(), 0x10_2000);
    }

    #[test]
    fn a_truncated_one_is_refused_wherever_it_ends() {
        let whole = vmlinux();
        for len in 4..whole.len() {
            let error = read(&whole[..len]).unwrap_err();
            assert!(
                matches!(error, ImageError::Truncated { .. }),
                "{len}: {error}"
            );
        }
    }

    #[test]
    fn any_header_gives_an_answer_and_no_panic() {
        let whole = vmlinux();
        for at in 4..whole.len() {
            for value in [0, 1, 4, 0x7f, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                let _ = read(&damaged);
            }
        }
    }

    #[test]
    fn kernels_of_other_machines_are_refused_by_name() {
        let mut other = vmlinux();
        other[18] = 183; // EM_AARCH64
        let error = read(&other).unwrap_err().to_string();
        assert!(error.to_lowercase().contains("aarch64"), "{error}");
        let mut unknown = vmlinux();
        unknown[18..20].copy_from_slice(&0xfafau16.to_le_bytes());
        assert!(read(&unknown).is_err());
    }

    #[test]
    fn each_thing_that_is_wrong_with_a_header_has_a_sentence_of_its_own() {
        // Fields of the header, then of the first segment's.
        let wrong: [(usize, &[u8], &str); 12] = [
            (4, &[9], "says nonsense"),
            (4, &[1], "(32 bits)"),
            (5, &[2], "for machine type 15872"),
            (16, &[1, 0], "not a program"),
            (16, &[4, 0], "not a program"),
            (18, &[3, 0], "for 386 (64 bits)"),
            (32, &[0xff; 8], "truncated: its program header table"),
            (54, &[57, 0], "program headers are 57 bytes each, not 56"),
            (56, &[0, 0], "with nothing to load"),
            (64, &[4], "with nothing to load"),
            (64 + 8, &[0xff; 8], "truncated: a segment"),
            (64 + 40, &[100, 0], "longer in the file than in memory"),
        ];
        let past_the_end = (64 + 24, &[0xff; 8][..], "past the end of all addresses");
        for (at, bytes, words) in wrong.into_iter().chain([past_the_end]) {
            let mut damaged = vmlinux();
            damaged[at..at + bytes.len()].copy_from_slice(bytes);
            let sentence = read(&damaged).unwrap_err().to_string();
            assert!(sentence.contains(words), "{sentence} is not {words}");
        }
    }

    #[test]
    fn an_lguest_guest_is_recognised_by_its_tag() {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut put = |field: &[u8]| bytes.extend_from_slice(field);
        put(&2u16.to_le_bytes());
        put(&3u16.to_le_bytes());
        for word in [1u32, 0xc010_0000, 52, 0, 0] {
            put(&word.to_le_bytes());
        }
        for half in [52u16, 32, 1, 0, 0, 0] {
            put(&half.to_le_bytes());
        }
        for word in [1u32, 0, 0xc010_0000, 0x10_0000, 97, 97, 5, 4096] {
            put(&word.to_le_bytes());
        }
        put(LGUEST_TAG);
        let image = read(&bytes).unwrap();
        assert!(image.is_lguest && !image.is_64 && image.pvh_entry.is_none());
    }
}
