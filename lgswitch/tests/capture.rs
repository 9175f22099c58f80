#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
//! What `lgswitch capture` keeps and shows, told by somebody else: `tshark` reads the files.
//!
//! Ports of this process send; the tool listens, as it would for anyone. Claims that `tshark` is to
//! judge are ignored where it is not installed.

#[path = "capture/lan.rs"]
mod lan;
#[path = "capture/packets.rs"]
mod packets;
#[path = "capture/tool.rs"]
mod tool;

use lan::{BROADCAST, Lan, Station, mac};
use lgswitch::VnetHeader;
use libtest_mimic::{Arguments, Completion, Trial};
use packets::{arp, ether, tcp, tso, udp, unsummed};
use tool::{Capture, refused, tshark, tshark_fields, tshark_is_installed};

fn main() {
    let mut claims = Vec::new();
    let mut claim = |name: &str, judged_by_tshark: bool, body: fn()| {
        claims.push(Trial::ignorable_test(name, move || {
            if judged_by_tshark && !tshark_is_installed() {
                return Ok(Completion::ignored_with("needs the program `tshark`"));
            }
            body();
            Ok(Completion::Completed)
        }));
    };
    macro_rules! claims {
        ($judged:literal: $($body:ident),* $(,)?) => { $(claim(stringify!($body), $judged, $body);)* };
    }
    claims![true:
        a_file_has_each_packet_once_with_who_sent_it,
        unfinished_checksums_are_completed,
        a_large_segment_is_cut_to_what_a_wire_carries,
        as_sent_a_large_segment_is_whole_and_its_checksums_are_right,
        what_cannot_be_completed_is_kept_with_a_remark,
        a_slot_that_changes_hands_is_another_interface,
        a_pipe_can_be_read_by_tshark,
        only_the_first_bytes_are_kept_if_asked,
        a_size_is_kept_to_and_the_file_is_whole,
        a_file_that_can_grow_no_more_ends_with_a_whole_packet,
        a_ring_of_files_keeps_the_newest_and_each_is_whole,
        what_was_lost_stands_in_the_file,
    ];
    claims![false:
        every_frame_is_captured_or_counted_as_dropped,
        it_ends_by_itself_when_it_has_what_was_asked,
        a_pipe_shows_packets_before_the_capture_ends,
        only_the_slots_asked_for_are_heard,
        a_line_tells_what_a_packet_is,
        json_lines_tell_what_a_packet_is,
        a_hostile_name_is_made_printable,
        it_ends_when_its_reader_goes,
        what_cannot_be_done_is_said_and_changes_nothing,
    ];
    libtest_mimic::run(&Arguments::from_args(), claims).exit();
}

fn a_file_has_each_packet_once_with_who_sent_it() {
    let lan = Lan::new();
    let (mut a, mut b) = (lan.station(1, "guest-a"), lan.station(2, "guest-b"));
    let file = lan.file("lan0.pcapng");
    let capture = Capture::start(&lan, &["-w", &file]);
    a.send(&arp(1));
    b.send(&udp(2, 1, 100));
    a.send(&udp(1, 2, 200));
    let ended = capture.interrupt();
    assert_eq!(ended.account(), "3 packets captured, none dropped");
    // From one slot to the next packets may come in another order than they were sent.
    let mut packets = tshark_fields(
        &file,
        &[],
        &[
            "frame.interface_name",
            "frame.len",
            "frame.packet_flags_direction",
            "_ws.col.Protocol",
        ],
    );
    packets.sort();
    assert_eq!(
        packets,
        [
            ["slot0 guest-a", "242", "0x00000001", "UDP"],
            ["slot0 guest-a", "42", "0x00000001", "ARP"],
            ["slot1 guest-b", "142", "0x00000001", "UDP"],
        ]
    );
    let described = tshark_fields(&file, &["-Y", "arp"], &["frame.interface_description"]);
    assert!(
        described[0][0].starts_with("MAC 02:00:00:00:00:01, process "),
        "{described:?}"
    );
}

