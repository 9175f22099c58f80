//! Bridges: how they are made, and what keeps them from being made.

use std::time::Duration;

use netsetup::{BridgeOptions, BridgePlan, Change};

use crate::lab::{Lab, addresses, ip, is_up, names, plain_link, says, show, shown};
use crate::tests;

tests![
    a_bridge_has_its_mac_from_the_first_moment,
    a_bridge_without_a_mac_gets_one_that_ports_do_not_change,
    settings_are_the_kernels,
    vlan_filtering_is_the_kernels,
    a_given_mtu_is_not_the_ports_to_change,
    an_impossible_mtu_leaves_no_bridge,
    creating_twice_changes_nothing_and_no_less,
    a_bridge_with_other_settings_is_in_the_way,
    a_link_that_is_no_bridge_is_in_the_way,
    deleting_refuses_what_is_no_bridge,
    deleting_leaves_the_ports,
    a_bridge_comes_with_its_addresses,
];

fn name() -> netsetup::InterfaceName {
    "br0".parse().unwrap()
}

/// `ip monitor` would miss nothing, but the first message is all that counts: the address of the
/// creating notification.
fn a_bridge_has_its_mac_from_the_first_moment(lab: &Lab) {
    let options = BridgeOptions {
        mac: Some("02:00:00:00:00:42".parse().unwrap()),
        ..BridgeOptions::default()
    };
    assert_eq!(
        lab.net.create_bridge(&name(), &options).unwrap(),
        Change::Changed
    );
    let link = show("br0");
    assert_eq!(link["linkinfo"]["info_kind"], "bridge");
    assert_eq!(link["address"], "02:00:00:00:00:42");
    assert!(!is_up("br0"));
}

fn a_bridge_without_a_mac_gets_one_that_ports_do_not_change(lab: &Lab) {
    lab.net
        .create_bridge(&name(), &BridgeOptions::default())
        .unwrap();
    let before = show("br0")["address"].clone();
    plain_link("d0");
    ip("link set d0 address 02:00:00:00:00:01");
    lab.net.set_master(&"d0".parse().unwrap(), &name()).unwrap();
    assert_eq!(show("br0")["address"], before);
}

fn settings_are_the_kernels(lab: &Lab) {
    let options = BridgeOptions {
        mac: None,
        mtu: Some(9000),
        stp: Some(true),
        vlan_filtering: None,
        ageing: Some(Duration::from_secs(60)),
    };
    lab.net.create_bridge(&name(), &options).unwrap();
    let link = show("br0");
    let data = &link["linkinfo"]["info_data"];
    assert_eq!(link["mtu"], 9000);
    assert_eq!(data["stp_state"], 1);
    assert_eq!(data["ageing_time"], 6000);
    let ours = lab.net.link(&name()).unwrap().unwrap().bridge.unwrap();
    assert_eq!((ours.stp, ours.ageing), (true, Duration::from_secs(60)));
}

fn a_given_mtu_is_not_the_ports_to_change(lab: &Lab) {
    for mtu in [1500, 9000] {
        let options = BridgeOptions {
            mtu: Some(mtu),
            ..BridgeOptions::default()
        };
        lab.net.create_bridge(&name(), &options).unwrap();
        plain_link("d0");
        ip("link set d0 mtu 1400 master br0");
        assert_eq!(show("br0")["mtu"], mtu);
        ip("link del d0");
        ip("link del br0");
    }
}

fn an_impossible_mtu_leaves_no_bridge(lab: &Lab) {
    for mtu in [0, 1, 67, 65536, u32::MAX] {
        let options = BridgeOptions {
            mtu: Some(mtu),
            ..BridgeOptions::default()
        };
        let error = lab.net.create_bridge(&name(), &options).unwrap_err();
        says(&error, &["br0", "mtu"]);
        assert!(names().is_empty());
    }
}

