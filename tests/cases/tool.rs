//! Claims about `lgswitch`, the tool.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Child, ChildStdin, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::ending::{self, refuses};
use system_tests::inspect::{held, held_slots};
use system_tests::machine::binary;
use system_tests::{Lab, Namespace, Need, claim};

fn main() {
    const NEEDS: &[Need] = &[Need::Binaries];
    const ROOT: &[Need] = &[Need::Binaries, Need::Root];
    system_tests::main(vec![
        claim(
            "creating_what_exists_fails_and_changes_nothing",
            NEEDS,
            creating_what_exists_fails,
        ),
        claim(
            "if_missing_accepts_what_is_as_asked",
            NEEDS,
            if_missing_accepts_what_is_as_asked,
        ),
        claim(
            "a_new_segment_is_sparse_and_its_owners_alone",
            NEEDS,
            a_new_segment_is_sparse,
        ),
        claim(
            "rm_refuses_while_a_slot_is_held_unless_forced",
            NEEDS,
            rm_refuses_while_a_slot_is_held,
        ),
        claim(
            "rm_removes_nothing_that_is_no_segment",
            NEEDS,
            rm_removes_nothing_that_is_no_segment,
        ),
        claim(
            "ls_lists_segments_and_says_what_is_wrong_with_others",
            NEEDS,
            ls_lists_segments,
        ),
        claim(
            "a_one_page_file_of_2007_is_shown_as_it_is",
            NEEDS,
            a_one_page_file_is_shown,
        ),
        claim(
            "a_one_page_file_of_2007_is_grown_by_who_joins",
            NEEDS,
            a_one_page_file_is_grown,
        ),
        claim(
            "a_file_that_cannot_be_used_is_refused_by_name",
            NEEDS,
            unusable_files_are_refused,
        ),
        claim(
            "a_full_filesystem_gets_no_half_made_segment",
            ROOT,
            a_full_filesystem,
        ),
        claim(
            "when_all_slots_are_taken_the_next_is_told_so",
            NEEDS,
            all_slots_taken,
        ),
        claim(
            "a_held_slot_is_refused_with_its_holder",
            NEEDS,
            a_held_slot_is_refused,
        ),
        claim(
            "lock_ends_as_its_command_does",
            NEEDS,
            lock_ends_as_its_command_does,
        ),
        claim(
            "a_killed_lock_frees_its_slot_and_ends_its_command",
            NEEDS,
            a_killed_lock_frees_its_slot,
        ),
        claim(
            "a_wrong_command_line_ends_with_2",
            NEEDS,
            a_wrong_command_line,
        ),
        claim(
            "bridges_and_taps_are_what_the_kernel_shows",
            ROOT,
            bridges_and_taps,
        ),
    ])
}

/// Someone who holds slots of a segment until told to let go.
struct Holder {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Holder {
    fn of(lab: &Lab, segment: &str, slots: &[&str]) -> Result<Holder> {
        let mut command = lab.command(binary("lgswitch")?);
        command.args(["lock", segment]);
        for slot in slots {
            command.args(["--slot", slot]);
        }
        command.args(["--", "sh", "-c", "echo $LGSWITCH_SLOTS; exec cat"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("Running lgswitch lock")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("No stdout")?).read_line(&mut line)?;
        let stdin = child.stdin.take();
        let holder = Holder { child, stdin };
        ensure!(
            line == format!("{}\n", slots.join(",")),
            "It holds the slots {line}"
        );
        Ok(holder)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // Its command has read end of file; nothing can be done here if it is gone already.
        let _ = self.child.wait();
    }
}

fn creating_what_exists_fails() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    let before = lab.inspect("lan0")?;
    refuses(
        &lab.try_lgswitch(&["create", "lan0"])?,
        1,
        &["lan0", "exists"],
    )?;
    refuses(
        &lab.try_lgswitch(&["create", "lan0", "--mtu", "9000"])?,
        1,
        &["lan0", "exists"],
    )?;
    ensure!(
        lab.inspect("lan0")? == before,
        "It has changed: {}",
        lab.inspect("lan0")?
    );
    Ok(())
}

fn if_missing_accepts_what_is_as_asked() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0", "--if-missing", "--mtu", "9000"])?;
    let before = lab.inspect("lan0")?;
    ensure!(before["mtu"] == 9000, "{before}");
    lab.lgswitch(&["create", "lan0", "--if-missing"])?;
    lab.lgswitch(&["create", "lan0", "--if-missing", "--mtu", "9000"])?;
    refuses(
        &lab.try_lgswitch(&["create", "lan0", "--if-missing", "--mtu", "1500"])?,
        1,
        &["lan0", "9000"],
    )?;
    ensure!(
        lab.inspect("lan0")? == before,
        "It is another segment now: {}",
        lab.inspect("lan0")?
    );
    Ok(())
}

