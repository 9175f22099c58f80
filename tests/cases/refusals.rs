//! Claims about bad input to the launcher: one sentence that names the thing, an exit status
//! that tells a wrong command line (2) from a wrong world (1), and nothing half made.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use system_tests::ending::{self, refuses};
use system_tests::machine::{binary, image};
use system_tests::{Lab, Namespace, Need, claim};

fn main() {
    const NEEDS: &[Need] = &[Need::Guests];
    const ROOT: &[Need] = &[Need::Guests, Need::Root];
    const CAPLESS: &[Need] = &[Need::Guests, Need::Root, Need::Tool("setpriv")];
    system_tests::main(vec![
        claim(
            "a_wrong_command_line_is_refused_with_2",
            NEEDS,
            a_wrong_command_line,
        ),
        claim(
            "more_memory_than_the_host_has_is_refused",
            NEEDS,
            more_memory_than_there_is,
        ),
        claim("what_is_no_kernel_is_refused", NEEDS, what_is_no_kernel),
        claim(
            "an_initrd_that_cannot_be_used_is_refused",
            NEEDS,
            an_unusable_initrd,
        ),
        claim(
            "a_disk_that_cannot_be_used_is_refused",
            NEEDS,
            an_unusable_disk,
        ),
        claim(
            "a_disk_without_permission_is_refused",
            CAPLESS,
            a_disk_without_permission,
        ),
        claim(
            "a_file_that_is_no_sharenet_is_refused",
            NEEDS,
            a_file_that_is_no_sharenet,
        ),
        claim(
            "a_sharenet_without_a_free_slot_is_refused",
            NEEDS,
            a_sharenet_without_a_free_slot,
        ),
        claim(
            "a_filesystem_without_room_for_a_sharenet_is_told_of",
            ROOT,
            a_filesystem_without_room,
        ),
        claim(
            "a_missing_bridge_is_refused_and_leaves_no_tap",
            ROOT,
            a_missing_bridge,
        ),
        claim(
            "a_tap_without_permission_is_refused",
            CAPLESS,
            a_tap_without_permission,
        ),
        claim("a_missing_qemu_is_told_of", NEEDS, a_missing_qemu),
    ])
}

/// The launcher with these options, then memory and kernel of every test.
fn launcher(lab: &Lab, options: &[OsString]) -> Result<Command> {
    let mut command = lab.command(binary("launcher")?);
    command.args(options).arg("256").arg(&image()?.kernel);
    Ok(command)
}

/// `--name=value`
fn option(name: &str, value: impl AsRef<Path>) -> OsString {
    let mut option = OsString::from(format!("--{name}="));
    option.push(value.as_ref());
    option
}

/// Runs `command`, which must refuse with 1 and leave the lab's segments as they are.
fn refused(lab: &Lab, command: &mut Command, named: &[&str]) -> Result<Output> {
    let before = segments(lab)?;
    let output = ending::of(command)?;
    refuses(&output, 1, named).with_context(|| format!("{command:?}"))?;
    ensure!(
        segments(lab)? == before,
        "{command:?} has made or removed a segment: {:?}",
        segments(lab)?
    );
    Ok(output)
}

fn segments(lab: &Lab) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(lab.path("segments"))? {
        names.push(entry?.file_name());
    }
    names.sort();
    Ok(names)
}

fn a_wrong_command_line() -> Result<()> {
    let lab = Lab::new()?;
    let kernel = image()?.kernel.display().to_string();
    for (line, named) in [
        ("0 KERNEL", "0"),
        ("-5 KERNEL", "-5"),
        ("much KERNEL", "much"),
        ("256", ""),
        ("", ""),
        ("--frobnicate 256 KERNEL", "--frobnicate"),
        ("--tunnet=300.1.2.3 256 KERNEL", "300.1.2.3"),
        ("--tunnet=bridge: 256 KERNEL", "bridge"),
        ("--sharenet= 256 KERNEL", "sharenet"),
        ("--engine=abacus 256 KERNEL", "abacus"),
    ] {
        let mut command = lab.command(binary("launcher")?);
        command.args(
            line.split_whitespace()
                .map(|word| if word == "KERNEL" { &kernel } else { word }),
        );
        let output = ending::of(&mut command)?;
        refuses(&output, 2, &[named]).with_context(|| format!("launcher {line}"))?;
    }
    Ok(())
}

fn more_memory_than_there_is() -> Result<()> {
    let lab = Lab::new()?;
    let mut command = lab.command(binary("launcher")?);
    command
        .arg("--sharenet=new0")
        .arg("999999999")
        .arg(&image()?.kernel);
    refused(&lab, &mut command, &["999999999"])?;
    Ok(())
}

fn what_is_no_kernel() -> Result<()> {
    let lab = Lab::new()?;
    let kernel = fs::read(image()?.kernel).context("Reading the kernel")?;
    let program = fs::read(binary("launcher")?).context("Reading a program")?;
    let files: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("letter", b"Dear reader,\n"),
        ("cut-bzimage", &kernel[..1 << 20]),
        ("cut-elf", &program[..300]),
        ("program", &program),
    ];
    for (name, bytes) in files {
        fs::write(lab.path(name), bytes)?;
    }
    for name in [
        "empty",
        "letter",
        "cut-bzimage",
        "cut-elf",
        "program",
        "missing",
        "tmp",
    ] {
        let mut command = lab.command(binary("launcher")?);
        command
            .arg("--sharenet=new0")
            .arg("256")
            .arg(lab.path(name));
        refused(&lab, &mut command, &[name])?;
    }
    Ok(())
}