fn unfinished_checksums_are_completed() {
    let lan = Lan::new();
    let (mut a, _b) = (lan.station(1, "a"), lan.station(2, "b"));
    let file = lan.file("lan0.pcapng");
    let capture = Capture::start(&lan, &["-w", &file, "--count", "1"]);
    let (header, frame) = unsummed(1, 2, 333);
    a.send_with(&header, &frame);
    capture.end();
    let status = tshark_fields(
        &file,
        &[
            "-o",
            "udp.check_checksum:TRUE",
            "-o",
            "ip.check_checksum:TRUE",
        ],
        &["udp.checksum.status", "ip.checksum.status"],
    );
    assert_eq!(status, [["1", "1"]], "1 is good");
}

/// Payload bytes, and whether IP's and TCP's checksums are right, of each packet in a file.
fn segments(file: &str) -> Vec<Vec<String>> {
    tshark_fields(
        file,
        &[
            "-o",
            "tcp.check_checksum:TRUE",
            "-o",
            "ip.check_checksum:TRUE",
        ],
        &[
            "tcp.len",
            "tcp.checksum.status",
            "ip.checksum.status",
            "frame.len",
        ],
    )
}

fn a_large_segment_is_cut_to_what_a_wire_carries() {
    let lan = Lan::new();
    let (mut a, _b) = (lan.station(1, "a"), lan.station(2, "b"));
    let file = lan.file("lan0.pcapng");
    let capture = Capture::start(&lan, &["-w", &file, "--count", "3"]);
    let (header, frame) = tso(1, 2, 4000, 1460);
    a.send_with(&header, &frame);
    capture.end();
    assert_eq!(
        segments(&file),
        [
            ["1460", "1", "1", "1514"],
            ["1460", "1", "1", "1514"],
            ["1080", "1", "1", "1134"]
        ]
    );
}

fn as_sent_a_large_segment_is_whole_and_its_checksums_are_right() {
    let lan = Lan::new();
    let (mut a, _b) = (lan.station(1, "a"), lan.station(2, "b"));
    let file = lan.file("lan0.pcapng");
    let capture = Capture::start(&lan, &["-w", &file, "--count", "1", "--as-sent"]);
    let (header, frame) = tso(1, 2, 4000, 1460);
    a.send_with(&header, &frame);
    capture.end();
    assert_eq!(segments(&file), [["4000", "1", "1", "4054"]]);
}

fn what_cannot_be_completed_is_kept_with_a_remark() {
    let lan = Lan::new();
    let (mut a, _b) = (lan.station(1, "a"), lan.station(2, "b"));
    let file = lan.file("lan0.pcapng");
    let capture = Capture::start(&lan, &["-w", &file, "--count", "1"]);
    let (header, frame) = unsummed(1, 2, 10);
    let header = VnetHeader {
        checksum_start: 5000,
        ..header
    };
    a.send_with(&header, &frame);
    capture.end();
    let packets = tshark_fields(&file, &[], &["frame.len", "frame.comment"]);
    assert_eq!(packets[0][0], frame.len().to_string());
    assert!(packets[0][1].contains("left as it was sent"), "{packets:?}");
}

fn a_slot_that_changes_hands_is_another_interface() {
    let lan = Lan::new();
    let file = lan.file("lan0.pcapng");
    let mut first = lan.station(1, "first");
    let capture = Capture::start(&lan, &["-w", &file, "--count", "2"]);
    first.send(&arp(1));
    // The capture is to have seen it before it goes.
    capture.wait_for_bytes(&file, 200);
    drop(first);
    let mut second = lan.station(2, "second");
    assert_eq!(second.slot(), 0);
    second.send(&arp(2));
    capture.end();
    let names = tshark_fields(&file, &[], &["frame.interface_name"]);
    assert_eq!(names, [["slot0 first"], ["slot0 second"]]);
}

fn a_pipe_can_be_read_by_tshark() {
    let lan = Lan::new();
    let mut a = lan.station(1, "a");
    let capture = Capture::start(&lan, &["-w", "-", "--count", "3"]);
    (0..3).for_each(|_| a.send(&arp(1)));
    let ended = capture.end();
    assert!(ended.stdout.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]));
    let read = tshark(&["-r", "-"], &ended.stdout);
    assert_eq!(read.matches("Who has 10.0.0.99").count(), 3, "{read}");
}

