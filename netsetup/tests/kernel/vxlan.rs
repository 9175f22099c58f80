//! VXLANs: made as asked, or refused for a reason.

use netsetup::{Change, InterfaceName, Vni, VxlanOptions};

use crate::lab::{Lab, cannot_run, ip, names, says, show};
use crate::tests;

tests![
    a_vxlan_is_as_asked_and_idempotent,
    other_settings_are_in_the_way,
    an_identifier_in_use_is_named,
    a_vxlan_is_a_bridge_port,
];

fn name() -> InterfaceName {
    "vx0".parse().unwrap()
}

/// A tunnel to one other host, over a device of its own.
fn to_a_host() -> VxlanOptions {
    ip("link add under type bridge");
    VxlanOptions {
        remote: Some("192.0.2.2".parse().unwrap()),
        local: Some("192.0.2.1".parse().unwrap()),
        device: Some("under".parse().unwrap()),
        mac: Some("02:00:00:00:00:42".parse().unwrap()),
        mtu: Some(1400),
        ..VxlanOptions::new(Vni::try_from(42).unwrap())
    }
}

fn create(lab: &Lab, options: &VxlanOptions) -> netsetup::Result<Change> {
    match lab.net.create_vxlan(&name(), options) {
        Err(e) if e.errno() == Some(nix::errno::Errno::EOPNOTSUPP) => cannot_run(e.to_string()),
        outcome => outcome,
    }
}

fn a_vxlan_is_as_asked_and_idempotent(lab: &Lab) {
    let options = to_a_host();
    assert_eq!(create(lab, &options).unwrap(), Change::Changed);
    let link = show("vx0");
    let data = &link["linkinfo"]["info_data"];
    assert_eq!(
        (&link["mtu"], &link["address"]),
        (&1400.into(), &"02:00:00:00:00:42".into())
    );
    assert_eq!(
        (&data["id"], &data["port"], &data["link"]),
        (&42.into(), &4789.into(), &"under".into())
    );
    assert_eq!(
        (&data["remote"], &data["local"]),
        (&"192.0.2.2".into(), &"192.0.2.1".into())
    );
    assert_eq!(create(lab, &options).unwrap(), Change::Unchanged);
    assert_eq!(show("vx0"), link);
}

fn other_settings_are_in_the_way(lab: &Lab) {
    let options = to_a_host();
    create(lab, &options).unwrap();
    for (other, word) in [
        (
            VxlanOptions {
                vni: Vni::try_from(43).unwrap(),
                ..options.clone()
            },
            "identifier is 42",
        ),
        (
            VxlanOptions {
                port: 8472,
                ..options.clone()
            },
            "port is 4789",
        ),
        (
            VxlanOptions {
                remote: None,
                ..options.clone()
            },
            "remote address is 192.0.2.2",
        ),
        (
            VxlanOptions {
                local: None,
                ..options.clone()
            },
            "local address is 192.0.2.1",
        ),
        (
            VxlanOptions {
                device: None,
                ..options.clone()
            },
            "another device",
        ),
        (
            VxlanOptions {
                mtu: Some(1399),
                ..options.clone()
            },
            "MTU is 1400",
        ),
    ] {
        says(
            &create(lab, &other).unwrap_err(),
            &["create VXLAN vx0", word],
        );
    }
    ip("link del vx0");
    ip("link add vx0 type bridge");
    says(
        &create(lab, &options).unwrap_err(),
        &["vx0 is a bridge, not a vxlan"],
    );
}

fn an_identifier_in_use_is_named(lab: &Lab) {
    let options = VxlanOptions::new(Vni::try_from(7).unwrap());
    create(lab, &options).unwrap();
    let error = lab
        .net
        .create_vxlan(&"vx1".parse().unwrap(), &options)
        .unwrap_err();
    says(&error, &["create VXLAN vx1", "identifier 7", "4789"]);
    assert_eq!(names(), ["vx0"]);
}

fn a_vxlan_is_a_bridge_port(lab: &Lab) {
    create(lab, &VxlanOptions::new(Vni::try_from(7).unwrap())).unwrap();
    ip("link add br0 type bridge");
    lab.net
        .set_master(&name(), &"br0".parse().unwrap())
        .unwrap();
    assert_eq!(show("vx0")["master"], "br0");
}
