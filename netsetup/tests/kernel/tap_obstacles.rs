//! Taps that exist already, and everything else that can be in the way of one.

use netsetup::{Change, IfExists, TapOptions, TapPlan};

use crate::lab::{Lab, cannot_run, ip, is_up, names, plain_link, says, show, show_settings, shown};
use crate::tap::{named, plan};
use crate::tests;

tests![
    a_persistent_tap_is_attached_to,
    refuse_means_refuse,
    a_tap_in_use_is_busy,
    a_tap_with_other_settings_is_in_the_way,
    a_link_that_is_no_tap_is_in_the_way,
    a_missing_bridge_is_named,
    a_master_that_is_no_bridge_is_named,
    a_port_has_no_addresses,
    impossible_queue_counts_are_refused,
    creating_twice_changes_nothing,
    creating_again_does_not_need_the_tap_free,
    deleting_refuses_what_is_no_tap,
    without_privilege_nothing_new_is_made,
    the_owner_needs_no_privilege,
    another_users_tap_is_denied,
    a_thread_that_moved_gets_no_tap,
];

fn a_persistent_tap_is_attached_to(lab: &Lab) {
    ip("tuntap add dev made mode tap user 0");
    let before = show("made")["address"].clone();
    let tap = lab
        .net
        .setup_tap(&TapPlan {
            up: true,
            ..plan(named("made"))
        })
        .unwrap();
    assert!(!tap.created);
    assert!(is_up("made"));
    assert_eq!(show("made")["address"], before);
    drop(tap);
    assert!(shown("made").is_some(), "what we did not make stays");
}

fn refuse_means_refuse(lab: &Lab) {
    ip("tuntap add dev made mode tap");
    let options = TapOptions {
        if_exists: IfExists::Refuse,
        ..named("made")
    };
    says(
        &lab.net.setup_tap(&plan(options)).unwrap_err(),
        &["made", "already"],
    );
}

fn a_tap_in_use_is_busy(lab: &Lab) {
    let _holder = lab.net.setup_tap(&plan(named("busy"))).unwrap();
    says(
        &lab.net.setup_tap(&plan(named("busy"))).unwrap_err(),
        &["busy", "in use", "another process"],
    );
}

fn a_tap_with_other_settings_is_in_the_way(lab: &Lab) {
    ip("tuntap add dev single mode tap user 0");
    ip("tuntap add dev multi mode tap multi_queue");
    let denied = |options: TapOptions, words: &[&str]| {
        says(
            &lab.net.setup_tap(&plan(options.clone())).unwrap_err(),
            words,
        );
        says(&lab.net.create_tap(&plan(options)).unwrap_err(), words);
    };
    denied(
        TapOptions {
            queues: 2,
            ..named("single")
        },
        &["single", "one queue only"],
    );
    denied(
        TapOptions {
            owner: Some(1),
            ..named("single")
        },
        &["single", "user 0"],
    );
    denied(
        TapOptions {
            group: Some(1),
            ..named("single")
        },
        &["single", "no group"],
    );
    denied(named("multi"), &["multi", "several queues"]);
    let _short_lived = lab
        .net
        .setup_tap(&plan(TapOptions {
            queues: 2,
            ..named("short")
        }))
        .unwrap();
    denied(
        TapOptions {
            queues: 2,
            persistent: true,
            ..named("short")
        },
        &["short", "vanish"],
    );
    assert_eq!(show("short")["linkinfo"]["info_data"]["persist"], false);
}

fn a_link_that_is_no_tap_is_in_the_way(lab: &Lab) {
    ip("link add br0 type bridge");
    ip("tuntap add dev tun7 mode tun");
    for (name, is) in [
        ("br0", "a bridge"),
        ("tun7", "a tun"),
        ("lo", "hardware (or the loopback)"),
    ] {
        says(
            &lab.net.setup_tap(&plan(named(name))).unwrap_err(),
            &[name, is, "not a tap"],
        );
        says(
            &lab.net.create_tap(&plan(named(name))).unwrap_err(),
            &[name, is, "not a tap"],
        );
    }
}

fn a_missing_bridge_is_named(lab: &Lab) {
    let bridged = TapPlan {
        bridge: Some("nobr".parse().unwrap()),
        ..TapPlan::default()
    };
    says(
        &lab.net.setup_tap(&bridged).unwrap_err(),
        &["no interface nobr", "attach tap%d to bridge nobr"],
    );
    assert!(names().is_empty());
}

fn a_master_that_is_no_bridge_is_named(lab: &Lab) {
    plain_link("d0");
    let bridged = TapPlan {
        bridge: Some("d0".parse().unwrap()),
        ..TapPlan::default()
    };
    says(
        &lab.net.setup_tap(&bridged).unwrap_err(),
        &["d0 is a vxlan, not a bridge"],
    );
    assert_eq!(names(), ["d0"]);
}

