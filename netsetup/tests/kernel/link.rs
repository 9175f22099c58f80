//! Links that exist: looking at them, changing them, what stands in the way.

use netsetup::{Change, InterfaceName, LinkKind, VethEnd};

use crate::lab::{Lab, ip, is_up, names, plain_link, says, show};
use crate::tests;

tests![
    what_is_seen_is_what_ip_sees,
    a_link_that_is_not_there_is_none,
    up_and_down_are_idempotent,
    mtu_and_mac_are_idempotent,
    attach_and_detach_are_idempotent,
    a_port_of_another_bridge_is_left_there,
    attaching_to_what_is_no_bridge_is_refused,
    every_change_names_a_missing_link,
    deleting_is_idempotent_and_spares_hardware,
    a_veth_pair_has_its_macs_and_is_idempotent,
    many_links_are_all_listed,
    one_untypable_name_hides_no_other_link,
    a_bridge_may_go_by_an_alternative_name,
    json_says_what_a_person_would_ask,
];

fn name(text: &str) -> InterfaceName {
    text.parse().unwrap()
}

fn what_is_seen_is_what_ip_sees(lab: &Lab) {
    ip("link add br0 address 02:00:00:00:00:01 type bridge");
    plain_link("d0");
    ip("link set d0 master br0");
    ip("link set d0 up");
    ip("link set br0 mtu 1400");
    ip("addr add 192.0.2.1/24 dev br0");
    let links = lab.net.links().unwrap();
    let by_name = |n: &str| links.iter().find(|l| l.name.as_str() == n).unwrap();
    let (lo, bridge, port) = (by_name("lo"), by_name("br0"), by_name("d0"));
    assert_eq!(lo.kind, LinkKind::Device);
    assert_eq!(
        (&bridge.kind, bridge.mtu, bridge.up),
        (&LinkKind::Bridge, 1400, false)
    );
    assert_eq!(bridge.mac.unwrap().to_string(), "02:00:00:00:00:01");
    assert_eq!(bridge.addresses, ["192.0.2.1/24".parse().unwrap()]);
    assert_eq!(
        (&port.kind, port.up, port.carrier),
        (&LinkKind::Vxlan, true, true)
    );
    assert_eq!(port.master, Some(name("br0")));
    for link in &links {
        let seen = show(link.name.as_str());
        assert_eq!(
            (&seen["ifindex"], &seen["mtu"]),
            (&link.index.into(), &link.mtu.into())
        );
        assert_eq!(lab.net.link(&link.name).unwrap().as_ref(), Some(link));
    }
}

fn a_link_that_is_not_there_is_none(lab: &Lab) {
    assert_eq!(lab.net.link(&name("nobody")).unwrap(), None);
}

fn up_and_down_are_idempotent(lab: &Lab) {
    plain_link("d0");
    assert_eq!(lab.net.set_up(&name("d0")).unwrap(), Change::Changed);
    assert!(is_up("d0"));
    assert_eq!(lab.net.set_up(&name("d0")).unwrap(), Change::Unchanged);
    assert_eq!(lab.net.set_down(&name("d0")).unwrap(), Change::Changed);
    assert!(!is_up("d0"));
    assert_eq!(lab.net.set_down(&name("d0")).unwrap(), Change::Unchanged);
}

fn mtu_and_mac_are_idempotent(lab: &Lab) {
    plain_link("d0");
    let mac = "02:00:00:00:00:07".parse().unwrap();
    assert_eq!(lab.net.set_mtu(&name("d0"), 1400).unwrap(), Change::Changed);
    assert_eq!(
        lab.net.set_mtu(&name("d0"), 1400).unwrap(),
        Change::Unchanged
    );
    assert_eq!(lab.net.set_mac(&name("d0"), mac).unwrap(), Change::Changed);
    assert_eq!(
        lab.net.set_mac(&name("d0"), mac).unwrap(),
        Change::Unchanged
    );
    let link = show("d0");
    assert_eq!(
        (&link["mtu"], &link["address"]),
        (&1400.into(), &"02:00:00:00:00:07".into())
    );
    let error = lab
        .net
        .set_mac(&name("d0"), "01:00:5e:00:00:01".parse().unwrap())
        .unwrap_err();
    says(&error, &["d0", "01:00:5e:00:00:01", "unicast"]);
}

fn attach_and_detach_are_idempotent(lab: &Lab) {
    ip("link add br0 type bridge");
    plain_link("d0");
    assert_eq!(
        lab.net.set_master(&name("d0"), &name("br0")).unwrap(),
        Change::Changed
    );
    assert_eq!(show("d0")["master"], "br0");
    assert_eq!(
        lab.net.set_master(&name("d0"), &name("br0")).unwrap(),
        Change::Unchanged
    );
    assert_eq!(lab.net.clear_master(&name("d0")).unwrap(), Change::Changed);
    assert_eq!(show("d0").get("master"), None);
    assert_eq!(
        lab.net.clear_master(&name("d0")).unwrap(),
        Change::Unchanged
    );
}

fn a_port_of_another_bridge_is_left_there(lab: &Lab) {
    ip("link add br0 type bridge");
    ip("link add br1 type bridge");
    plain_link("d0");
    ip("link set d0 master br0");
    let error = lab.net.set_master(&name("d0"), &name("br1")).unwrap_err();
    says(
        &error,
        &["attach d0 to bridge br1", "port of br0", "detach"],
    );
    assert_eq!(show("d0")["master"], "br0");
}

