//! What a failed set-up leaves: nothing it made, everything it did not.

use netsetup::{
    BridgeOptions, BridgePlan, InterfaceAddress, TapName, TapOptions, TapPlan, Transaction,
};

use crate::lab::{
    Lab, addresses, ip, is_up, names, need_tun, plain_link, says, show, show_settings, shown,
};
use crate::tests;

tests![
    a_failed_setup_leaves_no_tap,
    a_failed_setup_leaves_no_persistent_tap,
    a_failed_setup_leaves_an_existing_tap_as_it_was,
    a_failed_setup_leaves_no_bridge,
    a_failed_setup_leaves_an_existing_bridge_as_it_was,
    an_uncommitted_transaction_is_undone_in_reverse,
    a_committed_transaction_stays,
    undoing_goes_on_past_what_cannot_be_undone,
];

/// An address that parses and that the kernel refuses once [`switch_ipv6_off`] was called.
fn refused_address() -> InterfaceAddress {
    "::1/128".parse().unwrap()
}

fn switch_ipv6_off() {
    for file in ["all", "default"] {
        // A kernel without IPv6 has no such file, and is as we want it.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{file}/disable_ipv6"), "1");
    }
}

fn failing_plan(name: &str, persistent: bool) -> TapPlan {
    need_tun();
    switch_ipv6_off();
    TapPlan {
        tap: TapOptions {
            name: TapName::Exact(name.parse().unwrap()),
            mtu: Some(1400),
            mac: Some("02:00:00:00:00:77".parse().unwrap()),
            persistent,
            ..TapOptions::default()
        },
        bridge: None,
        addresses: vec!["192.0.2.1/24".parse().unwrap(), refused_address()],
        up: true,
    }
}

fn a_failed_setup_leaves_no_tap(lab: &Lab) {
    let error = lab.net.setup_tap(&failing_plan("half", false)).unwrap_err();
    says(&error, &["give half the address ::1/128"]);
    assert_eq!(shown("half"), None);
}

fn a_failed_setup_leaves_no_persistent_tap(lab: &Lab) {
    lab.net.setup_tap(&failing_plan("half", true)).unwrap_err();
    assert_eq!(shown("half"), None);
    lab.net.create_tap(&failing_plan("half", true)).unwrap_err();
    assert_eq!(shown("half"), None);
}

fn a_failed_setup_leaves_an_existing_tap_as_it_was(lab: &Lab) {
    ip("tuntap add dev old mode tap");
    ip("addr add 198.51.100.1/24 dev old");
    let plan = failing_plan("old", true);
    let before = show_settings("old");
    lab.net.setup_tap(&plan).unwrap_err();
    lab.net.create_tap(&plan).unwrap_err();
    assert_eq!(show_settings("old"), before);
    assert_eq!(addresses("old"), ["198.51.100.1/24"]);
}

fn failing_bridge() -> BridgePlan {
    switch_ipv6_off();
    BridgePlan {
        name: "br0".parse().unwrap(),
        options: BridgeOptions::default(),
        addresses: vec!["192.0.2.1/24".parse().unwrap(), refused_address()],
        up: true,
    }
}

fn a_failed_setup_leaves_no_bridge(lab: &Lab) {
    lab.net.setup_bridge(&failing_bridge()).unwrap_err();
    assert!(names().is_empty());
}

fn a_failed_setup_leaves_an_existing_bridge_as_it_was(lab: &Lab) {
    ip("link add br0 type bridge");
    ip("addr add 192.0.2.1/24 dev br0");
    let plan = failing_bridge();
    let before = show("br0");
    lab.net.setup_bridge(&plan).unwrap_err();
    assert_eq!(show("br0"), before);
}

fn an_uncommitted_transaction_is_undone_in_reverse(lab: &Lab) {
    plain_link("d0");
    ip("link set d0 address 02:00:00:00:00:01");
    ip("addr add 198.51.100.1/24 dev d0");
    let before = show("d0");
    let (bridge, port) = ("br0".parse().unwrap(), "d0".parse().unwrap());
    let mut transaction = Transaction::begin(&lab.net);
    transaction
        .create_bridge(&bridge, &BridgeOptions::default())
        .unwrap();
    transaction
        .set_mac(&port, "02:00:00:00:00:99".parse().unwrap())
        .unwrap();
    transaction.set_mtu(&port, 1400).unwrap();
    transaction
        .add_address(&port, "192.0.2.1/24".parse().unwrap())
        .unwrap();
    transaction.set_master(&port, &bridge).unwrap();
    transaction.set_up(&port).unwrap();
    assert_eq!(show("d0")["master"], "br0");
    drop(transaction);
    assert_eq!(names(), ["d0"]);
    assert!(!is_up("d0"));
    assert_eq!(addresses("d0"), ["198.51.100.1/24"]);
    let after = show("d0");
    for same in ["address", "mtu", "flags", "addr_info"] {
        assert_eq!(after[same], before[same], "{same}");
    }
}

fn a_committed_transaction_stays(lab: &Lab) {
    let bridge = "br0".parse().unwrap();
    let mut transaction = Transaction::begin(&lab.net);
    transaction
        .create_bridge(&bridge, &BridgeOptions::default())
        .unwrap();
    transaction.set_up(&bridge).unwrap();
    transaction.commit();
    assert!(is_up("br0"));
}

fn undoing_goes_on_past_what_cannot_be_undone(lab: &Lab) {
    plain_link("d0");
    let (bridge, port) = ("br0".parse().unwrap(), "d0".parse().unwrap());
    let mut transaction = Transaction::begin(&lab.net);
    transaction
        .create_bridge(&bridge, &BridgeOptions::default())
        .unwrap();
    transaction.set_up(&port).unwrap();
    ip("link del d0");
    drop(transaction);
    assert!(names().is_empty());
}
