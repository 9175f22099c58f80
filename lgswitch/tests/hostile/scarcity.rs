//! No room on the filesystem, no descriptors left.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use lgswitch::port::Sent;
use lgswitch::port::counters::TxDrop;
use lgswitch::{CreateOptions, Error, Gather, PortOptions, Segment, VnetHeader};
use nix::sys::resource::{Resource, setrlimit};

use super::role::{self, Actor, BROADCAST, mac, stderr};

/// The role: a port is there, and then descriptors run out.
pub fn with_few_descriptors() {
    let path = role::segment_path();
    let segment = Segment::open(&path).unwrap();
    let (mut tx, mut rx) = role::join(&segment, 0);
    let (mut other, _rx) = role::join(&segment, 1);
    setrlimit(Resource::RLIMIT_NOFILE, 0, 0).unwrap();
    let refused = segment.port(PortOptions::default()).unwrap_err();
    eprintln!("{refused}: {:?}", std::error::Error::source(&refused));
    let unopened = Segment::open(&path).unwrap_err();
    eprintln!("{unopened}: {:?}", std::error::Error::source(&unopened));
    // Rings are mapped when first used; that takes no descriptor.
    assert_eq!(role::send(&mut other, mac(0), 1, 100), Sent::Done);
    assert_eq!(role::send(&mut tx, BROADCAST, 2, 100), Sent::Done);
    other.flush();
    let mut heard = 0;
    rx.recv(64, |_| {
        heard += 1;
        lgswitch::port::Verdict::Taken
    });
    assert_eq!(heard, 1);
}

/// The claim.
pub fn without_descriptors_a_port_is_refused_in_a_sentence_and_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("few");
    Segment::create(&path, &CreateOptions::default()).unwrap();
    let output = Actor::start("few-descriptors", &path, 0).end();
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    for line in lines {
        assert!(line.contains(path.to_str().unwrap()), "{line}");
        assert!(
            line.contains("Too many open files") || line.contains("EMFILE"),
            "{line}"
        );
    }
}

/// The role: makes a segment with so many descriptors more than it has.
pub fn make_with_few_descriptors() {
    let path = role::segment_path();
    let limit = 3 + role::index() as u64;
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit).unwrap();
    let made = Segment::create(&path, &CreateOptions::default())
        .and_then(|segment| segment.port(PortOptions::default()));
    if let Err(error) = made {
        eprintln!("{error}");
    }
}

/// The claim.
pub fn however_few_descriptors_a_segment_is_made_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let mut refusals = 0;
    for more in 0..8 {
        let path = folder.path().join(more.to_string());
        let output = Actor::start("maker", &path, more).end();
        let said = stderr(&output);
        assert!(output.status.success(), "{said}");
        refusals += usize::from(!said.is_empty());
        assert!(said.lines().count() < 2, "{said}");
        assert!(
            said.is_empty() || said.contains("Too many open files"),
            "{said}"
        );
        assert!(!path.exists() || Segment::open(&path).is_ok(), "half made");
        assert!(!said.is_empty() || path.exists());
    }
    assert!((1..8).contains(&refusals), "{refusals} refusals");
}

/// `unshare` with what it takes to mount: root, or a user namespace.
fn in_a_mount_namespace() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user"]);
    command
}

/// Whether a tmpfs can be mounted where nobody else sees it.
pub fn tiny_tmpfs_is_possible() -> bool {
    let folder = tempfile::tempdir().unwrap();
    in_a_mount_namespace()
        .args(["mount", "-t", "tmpfs", "tiny"])
        .arg(folder.path())
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Writes until there is no room; gives back the path of what it wrote.
fn fill(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("filler");
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    path
}

/// A broadcast of 64 KiB of TCP over IPv4, to be cut, and its header.
fn large_segment() -> (VnetHeader, Vec<u8>) {
    let (ethernet, ip, tcp) = (14, 20, 20);
    let mut bytes = [BROADCAST.octets(), mac(0).octets()].concat();
    bytes.extend([0x08, 0x00, 0x45]);
    bytes.resize(ethernet + 65_500, 0);
    bytes[ethernet + 9] = 6;
    bytes[ethernet + ip + 12] = 0x50;
    let header = VnetHeader {
        flags: VnetHeader::NEEDS_CHECKSUM,
        gso_type: VnetHeader::GSO_TCPV4,
        header_len: ethernet as u16 + ip as u16 + tcp,
        gso_size: 1460,
        checksum_start: ethernet as u16 + ip as u16,
        checksum_offset: 16,
    };
    (header, bytes)
}

/// The role, inside the mount namespace: `segment` names a file on a tmpfs of 4 MiB.
pub fn on_a_tiny_tmpfs() {
    lgswitch::sigbus::install(None);
    let path = role::segment_path();
    let folder = path.parent().unwrap();
    let options = CreateOptions::default();
    let filler = fill(folder);
    let unmade = Segment::create(&path, &options).unwrap_err();
    assert!(matches!(unmade, Error::NoRoom { .. }), "{unmade}");
    assert!(!path.exists(), "half made");
    std::fs::remove_file(&filler).unwrap();

    let segment = Segment::create(&path, &options).unwrap();
    let (mut tx, _rx) = role::join(&segment, 0);
    let (_tx, mut rx) = role::join(&segment, 1);
    let filler = fill(folder);
    let unjoined = segment.port(PortOptions::default()).unwrap_err();
    assert!(matches!(unjoined, Error::NoRoom { .. }), "{unjoined}");
    for to in [mac(1), BROADCAST] {
        let sent = role::send(&mut tx, to, 1, 100);
        assert_eq!(sent, Sent::Dropped(TxDrop::NoMemory));
        tx.flush();
    }
    assert_eq!(tx.counters().dropped[TxDrop::NoMemory as usize], 2);
    std::fs::remove_file(&filler).unwrap();

    for to in [mac(1), BROADCAST] {
        assert_eq!(role::send(&mut tx, to, 1, 100), Sent::Done);
    }
    tx.flush();
    let mut heard = 0;
    rx.recv(64, |_| {
        heard += 1;
        lgswitch::port::Verdict::Taken
    });
    assert_eq!(heard, 2, "once there is room again");

    // A flood that is cut into packets, of which the log's first pages take most and no more.
    let _filler = fill(folder);
    let (header, segments) = large_segment();
    let parts = [segments.as_slice().into()];
    let sent = tx.send(&header, &Gather::new(&parts));
    assert_eq!(sent, Sent::Dropped(TxDrop::NoMemory));
    tx.flush();
    let mut heard = 0;
    rx.recv(64, |_| {
        heard += 1;
        lgswitch::port::Verdict::Taken
    });
    assert!(heard > 20, "told of {heard} packets that were written");
}

/// The claim.
pub fn a_full_filesystem_is_an_error_or_a_counted_drop() {
    let folder = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=4m tiny \"$1\" && exec \"$2\"";
    let output = in_a_mount_namespace()
        .args(["sh", "-c", script, "sh"])
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .env("HOSTILE_ROLE", "tiny-tmpfs")
        .env("HOSTILE_SEGMENT", folder.path().join("full"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}
