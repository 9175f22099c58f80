//! Claims about a guest's life: how it is asked to end, what becomes of it when it resets itself,
//! where its console is, and who is told what.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use system_tests::console::Console;
use system_tests::ending::{self, refuses};
use system_tests::machine::{binary, has_kvm, image};
use system_tests::wait::{PATIENCE, until, until_true};
use system_tests::{Claim, Guest, GuestBuilder, Lab, Need, claim, process};

fn main() {
    system_tests::main(claims())
}

/// Also run on hardware virtualisation, by `kvm.rs`.
pub fn claims() -> Vec<Claim> {
    const NEEDS: &[Need] = &[Need::Guests];
    const SHELL: &[Need] = &[Need::Guests, Need::Tool("sh")];
    vec![
        claim(
            "a_signal_presses_the_power_button_and_a_guest_that_heeds_it_ends_with_0",
            SHELL,
            the_power_button,
        ),
        claim(
            "a_guest_that_does_not_heed_it_is_ended_after_the_grace",
            NEEDS,
            the_grace,
        ),
        claim("a_second_signal_ends_it_at_once", NEEDS, a_second_signal),
        claim(
            "a_guest_that_reboots_starts_again_and_one_that_panics_ends",
            SHELL,
            a_reboot,
        ),
        claim("a_guest_has_the_processors_it_was_given", NEEDS, processors),
        claim(
            "a_console_on_a_socket_serves_one_client_after_the_other",
            NEEDS,
            a_console_on_a_socket,
        ),
        claim(
            "a_console_on_a_pseudo_terminal_is_named_on_stdout",
            NEEDS,
            a_console_on_a_pseudo_terminal,
        ),
        claim(
            "a_console_in_a_file_and_a_log_have_all_the_guest_says",
            NEEDS,
            a_console_in_a_file,
        ),
        claim("bad_wishes_are_refused_by_name", SHELL, bad_wishes),
        claim("a_dry_run_tells_all_and_makes_nothing", NEEDS, a_dry_run),
    ]
}

/// A guest's launcher with its status on descriptor 3, which is this file.
fn with_status(lab: &Lab, guest: GuestBuilder<'_>, name: &str) -> Result<Guest> {
    let mut command = guest.option("--status-fd=3").command_after(&[
        "sh",
        "-c",
        "exec \"$@\" 3>>\"$STATUS\"",
        "sh",
    ])?;
    command
        .env("STATUS", lab.path("status"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("Running the launcher")?;
    let console = Console::new(
        child.stdin.take().context("No stdin")?,
        child.stdout.take().context("No stdout")?,
    );
    let errors = child.stderr.take().context("No stderr")?;
    Ok(Guest::new(name, child, console, errors))
}

/// What was told so far.
fn events(lab: &Lab) -> Result<Vec<Value>> {
    let text = fs::read_to_string(lab.path("status")).context("Reading the status")?;
    // The last line may be on its way.
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("No JSON: {line}")))
        .collect()
}

fn names(events: &[Value]) -> Vec<&str> {
    let mut names: Vec<_> = events
        .iter()
        .filter_map(|event| event["event"].as_str())
        .collect();
    // A firmware that resets the machine once more starts the guest twice.
    names.dedup();
    names
}

fn the_power_button() -> Result<()> {
    let lab = Lab::new()?;
    let builder = lab
        .guest("guest")
        .option("--ready=guest:/root# ")
        .option(format!("--pidfile={}", lab.path("pid").display()));
    let mut guest = with_status(&lab, builder, "guest")?;
    guest.booted()?;
    ensure!(
        fs::read_to_string(lab.path("pid"))? == format!("{}\n", guest.pid()),
        "The pidfile does not hold {}",
        guest.pid()
    );
    let processes = guest.processes()?;
    guest.signal(Signal::SIGTERM)?;
    let status = guest.ends()?;
    ensure!(
        status.code() == Some(0) && guest.errors().is_empty(),
        "It ended with {status}: {}",
        guest.errors()
    );
    let transcript = guest.console.transcript();
    ensure!(
        transcript.contains("Power down"),
        "The guest did not power off by itself:\n{transcript}"
    );
    ensure!(!lab.path("pid").exists(), "The pidfile is left");
    process::gone(&processes)?;

    let events = events(&lab)?;
    ensure!(
        names(&events) == ["created", "running", "ready", "ended"],
        "{events:?}"
    );
    ensure!(
        events.iter().all(|event| event["pid"] == guest.pid()),
        "{events:?}"
    );
    let times: Vec<_> = events.iter().filter_map(|e| e["time"].as_f64()).collect();
    ensure!(times.len() == 4 && times.is_sorted(), "{events:?}");
    let engine = if has_kvm() { "kvm" } else { "qemu" };
    ensure!(events[0]["engine"] == engine, "{events:?}");
    ensure!(events[3]["status"] == 0, "{events:?}");
    Ok(())
}