fn only_the_first_bytes_are_kept_if_asked() {
    let lan = Lan::new();
    let (mut a, _b) = (lan.station(1, "a"), lan.station(2, "b"));
    let file = lan.file("lan0.pcapng");
    let capture = Capture::start(&lan, &["-w", &file, "--count", "1", "--snaplen", "61"]);
    a.send(&udp(1, 2, 1000));
    capture.end();
    let lengths = tshark_fields(&file, &[], &["frame.cap_len", "frame.len"]);
    assert_eq!(lengths, [["61", "1042"]]);
}

fn a_size_is_kept_to_and_the_file_is_whole() {
    let lan = Lan::new();
    let (mut a, _b) = (lan.station(1, "a"), lan.station(2, "b"));
    let file = lan.file("lan0.pcapng");
    let capture = Capture::start(&lan, &["-w", &file, "--size", "20K"]);
    for _ in 0..30 {
        a.send(&udp(1, 2, 1000));
    }
    let ended = capture.end();
    let size = std::fs::metadata(&file).unwrap().len();
    assert!((18 << 10..=20 << 10).contains(&size), "{size}");
    let packets = tshark_fields(&file, &[], &["frame.len"]);
    let expected = format!(
        "{} packets captured, none dropped; the size asked for is full",
        packets.len()
    );
    assert_eq!(ended.account(), expected);
}

fn a_file_that_can_grow_no_more_ends_with_a_whole_packet() {
    let lan = Lan::new();
    let (mut a, mut b) = (lan.station(1, "a"), lan.station(2, "b"));
    let file = lan.file("lan0.pcapng");
    // As a full disk would, in the middle of a block.
    let capture = Capture::start_limited(&lan, 20 << 10, &["-w", &file]);
    for _ in 0..40 {
        a.send(&udp(1, 2, 1000));
        b.receive();
    }
    let said = capture.fail();
    assert!(
        said.contains("Can't write capture to") && said.contains("File too large"),
        "{said}"
    );
    // One sentence, and a file without half a block.
    assert_eq!(said.lines().count(), 1);
    tshark_fields(&file, &[], &["frame.len"]);
}

fn a_ring_of_files_keeps_the_newest_and_each_is_whole() {
    let lan = Lan::new();
    let (mut a, mut b) = (lan.station(1, "a"), lan.station(2, "b"));
    let pattern = lan.file("ring.pcapng");
    let options = ["-w", &pattern, "--file-size", "512K", "--files", "2"];
    let capture = Capture::start(&lan, &options);
    for sent in 1..=2000 {
        a.send(&udp(1, 2, 1000));
        b.receive();
        // No more than fits its ring.
        if sent % 200 == 0 {
            capture.wait_for_frames(&lan, sent);
        }
    }
    let ended = capture.interrupt();
    assert!(
        ended.account().starts_with("2000 packets captured"),
        "{}",
        ended.account()
    );
    let mut files: Vec<_> = std::fs::read_dir(lan.folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("ring"))
        .collect();
    files.sort();
    // 2000 packets of a little over 1 KiB are between four and five half mebibytes.
    assert_eq!(files, ["ring-00004.pcapng", "ring-00005.pcapng"]);
    for name in files {
        let file = lan.file(&name);
        assert!(std::fs::metadata(&file).unwrap().len() <= 512 << 10);
        let names = tshark_fields(&file, &[], &["frame.interface_name"]);
        assert!(!names.is_empty() && names.iter().all(|name| name[0] == "slot0 a"));
    }
}

/// Sends while the capture is stopped, so that it loses what its ring and the log do not hold.
fn lose(lan: &Lan, capture: &Capture, unicast: usize, broadcast: usize) -> Station {
    let (mut a, mut b) = (lan.station(1, "a"), lan.station(2, "b"));
    capture.while_stopped(|| {
        for _ in 0..unicast {
            a.send(&udp(1, 2, 1000));
            b.receive();
        }
        for _ in 0..broadcast {
            a.send(&ether(BROADCAST, mac(1), 1000));
        }
    });
    // Copies that could not be made count at the sender, who must stay to be asked.
    capture.wait_for_frames(lan, (unicast + broadcast) as u64 - a.copies_lost());
    a
}