fn a_port_has_no_addresses(lab: &Lab) {
    ip("link add br0 type bridge");
    let both = TapPlan {
        bridge: Some("br0".parse().unwrap()),
        addresses: vec!["192.0.2.1/24".parse().unwrap()],
        ..TapPlan::default()
    };
    says(&lab.net.setup_tap(&both).unwrap_err(), &["give it to br0"]);
}

fn impossible_queue_counts_are_refused(lab: &Lab) {
    for queues in [0, 257] {
        says(
            &lab.net
                .setup_tap(&plan(TapOptions {
                    queues,
                    ..TapOptions::default()
                }))
                .unwrap_err(),
            &["1 to 256"],
        );
    }
}

fn creating_twice_changes_nothing(lab: &Lab) {
    ip("link add br0 type bridge");
    let made = TapPlan {
        bridge: Some("br0".parse().unwrap()),
        up: true,
        ..plan(TapOptions {
            owner: Some(0),
            vnet_hdr: true,
            mtu: Some(1400),
            ..named("twice")
        })
    };
    assert_eq!(lab.net.create_tap(&made).unwrap().1, Change::Changed);
    let before = show_settings("twice");
    assert_eq!(before["linkinfo"]["info_data"]["persist"], true);
    assert_eq!(before["master"], "br0");
    assert_eq!(lab.net.create_tap(&made).unwrap().1, Change::Unchanged);
    assert_eq!(show_settings("twice"), before);
}

fn creating_again_does_not_need_the_tap_free(lab: &Lab) {
    let made = plan(named("used"));
    lab.net.create_tap(&made).unwrap();
    let _user = lab.net.setup_tap(&made).unwrap();
    assert_eq!(lab.net.create_tap(&made).unwrap().1, Change::Unchanged);
}

fn deleting_refuses_what_is_no_tap(lab: &Lab) {
    ip("link add br0 type bridge");
    says(
        &lab.net.delete_tap(&"br0".parse().unwrap()).unwrap_err(),
        &["br0 is a bridge, not a tap"],
    );
    assert_eq!(names(), ["br0"]);
}

/// Runs a step on a thread without capabilities; those are a thread's own.
fn unprivileged<T: Send>(step: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            drop_capabilities();
            step()
        });
        thread.join().unwrap()
    })
}

fn without_privilege_nothing_new_is_made(lab: &Lab) {
    ip("link add br0 type bridge");
    let create = unprivileged(|| lab.net.setup_tap(&plan(named("new"))).map(drop)).unwrap_err();
    says(
        &create,
        &["open tap new", "Operation not permitted", "CAP_NET_ADMIN"],
    );
    let delete = unprivileged(|| lab.net.delete_link(&"br0".parse().unwrap())).unwrap_err();
    assert!(delete.is_permission(), "{delete}");
    says(
        &delete,
        &["delete br0", "Operation not permitted", "CAP_NET_ADMIN"],
    );
    assert_eq!(names(), ["br0"]);
}

/// The owner is user 0: that is who runs here, with capabilities or without.
fn the_owner_needs_no_privilege(lab: &Lab) {
    ip("tuntap add dev mine mode tap user 0");
    unprivileged(|| lab.net.setup_tap(&plan(named("mine"))).map(drop)).unwrap();
    let name = "mine".parse().unwrap();
    assert_eq!(
        unprivileged(|| lab.net.delete_tap(&name)).unwrap(),
        Change::Changed
    );
    assert_eq!(shown("mine"), None);
}

fn another_users_tap_is_denied(lab: &Lab) {
    // In a user namespace there is nobody but us.
    let users = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    if users.split_whitespace().last() == Some("1") {
        cannot_run("needs root: a user namespace of one user has no other");
    }
    ip("tuntap add dev theirs mode tap user 1");
    let open = unprivileged(|| lab.net.setup_tap(&plan(named("theirs"))).map(drop)).unwrap_err();
    says(
        &open,
        &[
            "theirs",
            "Operation not permitted",
            "user 1",
            "CAP_NET_ADMIN",
        ],
    );
    let name = "theirs".parse().unwrap();
    says(
        &unprivileged(|| lab.net.delete_tap(&name)).unwrap_err(),
        &["delete tap theirs", "CAP_NET_ADMIN"],
    );
}

fn drop_capabilities() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    // _LINUX_CAPABILITY_VERSION_3, and this thread.
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let none = [0_u32; 6];
    // SAFETY: capset reads a header and, in version 3, two triples of words; both outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    assert_eq!(result, 0);
}

fn a_thread_that_moved_gets_no_tap(lab: &Lab) {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    says(
        &lab.net.setup_tap(&TapPlan::default()).unwrap_err(),
        &["another network namespace"],
    );
    assert!(names().is_empty());
}