fn attaching_to_what_is_no_bridge_is_refused(lab: &Lab) {
    plain_link("d0");
    ip("link add br0 type bridge");
    says(
        &lab.net.set_master(&name("br0"), &name("d0")).unwrap_err(),
        &["d0 is a vxlan, not a bridge"],
    );
    // The kernel's own words: a bridge cannot be a port of itself.
    says(
        &lab.net.set_master(&name("br0"), &name("br0")).unwrap_err(),
        &["attach br0 to bridge br0", "("],
    );
}

fn every_change_names_a_missing_link(lab: &Lab) {
    let (gone, net) = (name("gone"), &lab.net);
    ip("link add br0 type bridge");
    let address = "192.0.2.1/24".parse().unwrap();
    for outcome in [
        net.set_up(&gone),
        net.set_down(&gone),
        net.set_mtu(&gone, 1400),
        net.set_mac(&gone, "02:00:00:00:00:01".parse().unwrap()),
        net.set_master(&gone, &name("br0")),
        net.set_master(&name("br0"), &gone),
        net.clear_master(&gone),
        net.add_address(&gone, address),
        net.remove_address(&gone, address),
    ] {
        says(&outcome.unwrap_err(), &["there is no interface gone"]);
    }
}

fn deleting_is_idempotent_and_spares_hardware(lab: &Lab) {
    plain_link("d0");
    assert_eq!(lab.net.delete_link(&name("d0")).unwrap(), Change::Changed);
    assert_eq!(lab.net.delete_link(&name("d0")).unwrap(), Change::Unchanged);
    says(
        &lab.net.delete_link(&name("lo")).unwrap_err(),
        &["delete lo", "loopback"],
    );
}

fn a_veth_pair_has_its_macs_and_is_idempotent(lab: &Lab) {
    let near = VethEnd {
        name: name("near"),
        mac: Some("02:00:00:00:00:01".parse().unwrap()),
    };
    let far = VethEnd {
        name: name("far"),
        mac: Some("02:00:00:00:00:02".parse().unwrap()),
    };
    assert_eq!(
        lab.net.create_veth(&near, &far, None).unwrap(),
        Change::Changed
    );
    assert_eq!(show("near")["address"], "02:00:00:00:00:01");
    assert_eq!(show("far")["address"], "02:00:00:00:00:02");
    assert_eq!(show("near")["link"], "far");
    assert_eq!(
        lab.net.create_veth(&near, &far, None).unwrap(),
        Change::Unchanged
    );

    let other_mac = VethEnd {
        mac: Some("02:00:00:00:00:03".parse().unwrap()),
        ..far.clone()
    };
    says(
        &lab.net.create_veth(&near, &other_mac, None).unwrap_err(),
        &["far", "another MAC"],
    );
    let other_peer = VethEnd {
        name: name("else"),
        mac: None,
    };
    says(
        &lab.net.create_veth(&near, &other_peer, None).unwrap_err(),
        &["near", "other end is not else"],
    );
    let free = VethEnd {
        name: name("free"),
        mac: None,
    };
    says(
        &lab.net.create_veth(&free, &far, None).unwrap_err(),
        &["taken", "far"],
    );
    plain_link("d0");
    let taken = VethEnd {
        name: name("d0"),
        mac: None,
    };
    says(
        &lab.net.create_veth(&taken, &far, None).unwrap_err(),
        &["d0 is a vxlan, not a veth"],
    );
}

/// More than one netlink datagram's worth.
fn many_links_are_all_listed(lab: &Lab) {
    for n in 0..60 {
        plain_link(&format!("many{n}"));
    }
    assert_eq!(lab.net.links().unwrap().len(), names().len() + 1);
}

fn one_untypable_name_hides_no_other_link(lab: &Lab) {
    plain_link("d0");
    ip("link add a\u{1}b type bridge");
    assert!(
        lab.net
            .links()
            .unwrap()
            .iter()
            .any(|link| link.name.as_str() == "d0")
    );
}

fn a_bridge_may_go_by_an_alternative_name(lab: &Lab) {
    ip("link add br0 type bridge");
    ip("link property add dev br0 altname lan");
    plain_link("d0");
    assert_eq!(
        lab.net.set_master(&name("d0"), &name("lan")).unwrap(),
        Change::Changed
    );
    assert_eq!(
        lab.net.set_master(&name("d0"), &name("lan")).unwrap(),
        Change::Unchanged
    );
    assert_eq!(show("d0")["master"], "br0");
}

fn json_says_what_a_person_would_ask(lab: &Lab) {
    ip("link add br0 address 02:00:00:00:00:01 type bridge");
    ip("addr add 192.0.2.1/24 dev br0");
    let link = lab.net.link(&name("br0")).unwrap().unwrap();
    let json = serde_json::to_value(&link).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "name": "br0", "index": link.index, "kind": "bridge", "mac": "02:00:00:00:00:01", "mtu": 1500,
            "up": false, "carrier": false, "master": null, "addresses": ["192.0.2.1/24"],
            "bridge": { "stp": false, "vlan_filtering": false, "ageing": 300.0 },
        })
    );
}
