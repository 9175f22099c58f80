//! Taps: every mode, and that they vanish. What can stand in the way is in `tap_obstacles`.

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};

use netsetup::{Change, NetSetup, TapName, TapOffloads, TapOptions, TapPlan};
use nix::fcntl::{FcntlArg, fcntl};

use crate::lab::{Lab, addresses, ip, is_up, names, plain_link, says, show, shown};
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
];

pub fn named(name: &str) -> TapOptions {
    TapOptions {
        name: TapName::Exact(name.parse().unwrap()),
        ..TapOptions::default()
    }
}

pub fn plan(tap: TapOptions) -> TapPlan {
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
    let counts = || {
        let data = &show("many")["linkinfo"]["info_data"];
        (data["numqueues"].clone(), data["numdisabled"].clone())
    };
    tap.set_attached(1, false).unwrap();
    assert_eq!(counts(), (2.into(), 1.into()));
    tap.set_attached(1, true).unwrap();
    assert_eq!(counts(), (3.into(), 0.into()));
    says(
        &tap.set_attached(1, true).unwrap_err(),
        &["queue 1 of many"],
    );
    says(&tap.set_attached(3, false).unwrap_err(), &["3 queues"]);
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
