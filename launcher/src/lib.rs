//! **launcher** runs a guest and puts it on a wire: a sharenet, a tap, a bridge.
//!
//! # The tour
//!
//! A guest goes through these modules in this order:
//!
//! 1. [`cli`]: the command line, the seed's own, becomes a
//! 2. [`plan`]: `GuestPlan`, checked and printable (`--dry-run`): memory, kernel, devices in order.
//! 3. [`image`]: the kernel file is what it says it is (bzImage or ELF), whole, and fits in memory.
//! 4. [`engine`]: who plays the computer? A seam: [`engine::kvm`], [`engine::qemu`], [`engine::lguest`].
//! 5. [`backend`]: the host's side of each device (disk, network), and of the console. A backend
//!    knows the host and no guest interface; an engine wires it to one.
//! 6. [`stop`]: from here on somebody may want the guest to end: a signal, three ^C. Others may want
//!    to know of it: [`pidfile`], [`status`], [`transcript`].
//! 7. [`life`]: what the engine tells while the guest runs, and asks: does it start again?
//! 8. [`end`]: why it ended, and the exit status that says so. A [`fault`] of ours is a reason, too.
//!
//! [`error`] gathers what can go wrong on the way, [`report`] prints it in one line. [`seccomp`] is
//! what the kernel keeps our threads from, should a guest ever take one over.
//!
//! `live` is that journey in one page. Nothing is made before everything that can be checked
//! without making it has been; what is made goes away with this process, however it dies: a tap
//! is not persistent, a port is a file lock, QEMU is killed by the kernel when we are
//! (`PR_SET_PDEATHSIG`), sockets have no name by the time anything uses them.

pub mod backend;
pub mod cli;
pub mod end;
pub mod engine;
pub mod error;
pub mod fault;
mod footprint;
pub mod image;
pub mod life;
pub mod pidfile;
pub mod plan;
pub mod report;
#[cfg_attr(target_pointer_width = "32", path = "seccomp/none.rs")]
pub mod seccomp;
pub mod status;
pub mod stop;
pub mod transcript;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use backend::console::hearing::Ears;
use backend::console::place::Place;
use backend::console::size::ConsoleSize;
use backend::console::{self, Console, terminal};
use cli::{Invocation, Options};
use end::GuestEnd;
use engine::{Engine, Guest};
use error::Error;
use image::Image;
use life::Life;
use pidfile::PidFile;
use plan::console::ConsolePlan;
use plan::life::LifePlan;
use status::{Event, Status};
use stop::signals::Signals;
use stop::{Grace, StopCause};
use transcript::Transcript;

/// The whole program: reads the command line (the program's name first), runs the guest to its
/// end, tells in one sentence on stderr what went wrong, if anything, and gives the exit status.
///
/// Call it on the process's first thread: QEMU is tied to the life of the thread that starts it.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    footprint::keep_small();
    // A sharenet, or a guest's memory, that is cut short under us ends us with a sentence.
    lgswitch::sigbus::install(Some(restore_terminal));
    fault::watch();
    let outcome = cli::parse(args).and_then(|invocation| match invocation {
        Invocation::Text(text) => print(&text).map(|()| 0),
        Invocation::Run(options) => {
            report::let_libraries_speak(options.verbose);
            run(&options)
        }
    });
    terminal::restore();
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            report::say(&error);
            ExitCode::from(error.exit_status())
        }
    }
}

/// For a thread that touched what is gone: it was copying frames, and does not hold the terminal's lock.
extern "C" fn restore_terminal() {
    terminal::restore();
}

/// Does what a command line asks for. Gives the exit status: 0 for a guest that powered off or
/// rebooted, others in [`end`].
fn run(options: &Options) -> Result<u8, Error> {
    if options.dry_run {
        return dry_run(options).map(|()| 0);
    }
    // First of all, while there is no other thread, and every open descriptor is one that we were
    // given.
    let signals = Signals::block()?;
    let status = Status::open(options.plan.life.status)?;
    let end = fault::caught(|| live(options, signals, &status))
        .unwrap_or(Ok(GuestEnd::Stopped(StopCause::Fault)));
    let (exit_status, reason) = match &end {
        Ok(end) => (end.exit_status(), end.to_string()),
        Err(error) => (error.exit_status(), error.to_string()),
    };
    status.tell(Event::Ended {
        status: exit_status,
        reason: &reason,
    });
    let end = end?;
    if let Some(sentence) = end.complaint() {
        report::say(&sentence);
    } else if options.verbose && end != GuestEnd::PoweredOff {
        report::say(&end);
    }
    Ok(exit_status)
}