/// A guest that does not listen to its power button.
fn deaf(lab: &Lab, grace: u32) -> Result<Guest> {
    let mut guest = lab
        .guest("deaf")
        .option(format!("--grace={grace}"))
        .boot()?;
    guest.succeeds("killall acpid")?;
    Ok(guest)
}

fn the_grace() -> Result<()> {
    let lab = Lab::new()?;
    let mut guest = deaf(&lab, 2)?;
    guest.signal(Signal::SIGTERM)?;
    // It still runs: nothing but its button was pressed.
    guest.succeeds("true")?;
    let status = guest.ends()?;
    ensure!(
        status.code() == Some(143) && guest.errors().contains("SIGTERM"),
        "It ended with {status}: {}",
        guest.errors()
    );
    Ok(())
}

fn a_second_signal() -> Result<()> {
    let lab = Lab::new()?;
    // Far longer than this test waits.
    let mut guest = deaf(&lab, 3600)?;
    guest.signal(Signal::SIGINT)?;
    guest.succeeds("true")?;
    guest.signal(Signal::SIGTERM)?;
    let status = guest.ends()?;
    ensure!(
        status.code() == Some(143),
        "It ended with {status}: {}",
        guest.errors()
    );
    Ok(())
}

fn a_reboot() -> Result<()> {
    let lab = Lab::new()?;
    let builder = lab
        .guest("guest")
        .option("--on-reset=reboot")
        .option("--sharenet=lan0")
        .option("--ready=guest:/root# ");
    let mut guest = with_status(&lab, builder, "guest")?;
    guest.booted()?;
    guest.succeeds("touch /tmp/before")?;
    let mac = guest.mac("eth0")?;
    guest.console.send(b"reboot -f\n")?;
    guest.booted()?;
    guest.fails("test -e /tmp/before")?;
    ensure!(guest.mac("eth0")? == mac, "It has another network card");
    guest.console.send(b"echo c >/proc/sysrq-trigger\n")?;
    let (status, errors) = (guest.ends()?, guest.errors());
    ensure!(
        status.code() == Some(1)
            && errors.contains("panicked")
            && errors.trim().lines().count() == 1,
        "It ended with {status}: {errors}"
    );
    let events = events(&lab)?;
    let told = [
        "created", "running", "ready", "running", "ready", "oops", "ended",
    ];
    ensure!(names(&events) == told, "{events:?}");
    let oops = &events[events.len() - 2]["reason"];
    ensure!(
        oops.as_str().is_some_and(|reason| reason.contains("sysrq")),
        "{events:?}"
    );
    Ok(())
}

fn processors() -> Result<()> {
    let lab = Lab::new()?;
    let mut guest = lab.guest("guest").option("--cpus=2").boot()?;
    ensure!(guest.succeeds("nproc")?.trim() == "2", "Not two processors");
    Ok(())
}