fn vlan_filtering_is_the_kernels(lab: &Lab) {
    // Skips where the kernel was built without it.
    ip("link add br1 type bridge vlan_filtering 1");
    let options = BridgeOptions {
        vlan_filtering: Some(true),
        ..BridgeOptions::default()
    };
    lab.net.create_bridge(&name(), &options).unwrap();
    assert_eq!(show("br0")["linkinfo"]["info_data"]["vlan_filtering"], 1);
    assert!(
        lab.net
            .link(&name())
            .unwrap()
            .unwrap()
            .bridge
            .unwrap()
            .vlan_filtering
    );
}

fn creating_twice_changes_nothing_and_no_less(lab: &Lab) {
    let options = BridgeOptions {
        stp: Some(false),
        ..BridgeOptions::default()
    };
    assert_eq!(
        lab.net.create_bridge(&name(), &options).unwrap(),
        Change::Changed
    );
    let before = show("br0");
    assert_eq!(
        lab.net.create_bridge(&name(), &options).unwrap(),
        Change::Unchanged
    );
    assert_eq!(
        lab.net
            .create_bridge(&name(), &BridgeOptions::default())
            .unwrap(),
        Change::Unchanged
    );
    assert_eq!(show("br0"), before);
}

fn a_bridge_with_other_settings_is_in_the_way(lab: &Lab) {
    ip("link add br0 address 02:00:00:00:00:01 type bridge");
    let none = BridgeOptions::default();
    for (options, word) in [
        (
            BridgeOptions {
                mac: Some("02:00:00:00:00:02".parse().unwrap()),
                ..none.clone()
            },
            "02:00:00:00:00:01",
        ),
        (
            BridgeOptions {
                mtu: Some(9000),
                ..none.clone()
            },
            "its MTU is 1500",
        ),
        (
            BridgeOptions {
                stp: Some(true),
                ..none.clone()
            },
            "does not run STP",
        ),
        (
            BridgeOptions {
                vlan_filtering: Some(true),
                ..none.clone()
            },
            "does not filter VLANs",
        ),
        (
            BridgeOptions {
                ageing: Some(Duration::from_secs(1)),
                ..none.clone()
            },
            "its ageing time is 300 s",
        ),
    ] {
        says(
            &lab.net.create_bridge(&name(), &options).unwrap_err(),
            &["create bridge br0", "it exists", word],
        );
    }
}

fn a_link_that_is_no_bridge_is_in_the_way(lab: &Lab) {
    plain_link("br0");
    let error = lab
        .net
        .create_bridge(&name(), &BridgeOptions::default())
        .unwrap_err();
    says(
        &error,
        &["Cannot create bridge br0", "br0 is a vxlan, not a bridge"],
    );
}

fn deleting_refuses_what_is_no_bridge(lab: &Lab) {
    plain_link("br0");
    says(
        &lab.net.delete_bridge(&name()).unwrap_err(),
        &["delete bridge br0", "a vxlan, not a bridge"],
    );
    assert_eq!(names(), ["br0"]);
}

fn deleting_leaves_the_ports(lab: &Lab) {
    ip("link add br0 type bridge");
    plain_link("d0");
    ip("link set d0 master br0");
    assert_eq!(lab.net.delete_bridge(&name()).unwrap(), Change::Changed);
    assert_eq!(names(), ["d0"]);
    assert_eq!(lab.net.delete_bridge(&name()).unwrap(), Change::Unchanged);
}

fn a_bridge_comes_with_its_addresses(lab: &Lab) {
    let wanted = ["192.0.2.1/24", "2001:db8::1/64"];
    let plan = BridgePlan {
        name: name(),
        options: BridgeOptions::default(),
        addresses: wanted.iter().map(|a| a.parse().unwrap()).collect(),
        up: true,
    };
    assert_eq!(lab.net.setup_bridge(&plan).unwrap(), Change::Changed);
    assert_eq!(addresses("br0"), wanted);
    assert!(is_up("br0"));
    assert_eq!(lab.net.setup_bridge(&plan).unwrap(), Change::Unchanged);
    assert_eq!(shown("br1"), None);
}