/// Checks what can be checked without making anything. Gives the kernel's image, the engine to run
/// it, and why that one, as the end of "because …".
fn prepare(options: &Options) -> Result<(Image, Box<dyn Engine>, &'static str), Error> {
    let plan = &options.plan;
    plan.memory.check_host()?;
    let image = Image::open(plan)?;
    let (engine, why) = engine::choose(options.engine, &image)?;
    engine.check(plan, &image)?;
    if options.verbose {
        report::say(&format_args!("engine {}, because {why}", engine.name()));
    }
    Ok((image, engine, why))
}

/// Checks the plan and prints it.
fn dry_run(options: &Options) -> Result<(), Error> {
    let plan = &options.plan;
    // It goes away with us, and is first for the same reason as in `run`.
    Status::open(plan.life.status)?;
    let (_, engine, why) = prepare(options)?;
    backend::check(plan)?;
    console::place::check(&plan.life.console)?;
    if let Some(path) = &plan.life.log {
        transcript::check(path)?;
    }
    if let Some(path) = &plan.life.pidfile {
        pidfile::check(path)?;
    }
    let arguments = plan.arguments.with_defaults(engine.default_arguments());
    let mut plan = plan.clone();
    plan.life.grace = grace(&plan.life, &*engine);
    print(&format!(
        "engine    {}, because {why}\n{plan}arguments {arguments}\n",
        engine.name()
    ))
}

/// How long the guest may take to power off when a signal asks for that: no time, if it can't be asked.
fn grace(life: &LifePlan, engine: &dyn Engine) -> Grace {
    match engine.has_power_button() {
        true => life.grace,
        false => Grace::NONE,
    }
}

/// Runs one guest from its plan to its end.
fn live(options: &Options, signals: Signals, status: &Status) -> Result<GuestEnd, Error> {
    let plan = &options.plan;
    let life = &plan.life;
    let log = life.log.as_deref().map(Transcript::open).transpose()?;
    if let Some(log) = &log {
        report::also_to(log.clone());
    }
    let (image, engine, _) = prepare(options)?;
    let _pidfile = life.pidfile.as_deref().map(PidFile::take).transpose()?;

    // From here on signals are requests.
    let (stop, requests) = stop::channel()?;
    fault::ends_guest(&stop)?;
    let size = ConsoleSize::unknown()?;
    let window = (life.console == ConsolePlan::Stdio).then(|| size.clone());
    signals.watch(&stop, grace(life, &*engine), window)?;
    let place = Place::open(&life.console)?;
    let devices = backend::open(plan, engine.interfaces(plan))?;
    if let Some(name) = place.name() {
        print(&format!("{name}\n"))?;
    }
    status.tell(Event::Created {
        engine: &engine.name().to_string(),
        console: place.name(),
    });
    let ears = Ears {
        ready: life.ready.clone(),
        log,
        status: status.clone(),
    };
    let (console, guest_end) = Console::start(place, ears, size.clone(), stop)?;
    let guest = Guest {
        plan,
        image: &image,
        devices,
        console: guest_end,
        size,
        stop: &requests,
        life: Life::new(life.on_reset, console.hearing(), status.clone()),
    };
    let outcome = engine.run(guest);

    // The engine is gone, so its end of the console is shut: what is left in between is printed,
    // and what the guest said last tells a panic from a reboot.
    let words = console.finish(&requests);
    let end = outcome?.explained_by(&words);
    // A guest that ended by itself meanwhile may have missed what we no longer did for it.
    Ok(match fault::met() {
        true => GuestEnd::Stopped(StopCause::Fault),
        false => end,
    })
}

/// Prints to stdout. A reader that has gone away is no trouble of ours.
fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::Print(error)),
        _ => Ok(()),
    }
}
