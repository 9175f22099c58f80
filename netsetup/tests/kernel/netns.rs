//! Named namespaces, and work inside them.

use std::fs;

use netsetup::{Change, Netns, NetnsName, VethEnd};

use crate::lab::{Lab, ip, names, plain_link, says, show};
use crate::tests;

tests![
    a_named_namespace_is_one_of_ips,
    one_of_ips_is_a_named_namespace,
    creating_and_deleting_are_idempotent,
    a_plain_file_is_in_the_way,
    work_inside_does_not_move_the_caller,
    a_veth_end_is_made_in_the_other_namespace,
];

fn name(text: &str) -> NetnsName {
    text.parse().unwrap()
}

fn a_named_namespace_is_one_of_ips(_: &Lab) {
    assert_eq!(Netns::create(&name("ours")).unwrap(), Change::Changed);
    assert!(ip("netns list").contains("ours"));
    ip("-n ours link set lo up");
    ip("netns del ours");
    assert_eq!(Netns::delete(&name("ours")).unwrap(), Change::Unchanged);
}

fn one_of_ips_is_a_named_namespace(_: &Lab) {
    ip("netns add theirs");
    assert_eq!(Netns::create(&name("theirs")).unwrap(), Change::Unchanged);
    let net = Netns::open(&name("theirs")).unwrap().net_setup().unwrap();
    assert_eq!(net.links().unwrap().len(), 1);
    assert_eq!(Netns::delete(&name("theirs")).unwrap(), Change::Changed);
    assert!(!ip("netns list").contains("theirs"));
}

fn creating_and_deleting_are_idempotent(_: &Lab) {
    for want in [Change::Changed, Change::Unchanged] {
        assert_eq!(Netns::create(&name("again")).unwrap(), want);
    }
    for want in [Change::Changed, Change::Unchanged] {
        assert_eq!(Netns::delete(&name("again")).unwrap(), want);
    }
    says(
        &Netns::open(&name("again")).unwrap_err(),
        &["open network namespace again", "No such file"],
    );
}

fn a_plain_file_is_in_the_way(_: &Lab) {
    Netns::create(&name("other")).unwrap();
    fs::write("/run/netns/plain", "").unwrap();
    says(
        &Netns::create(&name("plain")).unwrap_err(),
        &["/run/netns/plain", "no namespace is mounted"],
    );
    Netns::delete(&name("other")).unwrap();
    fs::remove_file("/run/netns/plain").unwrap();
}

fn work_inside_does_not_move_the_caller(lab: &Lab) {
    Netns::create(&name("inside")).unwrap();
    let netns = Netns::open(&name("inside")).unwrap();
    plain_link("outside");
    let seen = netns
        .run(|| {
            plain_link("within");
            names()
        })
        .unwrap();
    assert_eq!(seen, ["within"]);
    assert_eq!(names(), ["outside"]);
    assert!(
        netns
            .net_setup()
            .unwrap()
            .link(&"within".parse().unwrap())
            .unwrap()
            .is_some()
    );
    assert!(lab.net.link(&"within".parse().unwrap()).unwrap().is_none());
    says(
        &netns
            .run(|| -> () { std::panic::resume_unwind(Box::new("on purpose")) })
            .unwrap_err(),
        &["inside", "panicked"],
    );
    Netns::delete(&name("inside")).unwrap();
}

fn a_veth_end_is_made_in_the_other_namespace(lab: &Lab) {
    Netns::create(&name("lanhost")).unwrap();
    let netns = Netns::open(&name("lanhost")).unwrap();
    let near = VethEnd {
        name: "near".parse().unwrap(),
        mac: None,
    };
    let far = VethEnd {
        name: "eth0".parse().unwrap(),
        mac: Some("02:00:00:00:00:05".parse().unwrap()),
    };
    assert_eq!(
        lab.net.create_veth(&near, &far, Some(&netns)).unwrap(),
        Change::Changed
    );
    assert_eq!(names(), ["near"]);
    let seen = netns.run(|| show("eth0")["address"].clone()).unwrap();
    assert_eq!(seen, "02:00:00:00:00:05");
    assert_eq!(
        lab.net.create_veth(&near, &far, Some(&netns)).unwrap(),
        Change::Unchanged
    );
    Netns::delete(&name("lanhost")).unwrap();
}