/// A launcher whose console is elsewhere: nothing on its stdin.
fn elsewhere(guest: &GuestBuilder<'_>) -> Result<Command> {
    let mut command = guest.command()?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

fn connect(path: &Path) -> Result<UnixStream> {
    let stream = until("the console's socket", PATIENCE, || {
        Ok(UnixStream::connect(path).ok())
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn a_console_on_a_socket() -> Result<()> {
    let lab = Lab::new()?;
    let path = lab.path("console");
    let builder = lab
        .guest("guest")
        .option(format!("--console=unix:{}", path.display()));
    let mut child = elsewhere(&builder)?
        .spawn()
        .context("Running the launcher")?;
    let errors = child.stderr.take().context("No stderr")?;
    let mut output = child.stdout.take().context("No stdout")?;
    let first = connect(&path)?;
    let console = Console::new(first.try_clone()?, first.try_clone()?);
    let mut guest = Guest::new("guest", child, console, errors);
    guest.booted()?;

    // A second one is told so, and is none of the first's business.
    let mut told = String::new();
    connect(&path)?.read_to_string(&mut told)?;
    ensure!(told.contains("somebody else"), "It was told: {told}");
    guest.succeeds("true")?;

    // Who goes away and comes back finds what was said meanwhile; the guest did not wait. More than
    // is kept is lost, and that is told.
    guest
        .console
        .start("sleep 1; seq 30000; echo the $((40+2))nd")?;
    first.shutdown(std::net::Shutdown::Both)?;
    std::thread::sleep(Duration::from_secs(4));
    let again = connect(&path)?;
    guest.console = Console::new(again.try_clone()?, again);
    let text = guest.console.expect("the 42nd", PATIENCE)?;
    ensure!(
        text.contains("bytes were not read in time") && text.ends_with("\n30000\n"),
        "It found: {text}"
    );
    guest.console.send(b"poweroff -f\n")?;
    let status = guest.ends()?;
    ensure!(
        status.code() == Some(0) && guest.errors().is_empty(),
        "It ended with {status}: {}",
        guest.errors()
    );
    ensure!(!path.exists(), "The socket is left");
    ensure!(
        guest.console.transcript().contains("Power down"),
        "The last words are missing: {}",
        guest.console.transcript()
    );
    let mut printed = String::new();
    output.read_to_string(&mut printed)?;
    ensure!(printed.is_empty(), "It printed on stdout: {printed}");
    Ok(())
}

fn a_console_on_a_pseudo_terminal() -> Result<()> {
    let lab = Lab::new()?;
    let builder = lab.guest("guest").option("--console=pty");
    let mut child = elsewhere(&builder)?
        .spawn()
        .context("Running the launcher")?;
    let errors = child.stderr.take().context("No stderr")?;
    let mut name = String::new();
    BufReader::new(child.stdout.take().context("No stdout")?).read_line(&mut name)?;
    let side = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(name.trim())
        .with_context(|| format!("Opening {name}"))?;
    let console = Console::new(side.try_clone()?, side);
    let mut guest = Guest::new("guest", child, console, errors);
    guest.booted()?;
    let text = guest.succeeds("seq 3000")?;
    ensure!(text.lines().count() == 3000, "Output was lost:\n{text}");
    let status = guest.power_off()?;
    ensure!(status.code() == Some(0), "It ended with {status}");
    until_true("the guest's last words", PATIENCE, || {
        Ok(guest.console.transcript().contains("Power down"))
    })
}

fn a_console_in_a_file() -> Result<()> {
    let lab = Lab::new()?;
    let (file, log) = (lab.path("console.txt"), lab.path("log.txt"));
    fs::write(&file, "before\n")?;
    fs::write(lab.path("typed"), "typed\n")?;
    let mut typed = File::open(lab.path("typed"))?;
    let builder = lab
        .guest("guest")
        .option(format!("--console=file:{}", file.display()))
        .option(format!("--log={}", log.display()))
        .kernel_argument("run=\"seq 1000; echo c >/proc/sysrq-trigger\"");
    let output = elsewhere(&builder)?
        .stdin(typed.try_clone()?)
        .output()
        .context("Running the launcher")?;
    ensure!(
        output.status.code() == Some(1) && output.stdout.is_empty(),
        "{output:?}"
    );
    ensure!(typed.stream_position()? == 0, "It has read its stdin");
    let numbers: String = (1..=1000).map(|n| format!("{n}\n")).collect();
    for path in [&file, &log] {
        let text = fs::read_to_string(path)?.replace('\r', "");
        ensure!(
            text.contains(&numbers) && text.contains("Kernel panic"),
            "{} has: {text}",
            path.display()
        );
    }
    ensure!(
        fs::read_to_string(&file)?.starts_with("before\n"),
        "What was in the file before is gone"
    );
    let log = fs::read_to_string(&log)?;
    let last = log.lines().last().unwrap_or_default();
    ensure!(
        String::from_utf8_lossy(&output.stderr).trim() == last
            && last.starts_with("launcher: The guest's kernel panicked"),
        "The log ends with: {last}"
    );
    Ok(())
}

/// The launcher by way of a shell that opens descriptor 3 as `redirection` says.
fn bad(lab: &Lab, options: &[String], redirection: &str) -> Result<Command> {
    let mut command = lab.command("sh");
    command
        .args(["-c", &format!("exec \"$@\" {redirection}"), "sh"])
        .arg(binary("launcher")?)
        .arg("--sharenet=new0")
        .args(options)
        .arg("256")
        .arg(&image()?.kernel)
        .current_dir(lab.path("tmp"));
    Ok(command)
}

fn bad_wishes() -> Result<()> {
    let lab = Lab::new()?;
    for option in [
        "cpus=0",
        "cpus=many",
        "on-reset=explode",
        "grace=soon",
        "console=tty",
        "console=unix:",
        "ready=",
        "status-fd=x",
        "log=",
        "pidfile=",
        "block=/dev/null,serial=much-too-long-a-number",
    ] {
        let output = ending::of(&mut bad(&lab, &[format!("--{option}")], "")?)?;
        let name = option.split('=').next().unwrap_or_default();
        refuses(&output, 2, &[&format!("--{name}")]).with_context(|| option.to_string())?;
    }

    fs::write(lab.path("tmp/letter"), "Dear reader,\n")?;
    let _listener = std::os::unix::net::UnixListener::bind(lab.path("tmp/taken"))?;
    let held = File::create(lab.path("tmp/held"))?;
    (&held).write_all(b"4711\n")?;
    let _held = nix::fcntl::Flock::lock(held, nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, error)| error)?;
    let long = "x".repeat(108);
    for (option, redirection, named) in [
        ("status-fd=3", "", &["--status-fd=3"][..]),
        ("status-fd=3", "3</dev/null", &["--status-fd=3", "reading"]),
        ("log=no/such/folder", "", &["no/such/folder"]),
        ("log=/dev", "", &["/dev", "no file"]),
        ("console=file:/dev/null", "", &["/dev/null", "no file"]),
        ("console=unix:letter", "", &["letter", "no socket"]),
        ("console=unix:taken", "", &["taken", "another"]),
        (&format!("console=unix:{long}"), "", &[&long, "107"]),
        ("pidfile=letter", "", &["letter", "no pidfile"]),
        ("pidfile=held", "", &["held", "4711"]),
        ("pidfile=no/such", "", &["no/such"]),
    ] {
        let output = ending::of(&mut bad(&lab, &[format!("--{option}")], redirection)?)?;
        refuses(&output, 1, named).with_context(|| option.to_string())?;
    }
    ensure!(
        fs::read_to_string(lab.path("tmp/letter"))? == "Dear reader,\n"
            && !lab.segment("new0").exists(),
        "Something was made or unmade"
    );
    // Whoever reads the status hears of a refusal as well.
    let options = ["--status-fd=3", "--pidfile=letter"].map(String::from);
    ending::of(&mut bad(&lab, &options, "3>status")?)?;
    let told: Value = serde_json::from_str(&fs::read_to_string(lab.path("tmp/status"))?)?;
    ensure!(told["event"] == "ended" && told["status"] == 1, "{told}");
    Ok(())
}

fn a_dry_run() -> Result<()> {
    let lab = Lab::new()?;
    let options = [
        "--dry-run",
        "--cpus=3",
        "--on-reset=reboot",
        "--grace=7",
        "--console=unix:console",
        "--log=log",
        "--ready=login:",
        "--status-fd=3",
        "--pidfile=pid",
    ];
    let output = ending::of(&mut bad(&lab, &options.map(String::from), "3>/dev/null")?)?;
    ensure!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    for line in [
        "cpus      3",
        "reset     starts it again",
        "grace     7 s",
        "console   the socket console",
        "log       log",
        "ready     'login:'",
        "status    file descriptor 3",
        "pidfile   pid",
    ] {
        ensure!(text.contains(line), "There is no `{line}` in: {text}");
    }
    ensure!(
        fs::read_dir(lab.path("tmp"))?.next().is_none(),
        "It made something"
    );
    Ok(())
}
