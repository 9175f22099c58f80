//! What bad input gets: one sentence on stderr that names the thing, exit status 1 (2 for a wrong
//! command line), and nothing left behind.
//!
//! Runs the binary itself. Kernels and QEMU are stand-ins, so that each test has exactly one thing
//! wrong; guests that boot are the system tests' business.

// What a test does to set itself up either works or is the test's failure.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use lgswitch::{CreateOptions, Segment};

/// A user who owns nothing (`nobody`), for tests of permissions that would not hold for root.
const NOBODY: u32 = 65534;

/// A folder of our own with a kernel, a QEMU that fails as told, and places for whatever the
/// launcher might leave.
struct Bench {
    folder: tempfile::TempDir,
    unprivileged: bool,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
            unprivileged: false,
        };
        for name in ["bin", "sharenets", "tmp"] {
            fs::create_dir(bench.path(name)).unwrap();
        }
        bench.qemu("echo 'qemu-system-x86_64: no such luck' >&2; exit 1");
        bench.file("kernel", &bz_image());
        bench
    }

    /// The same, for a launcher without privileges: its files are open to all, and if we are root
    /// it runs as nobody, from a copy nobody can reach.
    fn unprivileged() -> Self {
        let bench = Self {
            unprivileged: true,
            ..Self::new()
        };
        fs::copy(env!("CARGO_BIN_EXE_launcher"), bench.path("bin/launcher")).unwrap();
        for name in [
            "",
            "bin",
            "bin/launcher",
            "bin/qemu-system-x86_64",
            "sharenets",
            "tmp",
            "kernel",
        ] {
            fs::set_permissions(bench.path(name), Permissions::from_mode(0o777)).unwrap();
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes QEMU this shell script.
    fn qemu(&self, script: &str) {
        let path = self.path("bin/qemu-system-x86_64");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }

    fn file(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Output {
        let program = match self.unprivileged {
            true => self.path("bin/launcher"),
            false => env!("CARGO_BIN_EXE_launcher").into(),
        };
        let mut command = Command::new(program);
        command
            .args(words)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("LGSWITCH_DIR", self.path("sharenets"))
            .env("TMPDIR", self.path("tmp"))
            .stdin(Stdio::null());
        if self.unprivileged && nix::unistd::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        // Another test's child, forked while our copy of the program was being written, holds the
        // copy open for writing until it has execed.
        for _ in 0..100 {
            match command.output() {
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                output => return output.unwrap(),
            }
        }
        panic!("the program's copy stays busy")
    }

    /// Runs it and checks what holds for every refusal. `named` are parts of its one sentence.
    #[track_caller]
    fn refuses<S: AsRef<OsStr>>(&self, words: &[S], status: i32, named: &[&str]) {
        let before = self.everything();
        let output = self.run(words);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{message}");
        assert!(
            message.starts_with("launcher: ") && message.ends_with('\n'),
            "{message}"
        );
        assert_eq!(message.lines().count(), 1, "{message}");
        for part in named {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
        assert_eq!(output.stdout, b"");
        assert_eq!(self.everything(), before, "something was left behind");
    }

    /// All files below the bench, and the host's taps.
    fn everything(&self) -> Vec<PathBuf> {
        let mut found = taps();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                }
                found.push(entry.path());
            }
        }
        found.sort();
        found
    }
}

/// Interfaces that the bench's launchers could have made: `tap0`, `tap1`, …
fn taps() -> Vec<PathBuf> {
    let links = fs::read_dir("/sys/class/net")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    links
        .filter(|link| link.join("tun_flags").exists())
        .collect()
}

/// The least a bzImage can be: two sectors of setup and 1 KiB of code, protocol 2.15
/// (Documentation/arch/x86/boot.rst).
fn bz_image() -> Vec<u8> {
    let mut bytes = vec![0; 3 * 512 + 1024];
    for (at, field) in [
        (0x1f1, &[2][..]),
        (0x1f4, &64u32.to_le_bytes()),
        (0x1fe, &[0x55, 0xaa]),
        (0x202, b"HdrS"),
        (0x206, &0x020fu16.to_le_bytes()),
        (0x211, &[1]),
        (0x238, &2047u32.to_le_bytes()),
    ] {
        bytes[at..at + field.len()].copy_from_slice(field);
    }
    bytes
}