fn a_new_segment_is_sparse() -> Result<()> {
    let lab = Lab::new()?;
    // However generous the umask is.
    let output = lab
        .command("sh")
        .args(["-c", "umask 0; exec \"$0\" create lan0"])
        .arg(binary("lgswitch")?)
        .output()
        .context("Running lgswitch")?;
    ensure!(output.status.success(), "{output:?}");
    let file = fs::metadata(lab.segment("lan0"))?;
    ensure!(
        file.mode() & 0o7777 == 0o600,
        "Its mode is {:o}",
        file.mode() & 0o7777
    );
    ensure!(
        file.blocks() * 512 < 1 << 20,
        "It takes {} bytes",
        file.blocks() * 512
    );
    lab.lgswitch(&["create", "lan1", "--mode", "660"])?;
    ensure!(
        fs::metadata(lab.segment("lan1"))?.mode() & 0o7777 == 0o660,
        "--mode is not heeded"
    );
    Ok(())
}

fn rm_refuses_while_a_slot_is_held() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    let holder = Holder::of(&lab, "lan0", &["5"])?;
    refuses(&lab.try_lgswitch(&["rm", "lan0"])?, 1, &["lan0", "--force"])?;
    ensure!(lab.segment("lan0").exists(), "It is gone all the same");
    drop(holder);
    lab.lgswitch(&["rm", "lan0"])?;
    ensure!(!lab.segment("lan0").exists(), "It is still there");

    lab.lgswitch(&["create", "lan0"])?;
    let _holder = Holder::of(&lab, "lan0", &["5"])?;
    lab.lgswitch(&["rm", "--force", "lan0"])?;
    ensure!(!lab.segment("lan0").exists(), "It is still there");
    refuses(&lab.try_lgswitch(&["rm", "lan0"])?, 1, &["lan0"])
}

fn rm_removes_nothing_that_is_no_segment() -> Result<()> {
    let lab = Lab::new()?;
    let letter = lab.segment("letter");
    fs::write(&letter, "Dear reader,\n")?;
    for arguments in [&["rm", "letter"][..], &["rm", "--force", "letter"]] {
        refuses(&lab.try_lgswitch(arguments)?, 1, &["letter"])?;
    }
    ensure!(
        fs::read_to_string(&letter)? == "Dear reader,\n",
        "It has changed"
    );
    Ok(())
}

fn ls_lists_segments() -> Result<()> {
    let lab = Lab::new()?;
    let empty: Value = serde_json::from_str(&lab.lgswitch(&["ls", "--json"])?)?;
    ensure!(
        empty == Value::Array(Vec::new()),
        "There is none, and it lists {empty}"
    );
    lab.lgswitch(&["create", "lan1", "--mtu", "9000"])?;
    lab.lgswitch(&["create", "lan0"])?;
    fs::write(lab.segment("letter"), "Dear reader,\n")?;
    let _holder = Holder::of(&lab, "lan1", &["0"])?;
    let list: Value = serde_json::from_str(&lab.lgswitch(&["ls", "--json"])?)?;
    ensure!(list[0]["name"] == "lan0" && list[0]["held"] == 0, "{list}");
    ensure!(
        list[1]["name"] == "lan1" && list[1]["held"] == 1 && list[1]["mtu"] == 9000,
        "{list}"
    );
    ensure!(
        list[2]["name"] == "letter" && list[2]["error"].is_string(),
        "{list}"
    );
    let text = lab.lgswitch(&["ls"])?;
    ensure!(
        ["lan0", "lan1", "letter"]
            .iter()
            .all(|name| text.contains(name)),
        "{text}"
    );
    Ok(())
}

/// The seed's file: one page with a MAC of six bytes for each slot, and this one in slot 3.
fn one_page_file(lab: &Lab) -> Result<()> {
    let mut page = vec![0; 4096];
    page[18..24].copy_from_slice(&[0x03, 0xaa, 0xbb, 0xcc, 0xdd, 0xee]);
    fs::write(lab.segment("old"), page).context("Writing a one-page file")
}

