//! Macvtaps: made, opened, and carrying frames.

use std::path::Path;

use netsetup::{Change, InterfaceName, MacvtapMode, MacvtapOpening, MacvtapOptions};

use crate::lab::{Lab, cannot_run, ip, names, says, show};
use crate::tests;

tests![
    a_macvtap_is_as_asked_and_idempotent,
    other_settings_are_in_the_way,
    frames_cross_between_two_macvtaps,
    closing_leaves_the_link,
    only_a_macvtap_is_opened_as_one,
    a_device_of_another_namespace_is_not_taken_for_ours,
    one_of_our_own_is_seen_by_nobody_and_carries_frames,
    one_of_our_own_vanishes_with_its_descriptors,
    one_of_our_own_sits_on_what_is_there,
];

const OPENING: MacvtapOpening = MacvtapOpening {
    vnet_hdr: false,
    queues: 1,
    nonblocking: false,
};

fn name(text: &str) -> InterfaceName {
    text.parse().unwrap()
}

fn on_a_bridge() -> MacvtapOptions {
    ip("link add under type bridge");
    ip("link set under up");
    MacvtapOptions {
        lower: name("under"),
        mode: MacvtapMode::Bridge,
        mac: None,
    }
}

fn create(lab: &Lab, text: &str, options: &MacvtapOptions) -> netsetup::Result<Change> {
    match lab.net.create_macvtap(&name(text), options) {
        Err(e) if e.errno() == Some(nix::errno::Errno::EOPNOTSUPP) => cannot_run(e.to_string()),
        outcome => outcome,
    }
}

/// Opening needs the node in /dev, which the whole machine shares.
fn open(lab: &Lab, text: &str) -> netsetup::Tap {
    let index = show(text)["ifindex"].as_u64().unwrap();
    if !Path::new(&format!("/dev/tap{index}")).exists() {
        cannot_run(format!("nothing makes /dev/tap{index} here"));
    }
    match lab.net.open_macvtap(&name(text), OPENING) {
        Err(e) if e.is_permission() => cannot_run(e.to_string()),
        outcome => outcome.unwrap(),
    }
}

/// Makes a macvtap with an index of its own: other namespaces, which count alike, have few links.
fn create_with_index(lab: &Lab, text: &str, index: u32) {
    ip(&format!(
        "link add {text} index {index} link under type macvtap mode bridge"
    ));
    assert_eq!(lab.net.link(&name(text)).unwrap().unwrap().index, index);
    ip(&format!("link set {text} up"));
}

fn a_macvtap_is_as_asked_and_idempotent(lab: &Lab) {
    let options = MacvtapOptions {
        mac: Some("02:00:00:00:00:42".parse().unwrap()),
        ..on_a_bridge()
    };
    assert_eq!(create(lab, "mv0", &options).unwrap(), Change::Changed);
    let link = show("mv0");
    assert_eq!(
        (&link["address"], &link["link"]),
        (&"02:00:00:00:00:42".into(), &"under".into())
    );
    assert_eq!(link["linkinfo"]["info_data"]["mode"], "bridge");
    assert_eq!(create(lab, "mv0", &options).unwrap(), Change::Unchanged);
}

fn other_settings_are_in_the_way(lab: &Lab) {
    let options = on_a_bridge();
    create(lab, "mv0", &options).unwrap();
    let vepa = MacvtapOptions {
        mode: MacvtapMode::Vepa,
        ..options.clone()
    };
    says(
        &create(lab, "mv0", &vepa).unwrap_err(),
        &["mv0", "another mode"],
    );
    ip("link add else type bridge");
    let elsewhere = MacvtapOptions {
        lower: name("else"),
        ..options.clone()
    };
    says(
        &create(lab, "mv0", &elsewhere).unwrap_err(),
        &["mv0", "another link"],
    );
    says(
        &create(lab, "else", &options).unwrap_err(),
        &["else is a bridge, not a macvtap"],
    );
}

fn frames_cross_between_two_macvtaps(lab: &Lab) {
    on_a_bridge();
    create_with_index(lab, "mv0", 70_001);
    create_with_index(lab, "mv1", 70_002);
    let (left, right) = (open(lab, "mv0"), open(lab, "mv1"));
    let mut frame = [0xa5_u8; 60];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    // An EtherType for local experiments (IEEE 802a).
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    nix::unistd::write(&left.queues[0], &frame).unwrap();
    let mut buffer = [0; 2048];
    loop {
        let len = nix::unistd::read(&right.queues[0], &mut buffer).unwrap();
        if buffer[12..14] == [0x88, 0xb5] {
            assert_eq!(&buffer[..len], &frame);
            break;
        }
    }
}