/// A 64-bit x86 kernel in ELF without a PVH note: one segment of `len` bytes.
fn elf64(len: u64) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [0x10_0000u64, 64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    for half in [0u16, 0, 64, 56, 1, 0, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    bytes.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, 0x10_0000, 0x10_0000, len, len, 4096] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.resize(len as usize, 0x90);
    bytes
}

/// A 32-bit x86 kernel in ELF that says it can be an lguest guest.
fn lguest_elf() -> Vec<u8> {
    let mut bytes = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0\x01\0\0\0".to_vec();
    for word in [0xc010_0000u32, 52, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    for half in [52u16, 32, 1, 0, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    for word in [1u32, 0, 0xc010_0000, 0x10_0000, 200, 200, 5, 4096] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(b"GenuineLguest");
    bytes.resize(200, 0);
    bytes
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let bench = Bench::new();
    for (words, named) in [
        (&[][..], &["memory"][..]),
        (&["64"], &["kernel"]),
        (&["--frobnicate", "64", "kernel"], &["--frobnicate"]),
        (&["--engine=bochs", "64", "kernel"], &["bochs", "qemu"]),
        (
            &["64", "--block=disk", "kernel"],
            &["--block=disk", "before"],
        ),
        (
            &["--initrd=a", "--initrd=b", "64", "kernel"],
            &["--initrd=b"],
        ),
        (&["--sharenet=no such", "64", "kernel"], &["no such"]),
        (
            &["--sharenet=lan0,mac=01:00:00:00:00:00", "64", "kernel"],
            &["01:00:00:00:00:00"],
        ),
        (&["--sharenet=lan0,slot=682", "64", "kernel"], &["682"]),
    ] {
        bench.refuses(words, 2, named);
    }
}

#[test]
fn memory_that_is_none_is_a_usage_error() {
    let bench = Bench::new();
    for memory in ["0", "-1", "-512", "lots", "1.5", "512M", ""] {
        bench.refuses(&[memory, "kernel"], 2, &[memory, "MiB"]);
    }
}

#[test]
fn memory_beyond_the_hosts_is_refused() {
    let bench = Bench::new();
    for memory in ["99999999", "18446744073709551616"] {
        bench.refuses(&[memory, "kernel"], 1, &["more than this host", "MiB"]);
    }
}

#[test]
fn a_bad_tunnet_target_is_a_usage_error() {
    let bench = Bench::new();
    for target in [
        "192.168.19",
        "192.168.19.256",
        "10.0.0.1/33",
        "fe80::g",
        "0.0.0.0",
        "224.0.0.1",
        "127.0.0.1",
        "bridge:",
        "bridge:a/b",
        "macvtap:",
        "macvtap:sixteen-letters-",
    ] {
        let name = target.split_once(':').map_or(target, |(_, name)| name);
        bench.refuses(
            &[&format!("--tunnet={target}"), "64", "kernel"],
            2,
            &["--tunnet", name],
        );
    }
}

#[test]
fn a_file_that_is_no_kernel_is_named_and_called_what_it_is() {
    let bench = Bench::new();
    bench.file("text", b"Dear kernel,\n");
    bench.file("packed", b"\x1f\x8b\x08\0\0\0\0\0\0\x03");
    bench.file("empty", b"");
    let mut arm = elf64(4096);
    arm[18] = 183;
    bench.file("arm", &arm);
    let mut object = elf64(4096);
    object[16] = 1;
    bench.file("object.o", &object);
    for (kernel, named) in [
        ("missing", "No such file"),
        ("text", "neither"),
        ("packed", "gzip"),
        ("empty", "empty"),
        ("arm", "x86"),
        ("object.o", "not a program"),
        ("tmp", "directory"),
        ("/dev/null", "device"),
    ] {
        bench.refuses(&["64", kernel], 1, &[kernel, named]);
    }
}

#[test]
fn a_truncated_kernel_is_called_truncated() {
    let bench = Bench::new();
    for (whole, cuts) in [
        (bz_image(), &[0x240, 1000, 1536, 2500][..]),
        (elf64(8192), &[5, 40, 64, 100, 8191]),
    ] {
        for &cut in cuts {
            bench.file("cut", &whole[..cut]);
            bench.refuses(&["64", "cut"], 1, &["cut", "truncated"]);
        }
    }
}

#[test]
fn an_elf_kernel_without_a_way_in_is_refused() {
    let bench = Bench::new();
    bench.file("vmlinux", &elf64(8192));
    bench.refuses(&["64", "vmlinux"], 1, &["vmlinux", "CONFIG_PVH", "bzImage"]);
}

#[test]
fn a_bad_initrd_is_named() {
    let bench = Bench::new();
    bench.file("empty", b"");
    File::create(bench.path("huge"))
        .unwrap()
        .set_len(65 << 20)
        .unwrap();
    for (initrd, named) in [
        ("missing", "No such file"),
        ("empty", "empty"),
        ("tmp", "directory"),
        ("huge", "does not fit in the guest's 64 MiB"),
    ] {
        bench.refuses(
            &[&format!("--initrd={initrd}"), "64", "kernel"],
            1,
            &[initrd, named],
        );
    }
}

#[test]
fn a_kernel_larger_than_memory_is_refused() {
    let bench = Bench::new();
    let mut hungry = bz_image();
    hungry[0x260..0x264].copy_from_slice(&(100u32 << 20).to_le_bytes());
    bench.file("hungry", &hungry);
    bench.refuses(&["64", "hungry"], 1, &["hungry", "101 MiB", "64 MiB"]);
}

#[test]
fn arguments_the_kernel_would_not_read_are_refused() {
    let bench = Bench::new();
    bench.refuses(
        &["64", "kernel", &"x".repeat(2048)],
        1,
        &["arguments", "2047"],
    );
}

#[test]
fn a_bad_disk_is_named() {
    let bench = Bench::new();
    bench.file("empty", b"");
    bench.file("ragged", &[0; 1000]);
    for (disk, named) in [
        ("missing", "no disk"),
        ("empty", "empty"),
        ("ragged", "1000 bytes"),
        ("tmp", "directory"),
        ("/dev/null", "block device"),
    ] {
        bench.refuses(
            &[&format!("--block={disk}"), "64", "kernel"],
            1,
            &[disk, named],
        );
    }
}

#[test]
fn files_without_permission_are_named() {
    let bench = Bench::unprivileged();
    for (name, mode) in [("secret", 0), ("read-only", 0o444)] {
        bench.file(name, &[0; 4096]);
        fs::set_permissions(bench.path(name), Permissions::from_mode(mode)).unwrap();
    }
    bench.refuses(&["64", "secret"], 1, &["secret", "Permission denied"]);
    bench.refuses(
        &["--initrd=secret", "64", "kernel"],
        1,
        &["secret", "Permission denied"],
    );
    bench.refuses(
        &["--block=secret,ro", "64", "kernel"],
        1,
        &["secret", "No permission"],
    );
    bench.refuses(
        &["--block=read-only", "64", "kernel"],
        1,
        &["read-only", "No permission", ",ro"],
    );
}

#[test]
fn a_tap_without_permission_is_explained() {
    let bench = Bench::unprivileged();
    bench.refuses(&["--tunnet=10.99.0.1", "64", "kernel"], 1, &["tap", "root"]);
    bench.refuses(
        &["--tunnet=macvtap:lo", "64", "kernel"],
        1,
        &["network namespace", "root"],
    );
}

#[test]
fn a_missing_bridge_and_what_is_none_are_named() {
    let bench = Bench::new();
    for dry_run in [&[][..], &["--dry-run"]] {
        for bridge in ["nobr0", "lo"] {
            let option = format!("--tunnet=bridge:{bridge}");
            bench.refuses(
                &[dry_run, &[&option, "64", "kernel"]].concat(),
                1,
                &[bridge, "bridge"],
            );
        }
    }
}

#[test]
fn an_interface_that_is_missing_or_takes_no_macvtap_is_named() {
    let bench = Bench::new();
    for dry_run in [&[][..], &["--dry-run"]] {
        bench.refuses(
            &[dry_run, &["--tunnet=macvtap:nowire0", "64", "kernel"]].concat(),
            1,
            &["nowire0", "no interface"],
        );
    }
    // Without root it does not come so far.
    let what = match nix::unistd::geteuid().is_root() {
        true => "lo is no Ethernet",
        false => "network namespace",
    };
    bench.refuses(&["--tunnet=macvtap:lo", "64", "kernel"], 1, &[what]);
}

#[test]
fn a_failure_beside_a_sharenet_option_makes_no_sharenet() {
    let bench = Bench::new();
    bench.refuses(
        &["--sharenet=lan0", "--block=missing", "64", "kernel"],
        1,
        &["missing"],
    );
    bench.refuses(
        &["--sharenet=lan0", "--tunnet=bridge:nobr0", "64", "kernel"],
        1,
        &["nobr0"],
    );
}

#[test]
fn what_is_no_sharenet_is_named() {
    let bench = Bench::new();
    let folder = bench.path("sharenets");
    bench.file("sharenets/text", &[b'x'; 8192]);
    for name in ["short", "newer"] {
        Segment::create(&folder.join(name), &CreateOptions::default()).unwrap();
    }
    let open = |name| File::options().write(true).open(folder.join(name)).unwrap();
    open("short").set_len(1 << 20).unwrap();
    // The header is the second page, its version at byte 8.
    open("newer")
        .write_all_at(&99u32.to_le_bytes(), 4096 + 8)
        .unwrap();
    for (name, named) in [
        ("text", "sharenet"),
        ("short", "truncated"),
        ("newer", "version 99"),
    ] {
        let option = format!("--sharenet={name}");
        bench.refuses(&[&option, "64", "kernel"], 1, &[name, named]);
        bench.refuses(&["--dry-run", &option, "64", "kernel"], 1, &[name, named]);
    }
}

#[test]
fn slots_that_are_taken_are_told() {
    let bench = Bench::new();
    let options = CreateOptions {
        slots: 2,
        ..CreateOptions::default()
    };
    let segment = Segment::create(&bench.path("sharenets/full"), &options).unwrap();
    let first = segment.hold(None, "first").unwrap().slot();
    let held = segment.hold(Some(first), "first").unwrap();
    let option = format!("--sharenet=full,slot={first}");
    bench.refuses(
        &[&option, "64", "kernel"],
        1,
        &[&format!("Slot {first}"), "full"],
    );
    let _other = segment.hold(None, "second").unwrap();
    bench.refuses(
        &["--sharenet=full", "64", "kernel"],
        1,
        &["All 2 slots", "full"],
    );
    bench.refuses(
        &["--sharenet=full,slot=2", "64", "kernel"],
        1,
        &["no slot 2"],
    );
    drop(held);
}

#[test]
fn a_missing_qemu_is_told_with_its_package() {
    let bench = Bench::new();
    fs::remove_file(bench.path("bin/qemu-system-x86_64")).unwrap();
    bench.refuses(
        &["64", "kernel"],
        1,
        &[
            "qemu-system-x86_64 is not installed",
            "apt install qemu-system-x86",
        ],
    );
}

#[test]
fn an_lguest_guest_is_recognised_and_dies_with_its_reason() {
    let bench = Bench::new();
    // Its first instruction writes to address 0, which nothing is mapped to and nobody handles.
    bench.file("vmlinux", &lguest_elf());
    let reason = "The guest died: unhandled trap 14 at 0xc0100061";
    bench.refuses(&["64", "vmlinux"], 1, &[reason]);
    bench.refuses(&["--engine=lguest", "64", "vmlinux"], 1, &[reason]);
}

#[test]
fn what_cannot_be_an_lguest_guest_is_refused_before_anything_is_made() {
    let bench = Bench::new();
    bench.file("vmlinux", &lguest_elf());
    let mut untagged = lguest_elf();
    untagged[84] = b'g';
    bench.file("untagged", &untagged);
    bench.file("stock", &elf64(4096));
    let many = vec!["--sharenet=lan0"; 16];
    let long = "x".repeat(2048);
    let refused: [(&[&str], &[&str]); 7] = [
        (&["64", "untagged"], &["untagged", "no GenuineLguest"]),
        (&["64", "stock"], &["stock", "64 bits"]),
        (&["64", "kernel"], &["kernel", "no gzip header"]),
        (&["--cpus=2", "64", "vmlinux"], &["one processor"]),
        (
            &["--sharenet=lan0,mac=02:00:00:00:00:07", "64", "vmlinux"],
            &["makes its own"],
        ),
        (&["64", "vmlinux", &long], &["2048 bytes"]),
        (&["1", "vmlinux"], &["1 MiB"]),
    ];
    for (words, named) in refused {
        let words = [&["--engine=lguest", "--sharenet=lan0"], words].concat();
        bench.refuses(&words, 1, named);
    }
    bench.refuses(
        &[&many[..], &["64", "vmlinux"]].concat(),
        1,
        &["16 devices", "17"],
    );
    assert_eq!(fs::read_dir(bench.path("sharenets")).unwrap().count(), 0);
}

#[test]
fn what_qemu_complains_of_is_one_sentence() {
    let bench = Bench::new();
    for (script, named) in [
        (
            "echo \"qemu-system-x86_64: cannot set up guest memory 'ram'\" >&2; exit 1",
            "cannot set up guest memory 'ram'",
        ),
        (
            "echo 'qemu-system-x86_64: -device {\"a\":1}: no such thing' >&2; exit 1",
            "QEMU cannot run this guest: no such thing",
        ),
        ("kill -SEGV $$", "SIGSEGV"),
        ("exit 3", "exit status: 3"),
        ("exit 0", "ended without a word"),
    ] {
        bench.qemu(script);
        bench.refuses(&["64", "kernel"], 1, &[named]);
    }
}

#[test]
fn a_qemu_that_fails_leaves_no_socket() {
    let bench = Bench::new();
    let output = bench.run(&["--sharenet=lan0", "--sharenet=lan0", "64", "kernel"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read_dir(bench.path("tmp")).unwrap().count(), 0);
    // A sharenet that was missing is made, and stays, as the seed's did; its slots are free again.
    let segment = Segment::open(&bench.path("sharenets/lan0")).unwrap();
    assert_eq!(segment.hold(None, "next").unwrap().slot().get(), 0);
}

#[test]
fn a_qemu_that_cannot_be_started_is_named() {
    let bench = Bench::new();
    bench.file("bin/qemu-system-x86_64", b"#!/no/such/interpreter\n");
    bench.refuses(
        &["64", "kernel"],
        1,
        &["Cannot start", "qemu-system-x86_64"],
    );
}

#[test]
fn names_that_are_no_text_still_give_one_line() {
    let bench = Bench::new();
    let output = bench.run(&[OsStr::new("64"), OsStr::from_bytes(b"no\nsuch\xff")]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
    bench.refuses(
        &[
            OsStr::from_bytes(b"--sharenet=\xff"),
            OsStr::new("64"),
            OsStr::new("kernel"),
        ],
        2,
        &["--sharenet"],
    );
}

#[test]
fn a_dry_run_makes_nothing_and_shows_the_plan() {
    let bench = Bench::new();
    bench.file("disk", &[0; 4096]);
    let before = bench.everything();
    let output = bench.run(&[
        "--dry-run",
        "--block=disk,ro",
        "--sharenet=lan0",
        "64",
        "kernel",
        "quiet",
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let plan = String::from_utf8(output.stdout).unwrap();
    for line in [
        "engine    qemu",
        "memory    64 MiB",
        "vda       disk disk, read-only",
        "eth0      port on sharenet lan0",
        "console=ttyS0 panic=-1 quiet",
    ] {
        assert!(plan.contains(line), "{line:?} is not in:\n{plan}");
    }
    assert_eq!(bench.everything(), before);
}