fn a_one_page_file_is_shown() -> Result<()> {
    let lab = Lab::new()?;
    one_page_file(&lab)?;
    let seen = lab.inspect("old")?;
    let port = &seen["ports"][0];
    // The multicast bit of the first byte is "wants every frame", and no part of the address.
    ensure!(
        port["slot"] == 3 && port["mac"] == "02:aa:bb:cc:dd:ee" && port["promiscuous"] == true,
        "{seen}"
    );
    ensure!(seen["version"] == 0 && port["held"] == false, "{seen}");
    ensure!(
        fs::metadata(lab.segment("old"))?.len() == 4096,
        "Looking at it has changed it"
    );
    Ok(())
}

fn a_one_page_file_is_grown() -> Result<()> {
    let lab = Lab::new()?;
    one_page_file(&lab)?;
    let _holder = Holder::of(&lab, "old", &["0"])?;
    ensure!(
        fs::metadata(lab.segment("old"))?.len() > 4096,
        "It has not grown"
    );
    let seen = lab.inspect("old")?;
    ensure!(seen["version"] == 1 && held_slots(&seen) == [0], "{seen}");
    let mut mac = [0; 6];
    fs::File::open(lab.segment("old"))?.read_exact_at(&mut mac, 18)?;
    ensure!(
        mac == [0x03, 0xaa, 0xbb, 0xcc, 0xdd, 0xee],
        "The old peer's entry is gone: {mac:02x?}"
    );
    Ok(())
}

fn unusable_files_are_refused() -> Result<()> {
    let lab = Lab::new()?;
    for name in ["truncated", "newer", "cut"] {
        lab.lgswitch(&["create", name])?;
    }
    let open = |name: &str| fs::OpenOptions::new().write(true).open(lab.segment(name));
    open("truncated")?.set_len(1 << 20)?;
    open("cut")?.set_len(5000)?;
    // In the second page: a magic of eight bytes, then the version.
    open("newer")?.write_all_at(&77_u32.to_le_bytes(), 4096 + 8)?;
    fs::write(lab.segment("letter"), "Dear reader,\n".repeat(1000))?;
    fs::write(lab.segment("empty"), "")?;
    fs::create_dir(lab.segment("folder"))?;
    for (name, reason) in [
        ("truncated", "truncated"),
        ("cut", "truncated"),
        ("newer", "77"),
        ("letter", "not a sharenet"),
        ("empty", ""),
        ("folder", ""),
        ("missing", "lgswitch create"),
    ] {
        for arguments in [&["inspect", name][..], &["lock", name, "--", "true"]] {
            let refused = refuses(&lab.try_lgswitch(arguments)?, 1, &[name, reason]);
            refused.with_context(|| format!("`lgswitch {}`", arguments.join(" ")))?;
        }
    }
    ensure!(
        !lab.segment("missing").exists(),
        "Looking for a segment has made one"
    );
    Ok(())
}

fn a_full_filesystem() -> Result<()> {
    let lab = Lab::new()?;
    fs::create_dir(lab.path("full"))?;
    // In a mount namespace of its own, which takes the filesystem along when it ends.
    let script = "mount -t tmpfs -o size=8k full \"$1\" && \"$2\" create \"$1/lan0\"; \
                  status=$?; ls -A \"$1\"; exit $status";
    let output = ending::of(
        lab.command("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(lab.path("full"))
            .arg(binary("lgswitch")?),
    )?;
    refuses(&output, 1, &["lan0", "room"])
}

fn all_slots_taken() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0", "--slots", "2"])?;
    let _holder = Holder::of(&lab, "lan0", &["0", "1"])?;
    refuses(
        &lab.try_lgswitch(&["lock", "lan0", "--", "true"])?,
        1,
        &["lan0", "2 slots"],
    )
}

fn a_held_slot_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    let holder = Holder::of(&lab, "lan0", &["3"])?;
    let seen = lab.inspect("lan0")?;
    ensure!(
        held(&seen).len() == 1 && held(&seen)[0]["pid"] == holder.child.id(),
        "{seen}"
    );
    ensure!(held(&seen)[0]["command"] == "lgswitch", "{seen}");
    let again = lab.try_lgswitch(&["lock", "lan0", "--slot", "3", "--", "true"])?;
    refuses(&again, 1, &["lan0", "3", &holder.child.id().to_string()])?;
    refuses(
        &lab.try_lgswitch(&["lock", "lan0", "--slot", "500", "--", "true"])?,
        1,
        &["lan0", "500"],
    )
}

