//! The files a guest starts from. An [`Image`] is a kernel (and initrd) that has been opened and
//! found to be what it says it is, whole, and small enough for the guest's memory.
//!
//! Only headers are read here; an engine loads the rest from the same open files. Every number
//! in a header is checked before it is used: the file may be anything.

pub mod boot_page;
pub mod bzimage;
pub mod elf;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::reason;
use crate::plan::GuestPlan;
use crate::plan::arguments::KernelArguments;
use crate::plan::memory::MemorySize;

use bzimage::BzImage;
use elf::ElfImage;

/// The longest command line of a kernel without a header to say so, in bytes without the final NUL
/// (Linux's `COMMAND_LINE_SIZE` on x86, less one).
const ELF_CMDLINE_LIMIT: u32 = 2047;

/// The longest one there is room for, whatever a header says.
const CMDLINE_MOST: u32 = 0xffff;

/// What a guest starts from.
#[derive(Debug)]
pub struct Image {
    /// The kernel's file.
    pub kernel: ImageFile,
    /// What the file holds.
    pub format: Format,
    /// The initial ramdisk's file.
    pub initrd: Option<ImageFile>,
}

/// The forms of a kernel we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// A Linux kernel with the x86 boot protocol's header.
    BzImage(BzImage),
    /// A linked kernel (`vmlinux`), or anything else in ELF.
    Elf(ElfImage),
}

/// An opened file and its size.
#[derive(Debug)]
pub struct ImageFile {
    /// The name it was opened by.
    pub path: PathBuf,
    /// The file.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
}

/// Why a guest can't start from a file.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It can't be opened or read.
    #[error("Cannot read the {role} {}: {}", .path.display(), reason(.error))]
    Unreadable {
        /// "kernel" or "initrd".
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
    /// A directory, a device, a pipe.
    #[error("The {role} {} is {what}, not a regular file", .path.display())]
    NotAFile {
        /// "kernel" or "initrd".
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// Empty file.
    #[error("The {role} {} is empty", .path.display())]
    Empty {
        /// "kernel" or "initrd".
        role: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Neither format.
    #[error("{} is not a kernel for this launcher: {looks}; give it a bzImage or an ELF vmlinux", .path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        looks: &'static str,
    },
    /// Shorter than its own header says.
    #[error("The kernel {} is truncated: {what} would end at byte {needs}, but the file has {size}; copy or build it anew", .path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The part that is cut off.
        what: &'static str,
        /// Where that part should end, in bytes.
        needs: u64,
        /// The file's size in bytes.
        size: u64,
    },
    /// A header that contradicts itself.
    #[error("The kernel {} is damaged: {why}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Which contradiction.
        why: String,
    },
    /// A kernel of another world.
    #[error("The kernel {} is for {machine}, and this launcher's guests are x86 computers", .path.display())]
    OtherMachine {
        /// The file.
        path: PathBuf,
        /// The processor it is for.
        machine: String,
    },
    /// The kernel alone is too large.
    #[error("The kernel {} needs at least {} MiB of memory, and the guest has {memory}; give it more", .path.display(), .needs.div_ceil(1 << 20))]
    KernelTooLarge {
        /// The file.
        path: PathBuf,
        /// What it needs, in bytes.
        needs: u64,
        /// What the guest has.
        memory: MemorySize,
    },
    /// The kernel would not read them all.
    #[error("The kernel's arguments are {len} bytes, and {} reads {limit} at most; shorten them", .path.display())]
    ArgumentsTooLong {
        /// The kernel.
        path: PathBuf,
        /// How many bytes there are, with what we add.
        len: usize,
        /// How many it reads.
        limit: u32,
    },
    /// Kernel and initrd together are.
    #[error(
        "The initrd {} ({} MiB) does not fit in the guest's {memory} beside the kernel ({} MiB); give the guest more memory",
        .path.display(), .initrd.div_ceil(1 << 20), .kernel.div_ceil(1 << 20)
    )]
    InitrdTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        initrd: u64,
        /// What the kernel needs, in bytes.
        kernel: u64,
        /// What the guest has.
        memory: MemorySize,
    },
}

impl Image {
    /// Opens and checks what `plan` names.
    ///
    /// # Errors
    /// The first thing that is wrong with kernel or initrd.
    pub fn open(plan: &GuestPlan) -> Result<Self, ImageError> {
        let kernel = ImageFile::open("kernel", &plan.kernel)?;
        let format = Format::read(&kernel)?;
        let initrd = plan
            .initrd
            .as_deref()
            .map(|path| ImageFile::open("initrd", path))
            .transpose()?;
        let image = Self {
            kernel,
            format,
            initrd,
        };
        image.check_fits(plan.memory)?;
        Ok(image)
    }

    /// Refuses a command line that is longer than the kernel reads.
    ///
    /// # Errors
    /// It is.
    pub fn check_arguments(&self, arguments: &KernelArguments) -> Result<(), ImageError> {
        let limit = match &self.format {
            Format::BzImage(image) => image.cmdline_limit.min(CMDLINE_MOST),
            Format::Elf(_) => ELF_CMDLINE_LIMIT,
        };
        match arguments.len() {
            len if len > limit as usize => Err(ImageError::ArgumentsTooLong {
                path: self.kernel.path.clone(),
                len,
                limit,
            }),
            _ => Ok(()),
        }
    }

