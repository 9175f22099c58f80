//! Taps: every mode, every obstacle, and that they vanish.

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};

use netsetup::{Change, IfExists, NetSetup, TapName, TapOffloads, TapOptions, TapPlan};
use nix::fcntl::{FcntlArg, fcntl};

use crate::lab::{Lab, addresses, ip, is_up, names, plain_link, says, show, show_settings, shown};
use crate::tests;

tests![
    a_tap_is_plain_ethernet_named_by_the_kernel,
    a_tap_vanishes_with_its_descriptor,
    a_tap_vanishes_when_its_holder_is_killed,
    a_persistent_tap_stays,
    owner_and_group_are_the_kernels,
    virtio_net_headers_are_twelve_bytes,
    offloads_are_accepted,
    several_queues_are_one_interface,
    descriptors_close_on_exec_and_block_as_asked,
    mac_and_mtu_are_set,
    a_new_tap_has_an_address_of_its_own,
    a_port_takes_its_bridges_mtu_and_leaves_its_mac_alone,
    addresses_are_set_and_the_tap_is_up,
    a_frame_written_is_a_frame_received,
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
    another_users_tap_is_denied,
    a_thread_that_moved_gets_no_tap,
];

fn named(name: &str) -> TapOptions {
    TapOptions {
        name: TapName::Exact(name.parse().unwrap()),
        ..TapOptions::default()
    }
}

fn plan(tap: TapOptions) -> TapPlan {
    TapPlan {
        tap,
        ..TapPlan::default()
    }
}

fn a_tap_is_plain_ethernet_named_by_the_kernel(lab: &Lab) {
    let first = lab.net.setup_tap(&TapPlan::default()).unwrap();
    let second = lab.net.setup_tap(&TapPlan::default()).unwrap();
    assert_eq!(
        (first.name.as_str(), second.name.as_str()),
        ("tap0", "tap1")
    );
    assert!(first.created);
    let link = show("tap0");
    assert_eq!(link["ifindex"], first.index);
    assert_eq!(link["link_type"], "ether");
    let data = &link["linkinfo"]["info_data"];
    assert_eq!(
        (&data["type"], &data["pi"]),
        (&"tap".into(), &false.into()),
        "{link}"
    );
    for off in ["vnet_hdr", "multi_queue", "persist"] {
        assert_eq!(data[off], false, "{off}");
    }
    assert!(!is_up("tap0"));
}

fn a_tap_vanishes_with_its_descriptor(lab: &Lab) {
    let plan = TapPlan {
        addresses: vec!["192.0.2.1/24".parse().unwrap()],
        up: true,
        ..TapPlan::default()
    };
    let tap = lab.net.setup_tap(&plan).unwrap();
    assert_eq!(names(), ["tap0"]);
    drop(tap);
    assert!(names().is_empty());
}

/// The name of the helper this binary also is.
pub const HOLD_TAP: &str = "hold-tap";