fn lock_ends_as_its_command_does() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    for (script, status) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 128 + 15)] {
        let output = lab.try_lgswitch(&["lock", "lan0", "--", "sh", "-c", script])?;
        ensure!(
            output.status.code() == Some(status),
            "`{script}`: {output:?}"
        );
    }
    let missing = lab.try_lgswitch(&["lock", "lan0", "--", "/there/is/no/such/program"])?;
    refuses(&missing, 127, &["/there/is/no/such/program"])?;
    ensure!(
        held_slots(&lab.inspect("lan0")?).is_empty(),
        "A slot is still held"
    );
    Ok(())
}

fn a_killed_lock_frees_its_slot() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    let mut holder = Holder::of(&lab, "lan0", &["3"])?;
    let lock = system_tests::process::Process::find(holder.child.id()).context("It is gone")?;
    let command = lock.descendants()?;
    ensure!(!command.is_empty(), "It runs no command");
    holder.child.kill()?;
    holder.child.wait()?;
    ensure!(
        held_slots(&lab.inspect("lan0")?).is_empty(),
        "The slot is still held"
    );
    system_tests::process::gone(&command)
}

fn a_wrong_command_line() -> Result<()> {
    let lab = Lab::new()?;
    for arguments in [
        &["create"][..],
        &["create", "a b"],
        &["create", "lan0", "--mtu", "many"],
        &["create", "lan0", "--frobnicate"],
        &["lock", "lan0"],
        &["frobnicate"],
    ] {
        let output = lab.try_lgswitch(arguments)?;
        ensure!(
            output.status.code() == Some(2),
            "`lgswitch {}`: {output:?}",
            arguments.join(" ")
        );
        ensure!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{output:?}"
        );
    }
    Ok(())
}

fn bridges_and_taps() -> Result<()> {
    let host = Namespace::new()?;
    let tool = binary("lgswitch")?.display().to_string();
    let run = |arguments: &str| host.run(&format!("{tool} {arguments}"));

    run("bridge add br0 --address 10.3.0.1/24")?;
    run("tap add tap0 --bridge br0 --owner 4321 --vnet-hdr")?;
    let links = host.links()?;
    let link = |name: &str| {
        links
            .iter()
            .find(|link| link["ifname"] == name)
            .cloned()
            .unwrap_or_default()
    };
    ensure!(
        link("br0")["linkinfo"]["info_kind"] == "bridge",
        "{}",
        link("br0")
    );
    ensure!(
        link("br0")["addr_info"][0]["local"] == "10.3.0.1",
        "{}",
        link("br0")
    );
    let tap = &link("tap0")["linkinfo"]["info_data"];
    ensure!(
        link("tap0")["master"] == "br0" && tap["persist"] == true && tap["vnet_hdr"] == true,
        "{}",
        link("tap0")
    );

    for arguments in ["tap ls --json", "bridge ls --json"] {
        let _: Value =
            serde_json::from_str(&run(arguments)?).with_context(|| arguments.to_string())?;
    }
    run("bridge detach tap0")?;
    ensure!(
        host.links()?.iter().all(|link| link["master"].is_null()),
        "tap0 is still a port"
    );
    run("bridge attach br0 tap0")?;
    ensure!(
        host.links()?.iter().any(|link| link["master"] == "br0"),
        "tap0 is no port again"
    );
    run("tap del tap0")?;
    run("bridge del br0")?;
    ensure!(
        host.link_names()?.is_empty(),
        "Left: {:?}",
        host.link_names()?
    );

    // A failed set-up leaves nothing, and nothing of another kind is removed.
    let failed = ending::of(
        host.command(&tool)
            .args(["tap", "add", "tap1", "--bridge", "br9"]),
    )?;
    refuses(&failed, 1, &["br9"])?;
    ensure!(
        host.link_names()?.is_empty(),
        "Left: {:?}",
        host.link_names()?
    );
    host.run("ip link add veth0 type veth peer name veth1")?;
    refuses(
        &ending::of(host.command(&tool).args(["tap", "del", "veth0"]))?,
        1,
        &["veth0"],
    )?;
    ensure!(
        host.link_names()?.len() == 2,
        "It removed a link that is no tap"
    );
    Ok(())
}
