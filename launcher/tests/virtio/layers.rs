//! Disks in layers, made and checked by `qemu-img`, for what is not to be taken by our own word.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use launcher::backend::block::{BlockError, Disk};
use launcher::engine::kvm::virtio::block;
use launcher::plan::disk::BlockPlan;
use tempfile::TempDir;

use super::block::{OK, do_request, pattern};
use super::driver::*;

crate::tests!(
    an_overlay_is_written_and_what_is_below_is_not,
    layers_go_as_deep_as_is_said,
    nothing_is_opened_that_was_not_said,
    what_counts_its_own_header_as_free_is_not_written,
    discarded_and_zeroed_sectors_of_a_layer_read_as_zeroes,
    a_raw_disk_is_raw_whatever_its_guest_writes_there,
);

const SIZE: u64 = 8 << 20;

/// Why these tests can't run, if they can't.
pub fn missing() -> Option<String> {
    let version = Command::new("qemu-img").arg("--version").output();
    version.err().map(|error| format!("qemu-img: {error}"))
}

fn qemu_img(words: &[&str], folder: &Path) -> String {
    let output = Command::new("qemu-img")
        .args(words)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Some images beside this program, where direct I/O works.
struct Images(TempDir);

impl Images {
    /// A raw one with a pattern, and an overlay on it.
    fn new() -> Self {
        let program = std::env::current_exe().unwrap();
        let folder = TempDir::new_in(program.parent().unwrap()).unwrap();
        std::fs::write(folder.path().join("base"), pattern(SIZE as usize, 1)).unwrap();
        let words = [
            "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "top",
        ];
        qemu_img(&words, folder.path());
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self, options: &str) -> Result<Disk, BlockError> {
        // Names are of files in the folder.
        let options = options.replace("backing=", &format!("backing={}/", self.0.path().display()));
        let value = format!("{}/{options}", self.0.path().display());
        Disk::open(&BlockPlan::parse(std::ffi::OsStr::from_bytes(value.as_bytes())).unwrap())
    }

    fn driver(&self, options: &str) -> Driver {
        let disk = self.open(options).unwrap();
        disk.lock().unwrap();
        Driver::started(block::device(disk, 0).unwrap(), 0)
    }

    /// What a disk has all in all, by another's account.
    fn content(&self, name: &str) -> Vec<u8> {
        qemu_img(&["convert", "-O", "raw", name, "all"], self.0.path());
        std::fs::read(self.path("all")).unwrap()
    }
}

fn write(driver: &Driver, sector: u64, bytes: &[u8]) {
    let at = driver.put(bytes);
    let done = do_request(driver, 1, sector, &[(at, bytes.len() as u32, false)]);
    assert_eq!(done, (OK, 1));
}

fn read(driver: &Driver, sector: u64, len: u32) -> Vec<u8> {
    let at = driver.room(len as usize);
    let done = do_request(driver, 0, sector, &[(at, len, true)]);
    assert_eq!(done, (OK, len + 1));
    driver.get(at, len as usize)
}

fn flush(driver: &Driver) {
    assert_eq!(do_request(driver, 4, 0, &[]).0, OK);
}

fn an_overlay_is_written_and_what_is_below_is_not() {
    let images = Images::new();
    let mut whole = pattern(SIZE as usize, 1);
    let driver = images.driver("top,format=qcow2,backing=base");
    assert_eq!(driver.config(0, 8), (SIZE / 512).to_le_bytes());
    // A sector in the middle of a cluster, a bit of two clusters, and more than goes at a time.
    for (sector, len) in [(3, 512), (127, 1024), (1000, 300 << 10)] {
        let start = sector as usize * 512;
        assert!(read(&driver, sector, len as u32) == whole[start..][..len]);
        let bytes = pattern(len, 9);
        write(&driver, sector, &bytes);
        whole[start..][..len].copy_from_slice(&bytes);
        assert!(read(&driver, sector, len as u32) == bytes);
    }
    flush(&driver);
    drop(driver);
    assert!(std::fs::read(images.path("base")).unwrap() == pattern(SIZE as usize, 1));
    assert!(images.content("top") == whole);
    qemu_img(&["check", "top"], images.0.path());
    // And so the next time.
    let driver = images.driver("top,format=qcow2,backing=base,ro");
    assert!(read(&driver, 1000, 64 << 10) == whole[512_000..][..64 << 10]);
}

fn layers_go_as_deep_as_is_said() {
    let images = Images::new();
    let words = [
        "create", "-q", "-f", "qcow2", "-b", "top", "-F", "qcow2", "tip",
    ];
    qemu_img(&words, images.0.path());
    write(
        &images.driver("top,format=qcow2,backing=base"),
        8,
        &pattern(512, 5),
    );
    let driver = images.driver("tip,format=qcow2,backing=top,backing=base");
    assert!(read(&driver, 8, 512) == pattern(512, 5));
    assert!(read(&driver, 0, 4096) == pattern(4096, 1));
    write(&driver, 8, &pattern(512, 6));
    flush(&driver);
    drop(driver);
    let driver = images.driver("top,format=qcow2,backing=base,ro");
    assert!(read(&driver, 8, 512) == pattern(512, 5));
}

fn nothing_is_opened_that_was_not_said() {
    let images = Images::new();
    let refused = |options: &str, named: &str| {
        let error = images.open(options).map(drop).unwrap_err().to_string();
        assert!(error.contains(named), "{options}: {error}");
    };
    refused("top,format=qcow2", "stands on base");
    refused("top,format=qcow2,backing=gone", "gone");
    refused("base,format=qcow2", "qcow2");
    refused(
        "top,format=qcow2,backing=base,backing=base",
        "no other image",
    );
    qemu_img(
        &["create", "-q", "-f", "qcow2", "alone", "1M"],
        images.0.path(),
    );
    refused("alone,format=qcow2,backing=base", "no other image");
    let words = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "data_file=data",
        "split",
        "1M",
    ];
    qemu_img(&words, images.0.path());
    refused("split,format=qcow2", "another file");
    // It says that what is below is something that is not known here.
    let words = ["rebase", "-q", "-u", "-b", "base", "-F", "vmdk", "top"];
    qemu_img(&words, images.0.path());
    refused("top,format=qcow2,backing=base", "'vmdk'");
    // One that is written is nobody else's.
    let words = [
        "create", "-q", "-f", "qcow2", "-b", "alone", "-F", "qcow2", "second",
    ];
    qemu_img(&words, images.0.path());
    let _written = images.driver("alone,format=qcow2");
    let second = images.open("second,format=qcow2,backing=alone").unwrap();
    assert!(matches!(second.lock(), Err(BlockError::InUse(_))));
}