    /// Memory is not measured to the byte: page tables, boot parameters and the kernel's own
    /// first allocations come on top. What is refused here could never start.
    fn check_fits(&self, memory: MemorySize) -> Result<(), ImageError> {
        let needs = match &self.format {
            Format::BzImage(image) => image.memory_end(),
            Format::Elf(image) => image.memory_end(),
        };
        if needs > memory.bytes() {
            return Err(ImageError::KernelTooLarge {
                path: self.kernel.path.clone(),
                needs,
                memory,
            });
        }
        match &self.initrd {
            Some(initrd) if initrd.size > memory.bytes() - needs => {
                Err(ImageError::InitrdTooLarge {
                    path: initrd.path.clone(),
                    initrd: initrd.size,
                    kernel: needs,
                    memory,
                })
            }
            _ => Ok(()),
        }
    }
}

impl Format {
    /// Tells what a file holds, by its first bytes.
    fn read(kernel: &ImageFile) -> Result<Self, ImageError> {
        let head = kernel.read_head()?;
        if head.starts_with(goblin::elf::header::ELFMAG) {
            ElfImage::read(kernel).map(Self::Elf)
        } else if bzimage::is_one(&head) {
            BzImage::read(kernel, &head).map(Self::BzImage)
        } else {
            Err(ImageError::NotAKernel {
                path: kernel.path.clone(),
                looks: looks_like(&head),
            })
        }
    }
}

impl ImageFile {
    fn open(role: &'static str, path: &Path) -> Result<Self, ImageError> {
        let unreadable = |error| ImageError::Unreadable {
            role,
            path: path.to_owned(),
            error,
        };
        // Looked at before it is opened: opening a pipe would wait for its writer.
        let kind = std::fs::metadata(path).map_err(unreadable)?.file_type();
        if !kind.is_file() {
            let what = if kind.is_dir() {
                "a directory"
            } else {
                "a device or a pipe"
            };
            return Err(ImageError::NotAFile {
                role,
                path: path.to_owned(),
                what,
            });
        }
        let file = File::open(path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        if size == 0 {
            return Err(ImageError::Empty {
                role,
                path: path.to_owned(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
        })
    }

    /// The first bytes: enough for either header. Shorter if the file is.
    fn read_head(&self) -> Result<Vec<u8>, ImageError> {
        self.read_at(0, self.size.min(bzimage::HEADER_END), "its header")
    }

    /// `len` bytes from `offset`, which hold `what`.
    fn read_at(&self, offset: u64, len: u64, what: &'static str) -> Result<Vec<u8>, ImageError> {
        self.require(what, offset.checked_add(len))?;
        let mut bytes = vec![0; len as usize];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|error| ImageError::Unreadable {
                role: "kernel",
                path: self.path.clone(),
                error,
            })?;
        Ok(bytes)
    }

    /// Refuses a part that would end outside the file; `None` is an end past all numbers.
    fn require(&self, what: &'static str, end: Option<u64>) -> Result<(), ImageError> {
        match end {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(ImageError::Truncated {
                path: self.path.clone(),
                what,
                needs: end.unwrap_or(u64::MAX),
                size: self.size,
            }),
        }
    }

    fn malformed(&self, why: impl Into<String>) -> ImageError {
        ImageError::Malformed {
            path: self.path.clone(),
            why: why.into(),
        }
    }
}

/// What people most often give instead of a kernel.
fn looks_like(head: &[u8]) -> &'static str {
    // Offset 56: "ARM\x64", the arm64 boot protocol (Documentation/arch/arm64/booting.rst).
    if head.get(56..60) == Some(b"ARM\x64") {
        return "it is a kernel for arm64 computers";
    }
    match head {
        [0x1f, 0x8b, ..] => "it is compressed by gzip (unpack it first)",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "it is compressed by xz (unpack it first)",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "it is compressed by zstd (unpack it first)",
        [b'0', b'7', b'0', b'7', b'0', ..] => "it is a cpio archive, as an initrd is",
        [b'M', b'Z', ..] => "it is a Windows or EFI program without a Linux boot header",
        [b'#', b'!', ..] => "it is a script",
        _ if head.get(510..512) == Some(&[0x55, 0xaa]) => {
            "it is a boot sector or disk image without a Linux boot header"
        }
        _ => "it has neither a Linux boot header nor an ELF header",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;

    pub(crate) fn file_of(bytes: &[u8]) -> ImageFile {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        ImageFile {
            path: "vmlinuz".into(),
            file,
            size: bytes.len() as u64,
        }
    }

    #[test]
    fn what_is_no_kernel_is_called_what_it_is() {
        for (bytes, word) in [
            (&b"\x1f\x8b\x08"[..], "gzip"),
            (b"070701", "cpio"),
            (b"#!/bin/sh", "script"),
            (b"x", "neither"),
            (&[0; 4096], "neither"),
        ] {
            let error = Format::read(&file_of(bytes)).unwrap_err().to_string();
            assert!(
                error.starts_with("vmlinuz is not a kernel") && error.contains(word),
                "{error}"
            );
        }
    }

    #[test]
    fn an_initrd_must_fit_beside_the_kernel() {
        let format = bzimage::tests::format();
        let image = |initrd: u64| Image {
            kernel: file_of(b"k"),
            format: format.clone(),
            initrd: Some(ImageFile {
                path: "initrd".into(),
                file: tempfile::tempfile().unwrap(),
                size: initrd,
            }),
        };
        let memory = MemorySize::from_mib(64).unwrap();
        image(1 << 20).check_fits(memory).unwrap();
        let error = image(64 << 20).check_fits(memory).unwrap_err().to_string();
        assert!(
            error.contains("initrd initrd (64 MiB) does not fit"),
            "{error}"
        );
        let error = image(1)
            .check_fits(MemorySize::from_mib(1).unwrap())
            .unwrap_err()
            .to_string();
        assert!(error.contains("needs at least"), "{error}");
    }
}