/// Opens a tap on a bridge, says so and waits to be killed.
pub fn hold(name: &str) -> ExitCode {
    let bridged = TapPlan {
        bridge: Some("br0".parse().unwrap()),
        up: true,
        ..plan(named(name))
    };
    match NetSetup::new().and_then(|net| net.setup_tap(&bridged)) {
        Ok(tap) => {
            println!("{}", tap.name);
            loop {
                std::thread::park();
            }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn a_tap_vanishes_when_its_holder_is_killed(_: &Lab) {
    ip("link add br0 type bridge");
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args([HOLD_TAP, "held"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "held\n");
    assert_eq!(show("held")["master"], "br0");
    holder.kill().unwrap();
    assert_eq!(holder.wait().unwrap().signal(), Some(9));
    assert_eq!(names(), ["br0"]);
}

fn a_persistent_tap_stays(lab: &Lab) {
    let options = TapOptions {
        persistent: true,
        ..named("stay")
    };
    drop(lab.net.setup_tap(&plan(options)).unwrap());
    assert_eq!(show("stay")["linkinfo"]["info_data"]["persist"], true);
    let name = "stay".parse().unwrap();
    assert_eq!(lab.net.delete_tap(&name).unwrap(), Change::Changed);
    assert_eq!(shown("stay"), None);
    assert_eq!(lab.net.delete_tap(&name).unwrap(), Change::Unchanged);
}

fn owner_and_group_are_the_kernels(lab: &Lab) {
    // Root's own ids: the only ones a user namespace may have.
    let options = TapOptions {
        owner: Some(0),
        group: Some(0),
        ..named("mine")
    };
    let _tap = lab.net.setup_tap(&plan(options)).unwrap();
    let data = &show("mine")["linkinfo"]["info_data"];
    assert_eq!(
        (&data["user"], &data["group"]),
        (&"root".into(), &"root".into()),
        "{data}"
    );
    let info = lab
        .net
        .link(&"mine".parse().unwrap())
        .unwrap()
        .unwrap()
        .tap
        .unwrap();
    assert_eq!((info.owner, info.group), (Some(0), Some(0)));

    let _free = lab.net.setup_tap(&plan(named("free"))).unwrap();
    let info = lab
        .net
        .link(&"free".parse().unwrap())
        .unwrap()
        .unwrap()
        .tap
        .unwrap();
    assert_eq!((info.owner, info.group), (None, None));
}

fn virtio_net_headers_are_twelve_bytes(lab: &Lab) {
    let options = TapOptions {
        vnet_hdr: true,
        nonblocking: true,
        ..named("vnet")
    };
    let tap = lab
        .net
        .setup_tap(&TapPlan {
            up: true,
            ..plan(options)
        })
        .unwrap();
    assert_eq!(show("vnet")["linkinfo"]["info_data"]["vnet_hdr"], true);
    let queue = &tap.queues[0];
    // Eleven bytes cannot hold the header; twelve and a minimal Ethernet header can.
    assert_eq!(
        nix::unistd::write(queue, &[0; 11]),
        Err(nix::errno::Errno::EINVAL)
    );
    assert_eq!(nix::unistd::write(queue, &[0; 12 + 14]), Ok(26));
}

fn offloads_are_accepted(lab: &Lab) {
    let options = TapOptions {
        vnet_hdr: true,
        queues: 2,
        ..named("off")
    };
    let tap = lab.net.setup_tap(&plan(options)).unwrap();
    let most = TapOffloads {
        csum: true,
        tso4: true,
        tso6: true,
        tso_ecn: true,
        uso: false,
    };
    tap.set_offloads(most).unwrap();
    tap.set_offloads(TapOffloads::NONE).unwrap();
    // Segmentation without checksums makes no sense.
    let error = tap
        .set_offloads(TapOffloads {
            tso4: true,
            ..TapOffloads::NONE
        })
        .unwrap_err();
    says(&error, &["offloads of off", "Invalid argument"]);
}

fn several_queues_are_one_interface(lab: &Lab) {
    let tap = lab
        .net
        .setup_tap(&plan(TapOptions {
            queues: 3,
            ..named("many")
        }))
        .unwrap();
    assert_eq!(tap.queues.len(), 3);
    assert_eq!(names(), ["many"]);
    let data = &show("many")["linkinfo"]["info_data"];
    assert_eq!(
        (&data["multi_queue"], &data["numqueues"]),
        (&true.into(), &3.into()),
        "{data}"
    );
}

fn descriptors_close_on_exec_and_block_as_asked(lab: &Lab) {
    for nonblocking in [false, true] {
        let tap = lab
            .net
            .setup_tap(&plan(TapOptions {
                nonblocking,
                ..TapOptions::default()
            }))
            .unwrap();
        let queue = tap.queues[0].as_fd();
        assert_eq!(fcntl(queue, FcntlArg::F_GETFD).unwrap(), libc::FD_CLOEXEC);
        let blocking = fcntl(queue, FcntlArg::F_GETFL).unwrap() & libc::O_NONBLOCK == 0;
        assert_eq!(blocking, !nonblocking);
    }
}

fn mac_and_mtu_are_set(lab: &Lab) {
    let mac = "02:00:00:00:00:01";
    let options = TapOptions {
        mac: Some(mac.parse().unwrap()),
        mtu: Some(9000),
        ..named("big")
    };
    let _tap = lab.net.setup_tap(&plan(options)).unwrap();
    let link = show("big");
    assert_eq!(
        (&link["address"], &link["mtu"]),
        (&mac.into(), &9000.into())
    );

    let options = TapOptions {
        mtu: Some(1_000_000),
        ..named("huge")
    };
    let error = lab.net.setup_tap(&plan(options)).unwrap_err();
    says(
        &error,
        &[
            "Cannot set the MTU of huge to 1000000",
            "mtu greater than device maximum",
        ],
    );
    assert_eq!(shown("huge"), None);
}

fn a_new_tap_has_an_address_of_its_own(lab: &Lab) {
    let taps: Vec<_> = (0..2)
        .map(|_| lab.net.setup_tap(&TapPlan::default()).unwrap())
        .collect();
    let macs: Vec<_> = taps
        .iter()
        .map(|t| show(t.name.as_str())["address"].clone())
        .collect();
    assert_ne!(macs[0], macs[1]);
}

fn a_port_takes_its_bridges_mtu_and_leaves_its_mac_alone(lab: &Lab) {
    // A bridge whose address follows its ports', with one port.
    ip("link add br0 mtu 9000 type bridge");
    plain_link("d0");
    ip("link set d0 address 02:00:00:00:00:01 mtu 9000");
    ip("link set d0 master br0");
    assert_eq!(show("br0")["address"], "02:00:00:00:00:01");

    let bridged = TapPlan {
        bridge: Some("br0".parse().unwrap()),
        up: true,
        ..plan(named("port"))
    };
    let _tap = lab.net.setup_tap(&bridged).unwrap();
    let (bridge, port) = (show("br0"), show("port"));
    assert_eq!(port["master"], "br0");
    assert_eq!((&bridge["mtu"], &port["mtu"]), (&9000.into(), &9000.into()));
    assert_eq!(bridge["address"], "02:00:00:00:00:01");
    assert!(is_up("port") && !is_up("br0"));
}

fn addresses_are_set_and_the_tap_is_up(lab: &Lab) {
    let wanted = ["192.0.2.1/24", "2001:db8::1/64"];
    let plan = TapPlan {
        addresses: wanted.iter().map(|a| a.parse().unwrap()).collect(),
        up: true,
        ..plan(named("host"))
    };
    let _tap = lab.net.setup_tap(&plan).unwrap();
    assert_eq!(addresses("host"), wanted);
    assert!(is_up("host"));
}

fn a_frame_written_is_a_frame_received(lab: &Lab) {
    ip("link add br0 type bridge");
    ip("link set br0 up");
    let bridged = |name| TapPlan {
        bridge: Some("br0".parse().unwrap()),
        up: true,
        ..plan(named(name))
    };
    let left = lab.net.setup_tap(&bridged("left")).unwrap();
    let right = lab.net.setup_tap(&bridged("right")).unwrap();
    let mut frame = [0xa5_u8; 60];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    // An EtherType for local experiments (IEEE 802a).
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    nix::unistd::write(&left.queues[0], &frame).unwrap();
    // The kernel's own frames (IPv6 neighbour discovery) come between.
    let mut buffer = [0; 2048];
    loop {
        let len = nix::unistd::read(&right.queues[0], &mut buffer).unwrap();
        if buffer[12..14] == [0x88, 0xb5] {
            assert_eq!(&buffer[..len], &frame);
            break;
        }
    }
}

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

/// On a thread without privileges: capabilities are a thread's own.
fn another_users_tap_is_denied(lab: &Lab) {
    ip("tuntap add dev theirs mode tap user 0");
    let net = &lab.net;
    let (open, create, delete) = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            drop_capabilities();
            let open = net.setup_tap(&plan(TapOptions { ..named("theirs") }));
            let create = net.setup_tap(&plan(named("new")));
            let delete = net.delete_link(&"theirs".parse().unwrap());
            (open.map(drop), create.map(drop), delete)
        });
        thread.join().unwrap()
    });
    // Owner 0 is us, capabilities or not: the kernel lets the owner in.
    open.unwrap();
    says(
        &create.unwrap_err(),
        &["open tap new", "Operation not permitted", "CAP_NET_ADMIN"],
    );
    // The netlink socket was opened with privilege, and netlink asks for both.
    let error = delete.unwrap_err();
    assert!(error.is_permission(), "{error}");
    says(&error, &["delete theirs", "CAP_NET_ADMIN"]);
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