fn every_frame_is_captured_or_counted_as_dropped() {
    let lan = Lan::new();
    let file = lan.file("lan0.pcapng");
    let capture = Capture::start(&lan, &["-w", &file, "--json"]);
    let _a = lose(&lan, &capture, 3000, 2000);
    let ended = capture.interrupt();
    let account: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    let dropped = &account["dropped"];
    assert!(
        number(&dropped["copy-full"]) > 0 && number(&dropped["lapped"]) > 0,
        "{account}"
    );
    let all =
        number(&account["packets"]) + number(&dropped["copy-full"]) + number(&dropped["lapped"]);
    assert_eq!(all, 3000 + 2000, "{account}");
}

fn what_was_lost_stands_in_the_file() {
    let lan = Lan::new();
    let file = lan.file("lan0.pcapng");
    let capture = Capture::start(&lan, &["-w", &file]);
    let _a = lose(&lan, &capture, 3000, 2000);
    let ended = capture.interrupt();
    // tshark shows the blocks of a capture file as a protocol of their own.
    let blocks = tshark(
        &[
            "-X",
            "read_format:MIME Files Format",
            "-O",
            "file-pcapng",
            "-r",
            &file,
        ],
        &[],
    );
    let drops: Vec<u64> = blocks
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("Option: Number of Dropped Packets = ")
        })
        .map(|number| number.parse().unwrap())
        .collect();
    // Both kinds stand with who sent them; there is nobody else.
    let [of_a] = drops[..] else {
        panic!("{drops:?} in\n{blocks}");
    };
    let account = ended.account();
    let lost = |kind: &str| -> u64 {
        let before = account.split(kind).next().unwrap();
        before.rsplit([' ', '(']).next().unwrap().parse().unwrap()
    };
    let (lapped, full) = (lost(" lapped"), lost(" copy-full"));
    assert_eq!(of_a, lapped + full, "{account}");
    let told = format!("{of_a} dropped ({lapped} lapped, {full} copy-full)");
    assert!(
        ended.account().ends_with(&told),
        "{} or {told}",
        ended.account()
    );
}

fn it_ends_by_itself_when_it_has_what_was_asked() {
    let lan = Lan::new();
    let (mut a, _b) = (lan.station(1, "a"), lan.station(2, "b"));
    let capture = Capture::start(&lan, &["--count", "2"]);
    // Cut to three, of which two are wanted.
    let (header, frame) = tso(1, 2, 4000, 1460);
    a.send_with(&header, &frame);
    let ended = capture.end();
    assert_eq!(
        ended.account(),
        "2 packets captured, none dropped; that is the count asked for"
    );
    assert_eq!(ended.lines().len(), 2);
    let ended = Capture::start(&lan, &["--duration", "50ms"]).end();
    assert_eq!(
        ended.account(),
        "0 packets captured, none dropped; the time asked for is over"
    );
}

fn a_pipe_shows_packets_before_the_capture_ends() {
    let lan = Lan::new();
    let mut a = lan.station(1, "a");
    let mut capture = Capture::start(&lan, &["-w", "-"]);
    // Header of the section, at once.
    assert_eq!(capture.read(4), [0x0a, 0x0d, 0x0d, 0x0a]);
    a.send(&arp(1));
    let sent = arp(1);
    let mut seen = Vec::new();
    while !seen.windows(sent.len()).any(|window| window == sent) {
        seen.extend(capture.read(1));
    }
    capture.interrupt();
}

fn only_the_slots_asked_for_are_heard() {
    let lan = Lan::new();
    let (mut a, mut b) = (lan.station(1, "a"), lan.station(2, "b"));
    let mut c = lan.station(3, "c");
    let capture = Capture::start(&lan, &["--slot", "1", "--slot", "2", "--count", "2"]);
    a.send(&arp(1));
    b.send(&arp(2));
    a.send(&udp(1, 2, 10));
    c.send(&udp(3, 1, 10));
    let mut lines = capture.end().lines();
    lines.sort_by_key(|line| line.contains("slot2"));
    assert!(
        lines[0].contains(" slot1 02:00:00:00:00:02 > "),
        "{lines:?}"
    );
    assert!(
        lines[1].contains(" slot2 02:00:00:00:00:03 > "),
        "{lines:?}"
    );
}