fn what_counts_its_own_header_as_free_is_not_written() {
    let images = Images::new();
    for bits in ["1", "8", "16", "64"] {
        let option = format!("refcount_bits={bits}");
        let words = [
            "create", "-q", "-f", "qcow2", "-o", &option, "counted", "1M",
        ];
        qemu_img(&words, images.0.path());
        let path = images.path("counted");
        let whole = std::fs::read(&path).unwrap();
        let table = u64::from_be_bytes(whole[48..56].try_into().unwrap()) as usize;
        let block = u64::from_be_bytes(whole[table..table + 8].try_into().unwrap()) as usize;
        // No table, no block, and a block in which all is free.
        for (at, len) in [(56, 4), (table, 8), (block, 512)] {
            let mut broken = whole.clone();
            broken[at..at + len].fill(0);
            std::fs::write(&path, broken).unwrap();
            let open = |options| images.open(options).unwrap().access();
            let error = open("counted,format=qcow2").unwrap_err().to_string();
            assert!(error.contains("header"), "{bits} {at}: {error}");
            // Reading needs no counts.
            open("counted,format=qcow2,ro").unwrap();
        }
        // What it is told to do about it helps.
        let _ = Command::new("qemu-img")
            .args(["check", "-q", "-r", "all", "counted"])
            .current_dir(images.0.path())
            .output();
        let driver = images.driver("counted,format=qcow2");
        write(&driver, 0, &pattern(512, 6));
        assert!(read(&driver, 0, 512) == pattern(512, 6));
    }
}

fn discarded_and_zeroed_sectors_of_a_layer_read_as_zeroes() {
    let images = Images::new();
    let driver = images.driver("top,format=qcow2,backing=base");
    for (kind, flags) in [(13u32, 0u32), (13, 1), (11, 0)] {
        write(&driver, 0, &pattern(256 << 10, 4));
        let range = [
            100u64.to_le_bytes(),
            (300u64 | u64::from(flags) << 32).to_le_bytes(),
        ];
        let at = driver.put(&range.concat());
        assert_eq!(do_request(&driver, kind, 0, &[(at, 16, false)]).0, OK);
        let back = read(&driver, 0, 256 << 10);
        let (start, end) = (100 * 512, 400 * 512);
        let before = pattern(256 << 10, 4);
        assert!(back[..start] == before[..start] && back[end..] == before[end..]);
        assert!(kind == 11 || back[start..end].iter().all(|&byte| byte == 0));
    }
    flush(&driver);
    drop(driver);
    qemu_img(&["check", "top"], images.0.path());
}

fn a_raw_disk_is_raw_whatever_its_guest_writes_there() {
    let images = Images::new();
    qemu_img(
        &["create", "-q", "-f", "raw", "disk", "8M"],
        images.0.path(),
    );
    let overlay = std::fs::read(images.path("top")).unwrap();
    let driver = images.driver("disk");
    write(&driver, 0, &overlay[..4096]);
    drop(driver);
    let driver = images.driver("disk");
    assert_eq!(driver.config(0, 8), (SIZE / 512).to_le_bytes());
    assert!(read(&driver, 0, 4096) == overlay[..4096]);
}