fn an_unusable_initrd() -> Result<()> {
    let lab = Lab::new()?;
    File::create(lab.path("huge"))?.set_len(300 << 20)?;
    for name in ["missing", "tmp", "huge"] {
        let mut command = launcher(
            &lab,
            &["--sharenet=new0".into(), option("initrd", lab.path(name))],
        )?;
        refused(&lab, &mut command, &[name])?;
    }
    Ok(())
}

fn an_unusable_disk() -> Result<()> {
    let lab = Lab::new()?;
    fs::write(lab.path("empty"), "")?;
    fs::write(lab.path("odd"), [0; 1000])?;
    for name in ["missing", "tmp", "empty", "odd"] {
        let mut command = launcher(
            &lab,
            &["--sharenet=new0".into(), option("block", lab.path(name))],
        )?;
        refused(&lab, &mut command, &[name])?;
    }
    Ok(())
}

/// `command` as root is without what makes it root.
fn without_capabilities(command: &Command) -> Command {
    let mut capless = Command::new("setpriv");
    capless
        .args(["--bounding-set=-all", "--inh-caps=-all", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            capless.env(name, value);
        }
    }
    capless
}

fn a_disk_without_permission() -> Result<()> {
    let lab = Lab::new()?;
    let disk = lab.path("private");
    fs::write(&disk, [0; 1024])?;
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o600))?;
    chown(&disk, Some(65534), Some(65534)).context("Giving the disk to nobody")?;
    let command = launcher(&lab, &[option("block", &disk)])?;
    refused(
        &lab,
        &mut without_capabilities(&command),
        &["private", "ermission"],
    )?;
    Ok(())
}

fn a_file_that_is_no_sharenet() -> Result<()> {
    let lab = Lab::new()?;
    for name in ["truncated", "newer"] {
        lab.lgswitch(&["create", name])?;
    }
    let open = |name: &str| fs::OpenOptions::new().write(true).open(lab.segment(name));
    open("truncated")?.set_len(1 << 20)?;
    // In the second page: a magic of eight bytes, then the version.
    open("newer")?.write_all_at(&77_u32.to_le_bytes(), 4096 + 8)?;
    fs::write(lab.segment("letter"), "Dear reader,\n".repeat(1000))?;
    for (name, reason) in [
        ("truncated", "truncated"),
        ("newer", "77"),
        ("letter", "not a sharenet"),
    ] {
        let mut command = launcher(&lab, &["--sharenet=new0".into(), option("sharenet", name)])?;
        refused(&lab, &mut command, &[name, reason])?;
    }
    Ok(())
}

fn a_sharenet_without_a_free_slot() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0", "--slots", "2"])?;
    let options = ["--sharenet=lan0"; 3].map(OsString::from);
    refused(&lab, &mut launcher(&lab, &options)?, &["lan0", "2 slots"])?;
    ensure!(
        system_tests::inspect::held_slots(&lab.inspect("lan0")?).is_empty(),
        "A slot is still held"
    );
    Ok(())
}

fn a_filesystem_without_room() -> Result<()> {
    let lab = Lab::new()?;
    fs::create_dir(lab.path("full"))?;
    let script = "mount -t tmpfs -o size=8k full \"$1\"; shift; \"$@\"; status=$?; ls -A \"$LGSWITCH_DIR\"; exit $status";
    let inner = launcher(&lab, &["--sharenet=lan0".into()])?;
    let mut command = lab.command("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(lab.path("full"))
        .arg(inner.get_program())
        .args(inner.get_args())
        .env("LGSWITCH_DIR", lab.path("full"));
    refused(&lab, &mut command, &["lan0", "room"])?;
    Ok(())
}

fn a_missing_bridge() -> Result<()> {
    let lab = Lab::new()?;
    let host = Namespace::new()?;
    host.run("ip link add veth0 type veth peer name veth1")?;
    for bridge in ["br9", "veth0"] {
        let options = [
            "--tunnet=192.168.19.1".into(),
            format!("--tunnet=bridge:{bridge}").into(),
        ];
        let inner = launcher(&lab, &options)?;
        let mut command = host.command(inner.get_program());
        command
            .args(inner.get_args())
            .env("LGSWITCH_DIR", lab.path("segments"));
        refused(&lab, &mut command, &[bridge])?;
        ensure!(
            host.link_names()?.len() == 2,
            "It left a tap: {:?}",
            host.link_names()?
        );
    }
    Ok(())
}

fn a_tap_without_permission() -> Result<()> {
    let lab = Lab::new()?;
    let command = launcher(
        &lab,
        &["--sharenet=new0".into(), "--tunnet=192.168.19.1".into()],
    )?;
    refused(&lab, &mut without_capabilities(&command), &["tap"])?;
    Ok(())
}

fn a_missing_qemu() -> Result<()> {
    let lab = Lab::new()?;
    let mut command = launcher(&lab, &["--engine=qemu".into(), "--sharenet=new0".into()])?;
    command.env("PATH", lab.path("tmp"));
    refused(&lab, &mut command, &["qemu"])?;
    Ok(())
}