fn a_line_tells_what_a_packet_is() {
    let lan = Lan::new();
    let (mut a, _b) = (lan.station(1, "a"), lan.station(2, "b"));
    let capture = Capture::start(&lan, &["--count", "1"]);
    a.send(&tcp(1, 2, 5));
    let lines = capture.end().lines();
    let (time, rest) = lines[0].split_once(' ').unwrap();
    assert_eq!(
        rest,
        "slot0 02:00:00:00:00:01 > 02:00:00:00:00:02, length 59: \
         10.0.0.1.40000 > 10.0.0.2.80: TCP [P.], seq 1, ack 1, win 500, length 5"
    );
    let digits = time
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c });
    assert_eq!(digits.collect::<String>(), "00:00:00.000000");
}

fn json_lines_tell_what_a_packet_is() {
    let lan = Lan::new();
    let (mut a, _b) = (lan.station(1, "guest-a"), lan.station(2, "b"));
    let capture = Capture::start(&lan, &["--count", "2", "--json"]);
    a.send(&tcp(1, 2, 5));
    a.send(&arp(1));
    let lines: Vec<serde_json::Value> = capture
        .end()
        .lines()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["source"], "slot0 guest-a");
    assert_eq!(lines[0]["ip"]["tcp"]["destination_port"], 80);
    assert_eq!(lines[1]["arp"]["target"], "10.0.0.99");
    assert!(lines[0]["time"].as_str().unwrap().ends_with('Z'));
}

fn a_hostile_name_is_made_printable() {
    let lan = Lan::new();
    let mut a = lan.station(1, "\u{1b}[31mevil\n");
    let capture = Capture::start(&lan, &["--count", "1", "--json"]);
    a.send(&arp(1));
    let line: serde_json::Value = serde_json::from_str(&capture.end().lines()[0]).unwrap();
    assert_eq!(line["source"], "slot0 ?[31mevil?");
}

fn it_ends_when_its_reader_goes() {
    let lan = Lan::new();
    for options in [&[][..], &["-w", "-"]] {
        let mut capture = Capture::start(&lan, options);
        capture.stop_reading();
        // Though there is nothing to write.
        let ended = capture.end();
        assert_eq!(
            ended.account(),
            "0 packets captured, none dropped; its reader has gone"
        );
    }
}

fn what_cannot_be_done_is_said_and_changes_nothing() {
    let lan = Lan::with_slots(2);
    let old = lan.file("old.pcapng");
    std::fs::write(&old, "of before").unwrap();
    let (segment, missing) = (lan.name(), lan.file("missing"));
    let says = |status: i32, arguments: &[&str], expected: &str| {
        let message = refused(status, arguments);
        assert!(message.contains(expected), "{message}");
        if status == 1 {
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    };
    says(1, &[&missing, "-w", &old], "missing");
    says(
        1,
        &[&segment, "--slot", "2", "-w", &old],
        "has slots 0 to 1, and no slot 2",
    );
    let nowhere = lan.file("no/folder/x.pcapng");
    says(1, &[&segment, "-w", &nowhere], "No such file or directory");
    says(1, &[&segment, "-w", lan.folder()], "Is a directory");
    says(
        2,
        &[&segment, "-w", "-", "--file-size", "1M"],
        "not standard output",
    );
    says(
        2,
        &[&segment, "-w", &old, "--file-size", "1K"],
        "at least 512K",
    );
    says(2, &[&segment, "--files", "2"], "--file-size");
    says(2, &[&segment, "--count", "0"], "--count");
    let _both = (lan.station(1, "a"), lan.station(2, "b"));
    says(1, &[&segment, "-w", &old], "All 2 slots");
    let new = lan.file("new.pcapng");
    says(1, &[&segment, "-w", &new], "All 2 slots");
    assert_eq!(std::fs::read(&old).unwrap(), b"of before");
    assert!(!std::fs::exists(&new).unwrap());
}
