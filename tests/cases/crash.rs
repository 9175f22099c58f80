//! Claims about ends that nobody could prepare for, and about slots others hold.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use system_tests::inspect::{held, held_slots};
use system_tests::process;
use system_tests::wait::{PATIENCE, until_true};
use system_tests::{Lab, Namespace, Need, claim};

fn main() {
    system_tests::main(vec![
        claim(
            "a_killed_launcher_frees_its_slot_at_once",
            &[Need::Guests],
            a_killed_launcher_frees_its_slot,
        ),
        claim(
            "a_killed_launcher_leaves_nothing_behind",
            &[Need::Guests, Need::Root],
            a_killed_launcher_leaves_nothing,
        ),
        claim(
            "a_terminated_launcher_leaves_nothing_behind",
            &[Need::Guests, Need::Root],
            a_terminated_launcher,
        ),
        claim(
            "a_slot_a_foreign_program_locked_is_skipped",
            &[Need::Guests, PYTHON],
            a_foreign_lock_is_skipped,
        ),
        claim(
            "a_slot_held_by_lgswitch_lock_is_skipped",
            &[Need::Guests],
            a_lock_of_ours_is_skipped,
        ),
    ])
}

const PYTHON: Need = Need::Tool("python3");

fn a_killed_launcher_frees_its_slot() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    let guest = |name, number| {
        lab.guest(name)
            .option("--sharenet=lan0")
            .kernel_argument(&format!("eth0=10.0.0.{number}/24,fd00::{number}/64"))
            .start()
    };
    let mut first = guest("first", 1)?;
    until_true("the first guest's slot", PATIENCE, || {
        Ok(held_slots(&lab.inspect("lan0")?) == [0])
    })?;
    let mut second = guest("second", 2)?;
    first.booted()?;
    second.booted()?;
    second.pings("10.0.0.1")?;

    first.kill()?;
    // At once: not when somebody has noticed. Nothing is waited for here.
    let seen = lab.inspect("lan0")?;
    ensure!(
        held_slots(&seen) == [1],
        "Only the second guest's slot should be held: {seen}"
    );

    // The survivor sends to who is not there any more, and is none the worse.
    second.fails("/usr/bin/ping -n -c 3 -i 0.2 -W 1 10.0.0.1")?;
    let mut third = guest("third", 1)?;
    third.booted()?;
    let seen = lab.inspect("lan0")?;
    ensure!(
        held_slots(&seen) == [0, 1] && held(&seen)[0]["pid"] == third.pid(),
        "The slot is not taken: {seen}"
    );
    // It has another MAC than the first guest, under the same address.
    second.succeeds("ip neigh flush dev eth0")?;
    second.pings("10.0.0.1")?;
    third.pings("fd00::2")
}

/// A launcher with every kind of thing a launcher can leave behind; `end` ends it.
fn leaves_nothing(end: fn(&mut system_tests::Guest) -> Result<()>) -> Result<()> {
    let lab = Lab::new()?;
    let host = Namespace::new()?;
    host.run("ip link add br0 type bridge")?;
    host.run("ip link set br0 up")?;
    lab.lgswitch(&["create", "lan0"])?;
    let mut guest = lab
        .guest("doomed")
        .inside(&host)
        .option("--sharenet=lan0")
        .option("--tunnet=bridge:br0")
        .option("--tunnet=192.168.19.1")
        .boot()?;
    let ports: Vec<_> = host
        .links()?
        .into_iter()
        .filter(|link| link["master"] == "br0")
        .collect();
    ensure!(
        ports.len() == 1 && host.link_names()?.len() == 3,
        "The taps are not there: {:?}",
        host.links()?
    );
    let processes = guest.processes()?;

    end(&mut guest)?;
    ensure!(
        held_slots(&lab.inspect("lan0")?).is_empty(),
        "The slot is still held"
    );
    process::gone(&processes)?;
    until_true("the taps to go", PATIENCE, || {
        Ok(host.link_names()? == ["br0"])
    })?;
    let left: Vec<_> = walk(&lab.path(""))?
        .into_iter()
        .filter(|path| *path != lab.segment("lan0"))
        .collect();
    ensure!(left.is_empty(), "Files are left: {left:?}");
    Ok(())
}

/// Every file below `folder`.
fn walk(folder: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in
        std::fs::read_dir(folder).with_context(|| format!("Reading {}", folder.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(walk(&path)?)
        } else {
            files.push(path)
        }
    }
    Ok(files)
}

fn a_killed_launcher_leaves_nothing() -> Result<()> {
    leaves_nothing(system_tests::Guest::kill)
}

fn a_terminated_launcher() -> Result<()> {
    leaves_nothing(|guest| {
        guest.signal(nix::sys::signal::Signal::SIGTERM)?;
        let status = guest.ends()?;
        ensure!(
            status.success(),
            "The guest did not power off when asked: {status}"
        );
        Ok(())
    })
}

fn a_foreign_lock_is_skipped() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    // What the launcher of 2007 did: a plain fcntl(F_SETLK) write lock on the slot's byte.
    let script = "import fcntl, sys\n\
                  file = open(sys.argv[1], 'r+b')\n\
                  fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)\n\
                  print('locked', flush=True)\n\
                  sys.stdin.read()\n";
    let mut foreign = lab
        .command("python3")
        .args(["-c", script])
        .arg(lab.segment("lan0"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("Running python3")?;
    let mut line = String::new();
    BufReader::new(foreign.stdout.take().context("No stdout")?).read_line(&mut line)?;
    ensure!(line == "locked\n", "The foreign program has no lock");

    let _guest = lab.guest("second").option("--sharenet=lan0").boot()?;
    let seen = lab.inspect("lan0")?;
    ensure!(
        held_slots(&seen) == [0, 1],
        "Two slots should be held: {seen}"
    );
    ensure!(
        held(&seen)[0]["pid"] == foreign.id(),
        "Slot 0 is not the foreign program's: {seen}"
    );

    drop(foreign.stdin.take());
    foreign.wait()?;
    ensure!(
        held_slots(&lab.inspect("lan0")?) == [1],
        "The foreign program's slot is not free"
    );
    Ok(())
}

fn a_lock_of_ours_is_skipped() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    let mut holder = lab
        .command(system_tests::machine::binary("lgswitch")?)
        .args([
            "lock",
            "lan0",
            "--slot",
            "0",
            "--slot",
            "2",
            "--",
            "sh",
            "-c",
            "echo locked; read line; exit 7",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("Running lgswitch lock")?;
    let mut line = String::new();
    BufReader::new(holder.stdout.take().context("No stdout")?).read_line(&mut line)?;
    ensure!(
        line == "locked\n",
        "`lgswitch lock` does not run its command"
    );

    let _guest = lab
        .guest("twice")
        .option("--sharenet=lan0")
        .option("--sharenet=lan0")
        .boot()?;
    let seen = lab.inspect("lan0")?;
    ensure!(
        held_slots(&seen) == [0, 1, 2, 3],
        "The guest should have the slots 1 and 3: {seen}"
    );

    drop(holder.stdin.take());
    let status = holder.wait()?;
    ensure!(
        status.code() == Some(7),
        "`lgswitch lock` should end as its command did, not with {status}"
    );
    ensure!(
        held_slots(&lab.inspect("lan0")?) == [1, 3],
        "The locked slots are not free"
    );
    Ok(())
}