fn closing_leaves_the_link(lab: &Lab) {
    on_a_bridge();
    create_with_index(lab, "mv0", 70_011);
    drop(open(lab, "mv0"));
    assert_eq!(names(), ["mv0", "under"]);
    assert_eq!(lab.net.delete_link(&name("mv0")).unwrap(), Change::Changed);
}

fn only_a_macvtap_is_opened_as_one(lab: &Lab) {
    on_a_bridge();
    says(
        &lab.net.open_macvtap(&name("under"), OPENING).unwrap_err(),
        &["under is a bridge, not a macvtap"],
    );
}

fn a_device_of_another_namespace_is_not_taken_for_ours(lab: &Lab) {
    on_a_bridge();
    create_with_index(lab, "mv0", 70_021);
    open(lab, "mv0");
    // Same name, same index, elsewhere: the node in /dev stays the first one's.
    let first = netsetup::Netns::current().unwrap();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let second = Lab {
        net: netsetup::NetSetup::new().unwrap(),
    };
    on_a_bridge();
    create_with_index(&second, "mv0", 70_021);
    says(
        &second.net.open_macvtap(&name("mv0"), OPENING).unwrap_err(),
        &["/dev/tap70021", "another namespace"],
    );
    drop(first);
}

fn own(lab: &Lab, options: &MacvtapOptions) -> netsetup::Tap {
    match lab.net.setup_macvtap(options, OPENING) {
        Err(e) if e.errno() == Some(nix::errno::Errno::EOPNOTSUPP) => cannot_run(e.to_string()),
        Err(e) if e.errno() == Some(nix::errno::Errno::ENOENT) => cannot_run(e.to_string()),
        outcome => outcome.unwrap(),
    }
}

/// A frame from `left` to `to`, and whether `right` gets it before another one to all.
fn arrives(left: &netsetup::Tap, right: &netsetup::Tap, to: [u8; 6]) -> bool {
    let send = |to: &[u8; 6], what: u8| {
        let mut frame = [what; 60];
        frame[..6].copy_from_slice(to);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        nix::unistd::write(&left.queues[0], &frame).unwrap();
    };
    send(&to, 1);
    send(&[0xff; 6], 2);
    let mut seen = false;
    let mut buffer = [0; 2048];
    loop {
        let len = nix::unistd::read(&right.queues[0], &mut buffer).unwrap();
        match buffer[12..15] {
            [0x88, 0xb5, 1] => seen = true,
            [0x88, 0xb5, 2] => return seen,
            _ => assert!(len >= 14),
        }
    }
}

fn one_of_our_own_is_seen_by_nobody_and_carries_frames(lab: &Lab) {
    let mac = [2, 0, 0, 0, 0, 2];
    let options = on_a_bridge();
    let left = own(lab, &options);
    let right = own(
        lab,
        &MacvtapOptions {
            mac: Some(mac.into()),
            ..options
        },
    );
    assert!(left.created && right.created);
    assert_eq!(names(), ["under"]);
    assert!(arrives(&left, &right, mac));
    // Neighbour discovery asks a group that the link was never told of.
    assert!(arrives(&left, &right, [0x33, 0x33, 0xff, 1, 2, 3]));
    assert!(!arrives(&left, &right, [2, 0, 0, 0, 0, 3]));
}

/// The lower link is promiscuous to groups for as long as it carries a macvtap of our own.
fn one_of_our_own_vanishes_with_its_descriptors(lab: &Lab) {
    let tap = own(lab, &on_a_bridge());
    let carries = || show("under")["allmulti"] != 0;
    assert!(carries());
    let copy = tap.queues[0].try_clone().unwrap();
    drop(tap);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(carries(), "a copy of the descriptor should keep it");
    drop(copy);
    for _ in 0..500 {
        if !carries() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("it is still there");
}

fn one_of_our_own_sits_on_what_is_there(lab: &Lab) {
    let options = MacvtapOptions {
        lower: name("nothing"),
        ..on_a_bridge()
    };
    says(
        &lab.net.setup_macvtap(&options, OPENING).unwrap_err(),
        &["Cannot make a macvtap on nothing", "no interface nothing"],
    );
}
