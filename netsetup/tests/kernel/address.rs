//! Addresses on links.

use netsetup::{Change, InterfaceAddress, InterfaceName};

use crate::lab::{Lab, addresses, ip, plain_link, says, show};
use crate::tests;

tests![
    an_address_is_added_and_removed_once,
    ipv4_has_its_broadcast_address,
    one_ipv4_address_may_have_two_prefixes,
    one_ipv6_address_has_one_prefix,
    only_the_links_own_addresses_are_listed,
];

fn name() -> InterfaceName {
    "d0".parse().unwrap()
}

fn address(text: &str) -> InterfaceAddress {
    text.parse().unwrap()
}

fn an_address_is_added_and_removed_once(lab: &Lab) {
    plain_link("d0");
    for text in [
        "192.0.2.1/24",
        "192.0.2.9/32",
        "2001:db8::1/64",
        "2001:db8::9/128",
    ] {
        assert_eq!(
            lab.net.add_address(&name(), address(text)).unwrap(),
            Change::Changed
        );
        assert!(addresses("d0").contains(&text.to_owned()), "{text}");
        assert_eq!(
            lab.net.add_address(&name(), address(text)).unwrap(),
            Change::Unchanged
        );
        assert_eq!(
            lab.net.remove_address(&name(), address(text)).unwrap(),
            Change::Changed
        );
        assert!(addresses("d0").is_empty(), "{text}");
        assert_eq!(
            lab.net.remove_address(&name(), address(text)).unwrap(),
            Change::Unchanged
        );
    }
}

fn ipv4_has_its_broadcast_address(lab: &Lab) {
    plain_link("d0");
    lab.net
        .add_address(&name(), address("192.0.2.1/24"))
        .unwrap();
    assert_eq!(show("d0")["addr_info"][0]["broadcast"], "192.0.2.255");
}

fn one_ipv4_address_may_have_two_prefixes(lab: &Lab) {
    plain_link("d0");
    lab.net
        .add_address(&name(), address("192.0.2.1/24"))
        .unwrap();
    lab.net
        .add_address(&name(), address("192.0.2.1/25"))
        .unwrap();
    lab.net
        .remove_address(&name(), address("192.0.2.1/24"))
        .unwrap();
    assert_eq!(addresses("d0"), ["192.0.2.1/25"]);
}

fn one_ipv6_address_has_one_prefix(lab: &Lab) {
    plain_link("d0");
    lab.net
        .add_address(&name(), address("2001:db8::1/64"))
        .unwrap();
    let error = lab
        .net
        .add_address(&name(), address("2001:db8::1/48"))
        .unwrap_err();
    says(&error, &["d0", "2001:db8::1/48", "2001:db8::1/64"]);
}

fn only_the_links_own_addresses_are_listed(lab: &Lab) {
    plain_link("d0");
    plain_link("d1");
    ip("addr add 192.0.2.1/24 dev d0");
    ip("addr add 192.0.2.2/24 dev d1");
    assert_eq!(
        lab.net.addresses(&name()).unwrap(),
        [address("192.0.2.1/24")]
    );
}
